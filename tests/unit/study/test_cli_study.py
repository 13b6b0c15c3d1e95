"""`ptl study` as a user gives it: which options go together, exit codes, and what is said."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from ptl_plugins.cli import study as command
from ptl_plugins.errors import PTLError
from ptl_plugins.study import study_run
from ptl_plugins.study.study_run import Outcome

RUNS = {"a": {"recipe": "a.yaml"}}


@pytest.fixture
def ptl():
    """Call the subcommand; a user's mistake is raised."""
    app = typer.Typer()
    app.callback()(lambda: None)
    command.add_to(app)

    def call(*words):
        result = CliRunner().invoke(app, ["study", *map(str, words)])
        if isinstance(result.exception, PTLError):
            raise result.exception
        return result

    return call


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to do: give --folder DIR to run"),
        (["--from", "D"], "--from and --page go together"),
        (["--page", "P.md", "--folder", "F"], "--from and --page go together"),
        (["--from", "D", "--page", "P.md", "--folder", "F"], "--from: does not go with --folder"),
        (["--from", "D", "--page", "P.md", "--record", "R"], "--record R: needs --folder"),
        (["--folder", "F", "--record", "R", "--budget", "1"], "--budget: is of a run"),
        (["--folder", "F", "--record", "R", "--set", "a=1"], "--set: is of a run"),
        (["--from", "D", "--page", "P.md", "--keep-models"], "--keep-models: is of a run"),
    ],
)
def test_options_that_make_no_sense_are_one_line(ptl, write_study, words, said):
    with pytest.raises(PTLError, match=said):
        ptl(write_study(runs=RUNS), *words)


def test_a_page_needs_no_folder_of_runs(ptl, write_study, write_record, tmp_path):
    write_record("a", 1)
    result = ptl(
        write_study(runs=RUNS), "--from", tmp_path / "records", "--page", tmp_path / "p.md"
    )
    assert result.output == f"written: {tmp_path / 'p.md'}\n"
    assert "1 of 1 runs are finished" in (tmp_path / "p.md").read_text()


def test_a_failed_run_is_told_at_the_end_with_code_1(ptl, write_study, monkeypatch, tmp_path):
    outcome = Outcome(failed={tmp_path: "a, seed 1: failed: why"}, not_started=2)
    monkeypatch.setattr(study_run, "run_study", lambda request, tell: outcome)
    result = ptl(write_study(runs=RUNS), "--folder", tmp_path / "F")
    assert result.exit_code == 1
    assert "budget: 2 runs left; the same command goes on" in result.output
    assert "ptl: a, seed 1: failed: why" in result.output


def test_a_stopped_study_says_that_the_same_command_goes_on(ptl, write_study, monkeypatch):
    def stop(request, tell):
        raise KeyboardInterrupt

    monkeypatch.setattr(study_run, "run_study", stop)
    result = ptl(write_study(runs=RUNS), "--folder", "F")
    assert result.exit_code == 130
    assert "ptl: stopped; the same command goes on" in result.output


def test_what_the_command_line_says_reaches_the_study(ptl, write_study, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        study_run, "run_study", lambda request, tell: asked.append(request) or Outcome()
    )
    words = ("--set", "model=m", "--set", "x=1", "--only", "a", "--budget", "2.5", "--keep-models")
    assert ptl(write_study(runs=RUNS), "--folder", tmp_path / "F", *words).exit_code == 0
    (request,) = asked
    assert (request.desk.words, request.only) == (("model=m", "x=1"), ("a",))
    assert (request.budget, request.keeps_models) == (2.5, True)
