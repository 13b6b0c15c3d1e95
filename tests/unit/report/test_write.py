"""`ptl report` as a user meets it: files, terminal, mistakes in one line, a light start."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from ptl_plugins import durable
from ptl_plugins.cli.main import main
from ptl_plugins.report.write import run_report

FILES = ["curve_cot_loss.png", "curve_step_accuracy.png", "report.html", "report.md"]


@pytest.fixture
def run(write_run, steps_right):
    return write_run(metrics=lambda index: steps_right(20 - index))


@pytest.fixture
def ptl(monkeypatch, capsys):
    """Run `ptl report`; return exit code, stdout and stderr."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["ptl", "report", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = exit.code or 0
        return code, *capsys.readouterr()

    return call


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_report_of_one_run_lies_in_it_and_its_tables_are_printed(run, ptl):
    code, out, err = ptl(run)
    assert (code, err) == (0, "")
    assert names(run / "report") == FILES
    assert (run / "report" / "report.md").read_text().startswith("# Report: run\n")
    (row,) = (line for line in out.splitlines() if "8 neurons by" in line and "51,616" in line)
    assert row.split()[-5:] == ["93.1%", "0.919", "1.525", "47.5%", "(32.9-62.5)"]
    assert f"written: {run}/report/report.md" in out
    assert "\x1b" not in out


def test_a_second_report_replaces_the_first(run, ptl):
    ptl(run)
    first = {path.name: path.read_bytes() for path in (run / "report").iterdir()}
    (run / "report" / "report.md").write_text("old")
    assert ptl(run)[0] == 0
    assert {path.name: path.read_bytes() for path in (run / "report").iterdir()} == first


def test_several_runs_are_compared_in_the_first_or_in_out(write_three, ptl, tmp_path):
    runs = write_three()
    code, out, _ = ptl(*runs)
    assert code == 0
    assert "neuron_then_layer (neurons_first)" in out
    assert names(runs[0] / "report") == FILES
    assert ptl(*runs, "--out", tmp_path / "new" / "folder")[0] == 0
    assert names(tmp_path / "new" / "folder") == FILES
    assert not (runs[1] / "report").exists()


def test_step_sizes_have_a_picture(write_run, cuts, steps_right, ptl):
    runs = [
        write_run(name, (cut,), metrics=lambda index: steps_right(20))
        for name, cut in (("one", cuts.neurons), ("two", cuts.layer))
    ]
    assert ptl(*runs)[0] == 0
    assert names(runs[0] / "report") == [*FILES, "step_size.png"]
    assert b"(step_size.png)" in (runs[0] / "report" / "report.md").read_bytes()


def test_nothing_of_the_run_itself_is_touched(run, ptl, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ptl(run, "--out", tmp_path / "out")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_file_is_no_out_and_nothing_is_written(run, ptl, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "deeper"):
        code, stdout, err = ptl(run, "--out", out)
        assert (code, stdout) == (2, "")
        assert err == f"ptl: --out {out}: {file} is a file; give a folder\n"
    assert file.read_text() == "mine"
    assert not (run / "report").exists()


def test_a_wrong_folder_among_others_writes_nothing(run, ptl, tmp_path):
    code, out, err = ptl(run, tmp_path / "nothing")
    assert (code, out) == (2, "")
    assert err.startswith(f"ptl: {tmp_path}/nothing: no such folder; ")
    assert err.count("\n") == 1
    assert not (run / "report").exists()


def test_a_damaged_record_is_one_line_and_nothing_is_written(run, ptl):
    (run / "round_02" / "record.json").write_text('{"round": 2')
    code, out, err = ptl(run)
    assert (code, out) == (2, "")
    assert err.startswith(f"ptl: {run}/round_02/record.json: is damaged (")
    assert err.count("\n") == 1
    assert not (run / "report").exists()


def test_a_disk_that_is_full_is_one_line(run, ptl, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "_sync", full)
    code, _, err = ptl(run)
    assert (code, err) == (
        2,
        f"ptl: --out {run}/report: cannot be written (No space left on device)\n",
    )
    assert not (run / "report" / "report.md").exists()


def test_without_a_run_the_usage_is_told(ptl):
    code, _, err = ptl()
    assert code == 2
    assert "RUN_DIR" in err


@pytest.mark.parametrize("width", [40, 80, 300])
def test_a_terminal_gets_tables_that_fit_it(run, registry, tmp_path, width):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None)
    run_report([run], tmp_path / "out", registry, console)
    lines = stream.getvalue().splitlines()
    table = lines[lines.index("Rounds") + 1 : lines.index("Seconds")]
    rows = [line for line in table if line and not line.startswith("-")]
    whole = [line for line in rows if line.lstrip().startswith("1 ")]
    assert (len(whole) == 1) is (width == 300)
    assert max(map(len, rows)) <= width
    assert all("\u2026" not in line for line in rows)
    for cell in ("8 neurons by output_change", "51,616", "47.5% (32.9-62.5)"):
        assert sum(cell in line for line in whole) == 1


def test_markup_in_a_name_is_text(write_run, ptl):
    code, out, _ = ptl(write_run("[red]a[/red]"), write_run("[/]"))
    assert code == 0
    assert "[red]a[/red]" in out


def test_neither_the_command_nor_a_mistake_imports_what_is_heavy(tmp_path):
    code = (
        "import sys\n"
        "import ptl_plugins.cli.report\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'numpy', 'pydantic', 'rich.table'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from ptl_plugins.cli.main import main\n"
        f"sys.argv = ['ptl', 'report', {str(tmp_path)!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as exit:\n    assert exit.code == 2, exit.code\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "is no run folder" in done.stderr


def test_a_report_needs_no_torch(run):
    code = (
        "import sys\n"
        "from ptl_plugins.cli.main import main\n"
        f"sys.argv = ['ptl', 'report', {str(run)!r}]\n"
        "try:\n    main()\nfinally:\n"
        "    assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
