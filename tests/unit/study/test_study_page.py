"""The page of stored records: what it says, what it never leaves out, the same bytes each time."""

from __future__ import annotations

import json

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.study.study_page import page_of, write_page

RUN = {"recipe": "a.yaml", "seeds": [1, 2]}
RUNS = {"control": RUN, "ptl": RUN, "once": RUN}
TABLE = {"title": "Table 1", "runs": ["control", "ptl", "once"]}


@pytest.fixture
def three(write_record):
    """Records of three runs: ptl is better than once by 0.1 and 0.3."""
    for name, losses in (("control", (0.5, 0.7)), ("ptl", (1.0, 1.2)), ("once", (1.1, 1.5))):
        for seed, last in zip((1, 2), losses, strict=True):
            write_record(name, seed, (3.0, 2.0, last), accuracy=0.5, cuts=name != "control")


@pytest.fixture
def page(study_of, results_of):
    """The page of what is on record, as text."""
    return lambda **keys: page_of(results_of(study_of(**keys)))[0]


def row(text, name, heading):
    """Return the cells of a table's row by heading."""
    table = text[text.index(f"## {heading}") :].split("\n\n")[1].splitlines()
    names = [cell.strip() for cell in table[0].strip("|").split("|")]
    line = next(line for line in table if line.startswith(f"| {name} "))
    return dict(zip(names, [cell.strip() for cell in line.strip("|").split("|")], strict=True))


def test_a_row_has_the_mean_and_the_deviation_over_seeds(three, page):
    cells = row(page(runs=RUNS, tables=[TABLE]), "ptl", "Table 1")
    assert cells["cot_loss"] == "1.100 +- 0.141"
    assert cells["step_accuracy"] == "50.0% +- 0.0"
    assert cells["seeds"] == cells["rounds"] == "2"
    assert (cells["parameters"], cells["FLOPs"]) == ("47,776", "0.838")
    assert (cells["documents"], cells["tokens"], cells["steps"]) == ("20", "2,000", "8")
    assert cells["tokens at final size"] == "1,000"
    assert cells["time"] == "21 s"


def test_the_control_is_held_against_and_trains_at_the_final_size_all_the_time(three, page):
    text = page(runs=RUNS, tables=[TABLE])
    assert row(text, "ptl", "Table 1")["to control"] == "+0.0 +- 0.0 pp"  # of the accuracy
    assert "| 1.100 +- 0.141 | +0.500 +- 0.000 |" in text
    control = row(text, "control", "Table 1")
    assert (control["to control"], control["tokens at final size"]) == ("-", "2,000")


def test_a_run_is_held_against_the_control_that_trained_on_as_many_documents(page, write_record):
    for name, documents, loss in (("control", 100, 1.0), ("more", 200, 0.5), ("ptl", 199, 0.7),
                                  ("once", 400, 0.6)):  # fmt: skip
        write_record(name, 1, (3.0, loss), documents=documents, cuts=name in ("ptl", "once"))
    runs = {name: {"recipe": "a.yaml"} for name in ("control", "more", "ptl", "once")}
    text = page(runs=runs, controls=["control", "more"], tables=[{**TABLE, "runs": list(runs)}])
    ptl, once, more = (row(text, name, "Table 1") for name in ("ptl", "once", "more"))
    assert (ptl["control"], ptl["to control"]) == ("more", "+0.200")
    assert (once["control"], once["to control"]) == ("-", "-"), "nothing trained on as many"
    assert (more["control"], more["to control"]) == ("-", "-")


def test_the_page_begins_with_what_the_pairs_say(page, write_record):
    for seed in (1, 2, 3):
        for name, loss in (("ptl", 1.0), ("once", 1.5 + seed / 100), ("other", 1.0 + (seed - 2))):
            write_record(name, seed, (3.0, loss), accuracy=0.5)
        write_record("control", seed, (3.0, 0.5), accuracy=0.9 + seed / 1000, cuts=False)
    runs = {name: {"recipe": "a.yaml", "seeds": [1, 2, 3]}
            for name in ("ptl", "once", "other", "control")}  # fmt: skip
    runs["alone"] = {"recipe": "a.yaml"}
    write_record("alone", 1, (3.0, 0.2))
    pairs = [["ptl", "once"], ["ptl", "other"], ["ptl", "control"], ["alone", "ptl"]]
    text = page(runs=runs, pairs=pairs, primary=["cot_loss", "step_accuracy"])
    answers = text[text.index("## Answers") :].split("\n\n")[1]
    assert "- ptl against once, cot_loss: ptl is ahead (-0.520 +- 0.010; 3 seeds, 95%" in answers
    assert "- ptl against other, cot_loss: not decided (+0.000 +- 1.000; 3 seeds" in answers
    assert "- ptl against control, step_accuracy: control is ahead (-40.2 +- 0.1 pp" in answers
    assert "- alone against ptl, cot_loss: not decided (-0.800; 1 seed)." in answers


