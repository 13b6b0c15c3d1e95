"""`ptl run` where a training diverges: the mark, what is never deleted, and smaller steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from ptl_plugins import durable, hookimpl
from ptl_plugins.cli.main import build_app
from ptl_plugins.durable import digest_of_files
from ptl_plugins.errors import DivergedError, RunFolderError
from ptl_plugins.health import Step
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.report.write import run_report
from ptl_plugins.run import run_recipe
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus
from ptl_plugins.testing.fake_backend import FakeBackend

OUT = "out"
KEYS = {
    "model": "model", "run_dir": OUT, "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 4, "max_length": 32},
    "schedule": [{"unit": "neuron", "amount": 8, "rounds": 3}],
    "recover": [{"backend": "fake"}],
}  # fmt: skip
RETRY = "retry_with_half_step"


class Telling(FakeBackend):
    """The fake backend, whose program told of its steps; `ill` decides in which rounds badly."""

    def __init__(self, ill):
        self.ill = ill

    def steps(self, job):
        folder = job.result.parent.parent
        number = int(folder.name[-2:])
        return [Step(step=1, loss=2.0), Step(step=2, loss=float("nan") if self.ill(folder, number)
                                             else 2.0)]  # fmt: skip


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run the recipe with other keys; `ill` tells in which round's folder a training is."""
    monkeypatch.chdir(tmp_path)
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data", num_documents=30)

    def run(ill=lambda folder, number: False, **keys):
        manager = build_manager(autoload=False)

        class Plugin:
            @hookimpl
            def ptl_register(self, registry):
                registry.backends.add("fake", Telling(ill))

        manager.register(Plugin())
        registry = build_registry(manager)
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**KEYS, **keys}), encoding="utf-8")
        return run_recipe(
            read_recipe(tmp_path / "r.yaml", manager.hook, registry), manager, registry
        )

    return run


def second(folder, number):
    return number == 2


def first_try(folder, number):
    """Whether it is the first try of round 2."""
    return number == 2 and not list(folder.parent.glob("failed_*"))


def widths():
    return [record.width for record in RunFolder(Path(OUT), writes=False).records()]


def stages_run():
    return [e["round"] for e in events() if e["event"] == "step" and e["step"] == "collect"]


def events():
    return [json.loads(line) for line in Path(OUT, "events.jsonl").read_text().splitlines()]


def test_a_diverged_round_is_marked_failed_with_what_to_try(start):
    with pytest.raises(DivergedError) as error:
        start(second)
    assert str(error.value) == (
        "out/round_02/stage_0: the training diverged: the loss is not finite at step 2; try a "
        "smaller step of pruning, a lower learning rate, or 'on_divergence: retry_with_half_step'"
    )
    failed = json.loads(Path(OUT, "round_02", "failed.json").read_text())
    assert (failed["reason"], failed["advice"]) == tuple(str(error.value).split("; "))
    assert (failed["round"], failed["last_good"], failed["halves"]) == (
        2,
        "out/round_01/model",
        None,
    )
    assert not Path(OUT, "round_02", "record.json").exists()
    assert not Path(OUT, "round_02", "model").exists()
    assert events()[-1]["event"] == "round_failed"
    assert events()[-1]["advice"].startswith("try a smaller step of pruning")
    shown = Console(record=True, width=200)
    run_report([Path(OUT)], Path("report"), build_registry(build_manager(autoload=False)), shown)
    text = shown.export_text()
    assert "UNFINISHED, 1 of 3 rounds done" in text
    assert "round 2 FAILED: out/round_02/stage_0: the training diverged: the loss is not" in text
    assert "; try a smaller step of pruning, a lower learning rate" in text
    assert "(it began with out/round_01/model)" in text


def test_the_dry_run_tells_of_a_failed_round(start):
    with pytest.raises(DivergedError):
        start(second)
    words = ["run", "r.yaml", "--dry-run", "-p", "ptl_plugins.testing.fake_backend"]
    shown = CliRunner().invoke(build_app("run"), words)
    assert shown.exit_code == 0, shown.output
    assert "failed     round 2: out/round_02/stage_0: the training diverged" in shown.output


@pytest.mark.parametrize("keep", [{"rounds": "last"}, {"rounds": "last", "intermediate": True}, {}])
@pytest.mark.parametrize("on_divergence", ["stop", RETRY])
def test_the_original_and_the_last_good_round_are_never_deleted(start, keep, on_divergence):
    original = digest_of_files(Path("model"), "*")

    def ill(folder, number):
        return number >= 3

    for _ in range(2):  # the same command again fails again
        with pytest.raises(DivergedError):
            start(ill, keep=keep, on_divergence=on_divergence)
        good = Path(OUT, "round_02", "model")
        record = json.loads(good.with_name("record.json").read_text())
        assert digest_of_files(good, "*.safetensors") == record["model_digest"]
        assert digest_of_files(Path("model"), "*") == original
    start(keep=keep, on_divergence=on_divergence)
    assert widths()[-1] == 24


def test_a_round_folder_that_holds_the_original_is_refused(start, tmp_path):
    write_tiny_checkpoint(tmp_path / OUT / "round_01" / "model")
    before = digest_of_files(tmp_path / OUT / "round_01" / "model", "*")
    with pytest.raises(
        RunFolderError, match=r"out: its round folders hold the recipe's model, 'out"
    ):
        start(model="out/round_01/model")
    assert digest_of_files(tmp_path / OUT / "round_01" / "model", "*") == before


def test_the_same_command_tries_a_failed_round_again_and_the_mark_goes(start):
    with pytest.raises(DivergedError):
        start(second)
    model = start()
    assert widths() == [48, 40, 32, 24]
    assert not list(Path(OUT).rglob("failed.json"))
    kept = digest_of_files(model, "*.safetensors")
    start(run_dir="undisturbed")
    assert digest_of_files(Path("undisturbed/round_03/model"), "*.safetensors") == kept


