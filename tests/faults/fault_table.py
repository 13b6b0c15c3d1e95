"""The table of the faults that a test run really tried, written into a page.

`pytest tests/faults --fault-table docs/reliability.md` replaces what stands between the two
markers of the page. A test tells with the fixture `tried` what it did; rows of tests that did not
run stay out.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from ptl_plugins.durable import write_text
from ptl_plugins.manifest import hardware, versions

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
PROPERTY = "fault"
SHOWN = ("python", "ptl", "torch", "transformers", "llamafactory", "verl")


def add_option(parser: pytest.Parser) -> None:
    """Add `--fault-table PAGE`."""
    parser.addoption("--fault-table", type=Path, help="write the table of faults into this page")


@pytest.fixture
def tried(request):
    """Tell that a fault was tried: the door, its steps, at how many moments, how many survived."""

    def tell(fault: str, door, moments: int, survived: int, steps: str | None = None) -> None:
        name, kinds = (door.name, door.steps) if hasattr(door, "name") else (door, "")
        facts = [fault, name, steps or kinds, moments, survived]
        request.node.user_properties.append((PROPERTY, facts))

    return tell


class FaultTable:
    """Collects what the tests told, also in other processes, and writes it at the end."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self.moments: Counter = Counter()
        self.survived: Counter = Counter()

    def pytest_runtest_logreport(self, report) -> None:
        """Take what a test told, however it ended."""
        if report.when == "call":
            for name, facts in report.user_properties:
                if name == PROPERTY:
                    self.moments[tuple(facts[:3])] += facts[3]
                    self.survived[tuple(facts[:3])] += facts[4]

    def pytest_sessionfinish(self) -> None:
        """Write the table into the page."""
        text = self.page.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, ended, after = rest.partition(END)
        assert ended, f"{self.page} lacks the markers {BEGIN} and {END}"
        write_text(self.page, f"{before}{BEGIN}\n{self.text()}{END}{after}")

    def text(self) -> str:
        """Return the table, and where and when it was made."""
        machine, known = hardware(), versions()
        rows = [
            f"| {' | '.join(key)} | {self.moments[key]} | {self.survived[key]} |"
            for key in sorted(self.moments)
        ]
        about = ", ".join(f"{name} {known[name]}" for name in SHOWN if name in known)
        return "\n".join([
            f"Tried on {time.strftime('%Y-%m-%d', time.gmtime())}: {about}; "
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB.",
            "",
            "| fault | door | steps | moments | survived |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ])  # fmt: skip