def test_the_original_has_a_row_where_all_start_from_the_same(three, page, write_record):
    table = {**TABLE, "metrics": ["cot_loss"]}
    text = page(runs=RUNS, tables=[table])
    assert row(text, "(original)", "Table 1")["cot_loss"] == "3.000"
    write_record("other", 1, (9.0, 1.0))
    runs = {**RUNS, "other": {"recipe": "a.yaml"}}
    assert "(original)" not in page(runs=runs, tables=[{**table, "runs": ["ptl", "other"]}])


def test_the_original_may_be_measured_by_the_control_alone(page, write_record):
    write_record("control", 1, (3.0, 1.0), cuts=False)
    record = write_record("ptl", 1, (3.0, 1.0)) / "round_00" / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "recovered": None}))
    text = page(runs=RUNS, tables=[{**TABLE, "runs": ["ptl"]}])
    assert row(text, "(original)", "Table 1")["cot_loss"] == "3.000"


def test_only_the_chosen_metrics_are_shown_in_their_order(three, page):
    table = {**TABLE, "metrics": ["step_accuracy", "cot_loss", "kl"]}
    text = page(runs=RUNS, tables=[table])
    names = list(row(text, "ptl", "Table 1"))
    assert names.index("step_accuracy") < names.index("cot_loss")
    assert "- No finished run recorded kl." in text


def test_pairs_have_an_interval_over_equal_seeds(three, page):
    text = page(runs=RUNS, pairs=[["ptl", "once"]])
    cells = row(text, "ptl - once", "Paired differences")
    assert (cells["metric"], cells["seeds"]) == ("cot_loss", "2")
    assert cells["difference"] == "-0.200 +- 0.141"
    assert cells["95% interval"] == "-1.471 to +1.071"  # 12.706 * 0.1 on both sides
    assert cells["p"] == "0.295"


def test_a_run_without_numbers_is_never_left_out(page, write_record):
    write_record("ptl", 1, (3.0, 1.0))
    write_record("once", 1, (3.0,), status="failed", reason="no space left", rounds=2)
    write_record("once", 2, (3.0, 2.0), status="started", rounds=2)
    keys = {"runs": RUNS, "tables": [TABLE], "pairs": [["ptl", "once"]]}
    text = page(**keys)
    said = (
        "control, seed 1: has not run",
        "control, seed 2: has not run",
        "ptl, seed 2: has not run",
        "once, seed 1: failed (0 of 2 rounds): no space left",
        "once, seed 2: is not finished (1 of 2 rounds)",
    )
    assert "1 of 6 runs are finished" in text
    for line in said:
        assert text.count(line) >= 2  # at the top, and below the table
    assert row(text, "once", "Table 1")["seeds"] == "0 of 2"
    assert row(text, "once", "Table 1")["cot_loss"] == "-"
    assert row(text, "ptl", "Table 1")["seeds"] == "1 of 2"


def test_one_seed_gives_plain_numbers(page, write_record):
    write_record("ptl", 1, (3.0, 1.0))
    write_record("once", 1, (3.0, 1.5))
    text = page(runs=RUNS, tables=[TABLE], pairs=[["ptl", "once"]])
    assert row(text, "ptl", "Table 1")["cot_loss"] == "1.000"
    cells = row(text, "ptl - once", "Paired differences")
    assert (cells["difference"], cells["95% interval"], cells["p"]) == ("-0.500", "-", "-")