def test_a_diverged_round_is_taken_again_in_two_half_steps(start):
    model = start(first_try, on_divergence=RETRY)
    assert widths() == [48, 40, 36, 32, 24]
    assert str(model) == "out/round_04/model"
    aside = Path(OUT, "failed_01_round_02")
    left = {path.suffix for path in aside.rglob("*") if path.is_file()}
    assert left == {".json", ".txt", ".log"}, "what tells about it, and no weights"
    first, rest = json.loads((aside / "failed.json").read_text())["halves"]
    assert [cuts[0]["amount"] for cuts in (first, rest)] == [4.0, 4.0]
    texts = [Path(OUT, f"round_0{i}", "stage_0", "texts.txt").read_text() for i in (1, 2, 3, 4)]
    assert texts[1] == texts[2] == (aside / "stage_0" / "texts.txt").read_text()
    assert len(set(texts)) == 3, "every other round has its own part"
    history = json.loads((model / "ptl_pruning.json").read_text())["history"]
    assert [entry["width"] for entry in history] == [[48, 40], [40, 36], [36, 32], [32, 24]]
    shown = Console(record=True, width=200)
    run_report([Path(OUT)], Path("report"), build_registry(build_manager(autoload=False)), shown)
    text = shown.export_text()
    assert "4 of 4 rounds done" in text
    assert "round 2 diverged, and was taken in halves: " in text


def test_the_same_command_takes_a_failed_round_in_halves_and_then_repeats_nothing(start):
    with pytest.raises(DivergedError):
        start(second)
    model = start(on_divergence=RETRY)
    assert widths() == [48, 40, 36, 32, 24]
    assert [e["event"] for e in events()].count("round_failed") == 1, "the cut is not tried again"
    assert stages_run() == [1, 2, 3, 4]
    kept = digest_of_files(model, "*.safetensors")
    assert digest_of_files(start(on_divergence=RETRY), "*.safetensors") == kept
    assert digest_of_files(start(), "*.safetensors") == kept, "the key may change"
    assert stages_run() == [1, 2, 3, 4]
    start(first_try, run_dir="at_once", on_divergence=RETRY)
    assert digest_of_files(Path("at_once/round_04/model"), "*.safetensors") == kept


def test_a_kill_between_the_halves_changes_nothing(start):
    start(first_try, run_dir="undisturbed", on_divergence=RETRY)

    def killed(folder, number):
        if number == 3:
            raise KeyboardInterrupt
        return first_try(folder, number)

    with pytest.raises(KeyboardInterrupt):
        start(killed, on_divergence=RETRY)
    start(first_try, on_divergence=RETRY)
    ends = [
        digest_of_files(Path(out, "round_04/model"), "*.safetensors")
        for out in (OUT, "undisturbed")
    ]
    assert ends[0] == ends[1]


def test_a_kill_right_before_the_round_is_set_aside_halves_it_once(start, monkeypatch):
    def kill(temporary, path, replace=durable.replace):
        if path.name.startswith("failed_"):
            raise KeyboardInterrupt
        replace(temporary, path)

    real = durable.replace
    monkeypatch.setattr(durable, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        start(first_try, on_divergence=RETRY)
    monkeypatch.setattr(durable, "replace", real)
    start(on_divergence=RETRY)
    assert widths() == [48, 40, 36, 32, 24]


def test_a_step_is_halved_three_times_at_most(start):
    with pytest.raises(DivergedError) as error:
        start(lambda folder, number: number == 1, on_divergence=RETRY)
    assert str(error.value).startswith("out/round_01/stage_0: the training diverged: ")
    assert str(error.value).endswith(
        "; the step was halved 3 times already; try a smaller step of pruning or a lower learning "
        "rate"
    )
    halves = [
        json.loads(p.read_text())["halves"] for p in sorted(Path(OUT).glob("failed_*/failed.json"))
    ]
    assert [[cuts[0]["amount"] for cuts in pair] for pair in halves] == [[4, 4], [2, 2], [1, 1]]


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ([{"unit": "layer", "amount": 1}], "the step cannot be halved any more"),
        ([{"unit": "none"}], "the round cuts nothing that could be halved"),
    ],
)
def test_what_cannot_be_halved_stops_with_the_reason(start, schedule, why):
    with pytest.raises(DivergedError, match=f"; {why}; try a smaller step"):
        start(lambda folder, number: True, schedule=schedule, on_divergence=RETRY)
    assert Path(OUT, "round_01", "failed.json").is_file()


def test_stages_of_some_rounds_stay_with_the_recipes_rounds(start):
    stages = [{"backend": "fake"}, {"backend": "fake", "rounds": [3, 3]}]
    start(first_try, recover=stages, on_divergence=RETRY)
    found = sorted(str(p.relative_to(OUT)) for p in Path(OUT).glob("round_*/stage_1"))
    assert found == ["round_04/stage_1"]


def test_weights_that_are_not_finite_are_a_divergence_too(start):
    nan = [{"backend": "fake", "settings": {"does": "nan", "rounds": [1]}}]
    with pytest.raises(DivergedError, match="is not finite: the recovery diverged; try a smaller"):
        start(recover=nan)
    assert Path(OUT, "round_01", "failed.json").is_file()


@pytest.mark.parametrize("text", ["{}", "{", '{"halves": [[1], [2]]}', "[]"])
def test_a_damaged_mark_is_named(start, text):
    with pytest.raises(DivergedError):
        start(second)
    Path(OUT, "round_02", "failed.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"round_02/failed\.json: is damaged"):
        start(on_divergence=RETRY)
