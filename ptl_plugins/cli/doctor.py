"""`ptl doctor`: what is installed, what is missing, and the command that mends it."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(doctor)


def doctor() -> None:
    """Check versions, accelerators and frameworks; exit 1 when something required is wrong."""
    from ptl_plugins.doctor import examine

    findings = examine()
    for finding in findings:
        typer.echo(f"{finding.state:<8} {finding.name:<16} {finding.text}")
        if finding.remedy:
            typer.echo(f"{'':<25} -> {finding.remedy}")
    if any(finding.required and finding.state in ("missing", "wrong") for finding in findings):
        raise SystemExit(1)