def test_lines_go_over_what_was_trained_on(study_of, results_of, write_record):
    for name, documents, loss in (("big", 40, 0.5), ("small", 10, 1.5)):
        for seed in (1, 2):
            write_record(name, seed, (3.0, loss + seed / 10), documents=documents)
    write_record("lone", 1, (3.0, 2.0), documents=None)
    runs = {"big": RUN, "small": RUN, "lone": {"recipe": "a.yaml"}}
    lines = {"ptl": ["big", "small"], "x": ["lone"]}
    table = {"title": "Budget", "x": "documents", "lines": lines, "metrics": ["cot_loss"]}
    text, (picture,) = page_of(results_of(study_of(runs=runs, tables=[table])))
    points = picture.plot.lines[0].points
    assert [(p.run, p.x, p.found.mean) for p in points] == [
        ("small", 10, pytest.approx(1.65)),
        ("big", 40, pytest.approx(0.65)),
    ]
    assert "| ptl | small | cot_loss | 10 | 2 | 1.650 +- 0.071 |" in text
    assert "![cot_loss over documents of all recoveries](budget_cot_loss.png)" in text
    assert "NOT shown: lone: its documents are not on record." in text


def test_lines_over_rounds_begin_at_the_original(study_of, results_of, write_record):
    write_record("ptl", 1, (3.0, 2.0, 1.0))
    write_record("ptl", 2, (3.0, 2.4, 1.2))
    table = {"title": "Fig. 3", "x": "round", "lines": {"ptl": ["ptl"]}}
    _, (picture,) = page_of(results_of(study_of(runs={"ptl": RUN}, tables=[table])))
    points = [(point.x, point.found.mean) for point in picture.plot.lines[0].points]
    assert points == [(0, 3.0), (1, pytest.approx(2.2)), (2, pytest.approx(1.1))]


def test_machines_are_told_once_with_their_runs(page, write_record):
    write_record("ptl", 1)
    write_record("ptl", 2)
    gpu = {"processor": "B", "cores": 8, "memory_gb": 9.0, "accelerators": ["A card"]}
    write_record("once", 1, hardware=gpu)
    text = page(runs=RUNS)
    assert "| A CPU | 2 | 4.0 | none | 1 | ptl (1, 2) |" in text
    assert "| B | 8 | 9.0 | A card | 1 | once (1) |" in text
    assert "| 2.11.0 | abc | all |" in text


def test_what_was_read_is_told_once_with_its_runs(page, write_record):
    write_record("ptl", 1, data={"data/a.jsonl": "abc"})
    write_record("ptl", 2, data={"data/a.jsonl": "abc"})
    write_record("once", 1, data={"data/a.jsonl": "abd"})
    text = page(runs=RUNS)
    assert "| data/a.jsonl | abc | ptl (1, 2) |" in text
    assert "| data/a.jsonl | abd | once (1) |" in text


def test_what_was_asked_for_is_on_the_page(page, three):
    runs = {**RUNS, "ptl": {**RUN, "set": {"ptl.refit": "none", "x": [1]}, "after": ["once"]}}
    text = page(runs=runs)
    assert "| ptl | a.yaml | ptl.refit: none; x: \\[1\\] | 1, 2 | once | 2 of 2 |" in text


def test_the_same_records_give_the_same_bytes(three, study_of, registry, tmp_path):
    table = {"title": "Budget", "x": "steps", "lines": {"all": ["ptl", "once"]}}
    study = study_of(runs=RUNS, tables=[TABLE, table], pairs=[["ptl", "once"]])
    pages = [tmp_path / name / "page.md" for name in "ab"]
    for path in pages:
        write_page(study, tmp_path / "records", path, registry)
    first, second = (path.read_bytes() for path in pages)
    assert first == second
    names = sorted(path.name for path in pages[0].parent.iterdir())
    assert names == ["budget_cot_loss.png", "budget_step_accuracy.png", "page.md"]
    assert (pages[0].parent / names[0]).read_bytes().startswith(b"\x89PNG")
    assert b"/tmp" not in first


def test_damaged_or_missing_records_are_one_line(study_of, registry, tmp_path, write_record):
    study = study_of(runs=RUNS)
    with pytest.raises(PTLError, match=r"--from .*records: no such folder"):
        write_page(study, tmp_path / "records", tmp_path / "page.md", registry)
    (write_record("ptl", 1) / "outcome.json").write_text("{")
    with pytest.raises(PTLError, match=r"outcome\.json: is damaged"):
        write_page(study, tmp_path / "records", tmp_path / "page.md", registry)
    assert not (tmp_path / "page.md").exists()
