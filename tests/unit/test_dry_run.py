"""`ptl run --dry-run` against what the same recipe then does: files, commands, order, refusals."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import yaml

from llamafactory_ext.backend import LlamaFactory
from ptl_plugins.dry_run import COMMAND, TEXT, dry_run_lines
from ptl_plugins.errors import PTLError, RunFolderError, StageError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.markers import hookimpl
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.run import prepare_run, run_recipe
from ptl_plugins.run_lock import lock_folder
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus
from ptl_plugins.testing.fake_backend import FakeBackend
from ptl_plugins.types import EvalResult

KEYS = {
    "model": "model",
    "run_dir": "out",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 8, "max_length": 32},
    "schedule": [
        {"unit": "neuron", "amount": 8, "rounds": 2},
        {"unit": "none", "rounds": 1},
    ],
    "recover": [{"backend": "both"}],
}
BIG = "[" + "1, " * 2000 + "1]"


class Both(FakeBackend):
    """The fake program, with the files that LLaMA-Factory would get beside it."""

    def job(self, ctx, stage, model, folder):
        job = super().job(ctx, stage, model, folder)
        settings = {"learning_rate": 1e-5, "note": "a: 'b'\n\n  c"}
        theirs = LlamaFactory().job(
            ctx, dataclasses.replace(stage, settings=settings), model, folder
        )
        files = {**job.files, **theirs.files, folder / "big.json": BIG}
        return dataclasses.replace(job, files=files)


class Witness:
    """A plugin with the backend `both` that notes what the loop starts and measures."""

    def __init__(self):
        self.commands, self.measured = [], []

    @hookimpl
    def ptl_register(self, registry):
        registry.backends.add("both", Both())

    @hookimpl
    def ptl_launch(self, ctx, command):
        self.commands.append(ctx.registry.launchers.get("local").preview(command))

    @hookimpl
    def ptl_evaluate(self, ctx, subject):
        self.measured.append(str(subject.path))
        return EvalResult(metrics={}, seconds=0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data", num_documents=30)
    return tmp_path


@pytest.fixture
def door(place):
    """Dry or real runs of the recipe with other keys; a dry one returns its lines."""

    def start(*, dry, witness=None, **keys):
        manager = build_manager(plugins=["ptl_plugins.testing.fake_backend"], autoload=False)
        manager.register(witness or Witness(), "witness")
        registry = build_registry(manager)
        (place / "r.yaml").write_text(yaml.safe_dump({**KEYS, **keys}), encoding="utf-8")
        recipe = read_recipe(place / "r.yaml", manager.hook, registry)
        if dry:
            return list(dry_run_lines(prepare_run(recipe, manager, registry, writes=False)))
        return run_recipe(recipe, manager, registry)

    return start


def values(lines, what):
    """Return what stands behind a word such as `write`."""
    start = f"  {what:<10} "
    return [line.removeprefix(start) for line in lines if line.startswith(start)]


def shown(lines, path):
    """Return the text of a file as it is printed."""
    (at,) = (i for i, line in enumerate(lines) if line.split(": ")[0].split()[-1:] == [path])
    text = []
    for line in lines[at + 1 :]:
        if not line.startswith(TEXT):
            break
        text.append(line.removeprefix(TEXT) + "\n")
    return "".join(text)


def everything(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_commands_and_files_are_those_of_the_run_that_follows(door, place):
    lines, witness = door(dry=True), Witness()
    door(dry=False, witness=witness)
    printed = [line.removeprefix(COMMAND) for line in lines if line.startswith(COMMAND)]
    assert printed == witness.commands
    assert len(printed) == 3
    for index in (1, 2, 3):
        for name in ("train.yaml", "data/dataset_info.json"):
            path = f"out/round_0{index}/stage_0/{name}"
            assert shown(lines, path) == Path(path).read_text(encoding="utf-8")
    for path, lines_, size in (re.fullmatch(r"(.*): (\d+) lines, (\d+) bytes", v).groups()
                               for v in values(lines, "write") if "bytes" in v):  # fmt: skip
        content = Path(path).read_bytes()
        assert (len(content.splitlines()), len(content)) == (int(lines_), int(size)), path


def test_texts_for_training_and_large_files_are_counted_only(door):
    lines = door(dry=True)
    assert [shown(lines, f"out/round_01/stage_0/{name}")
            for name in ("data/part.jsonl", "texts.txt", "big.json")] == ["", "", ""]  # fmt: skip
    assert "Question" not in "\n".join(lines)


@pytest.mark.parametrize("keep", [{}, {"rounds": "last"}, {"intermediate": True}])
def test_what_is_written_lies_there_in_the_end_but_for_what_is_deleted(door, place, keep):
    keys = {"keep": keep, "recover": [{"backend": "both"}] * 2}
    lines = door(dry=True, **keys)
    door(dry=False, **keys)
    deleted = set(values(lines, "delete"))
    assert not [path for path in deleted if Path(path).exists()]
    made = {value.split(": ")[0] for value in values(lines, "write")}
    made |= {value.split(" -> ")[1] for value in values(lines, "prune")}
    made |= {path for value in values(lines, "take") for path in value.split(" -> ")}
    made |= set(values(lines, "log"))
    assert {path for path in made if not Path(path).exists()} == made & deleted
    there = {str(path) for path in Path("out").rglob("*")}
    inside = [path for path in there if not any(f"{p}/" in f"{path}/" for p in made)]
    assert [path for path in inside if Path(path).is_file()] == [], "files that were not printed"


@pytest.mark.parametrize(("refit", "printed"), [("ridge", ["write", "prune", "delete"]),
                                                ("none", ["prune"])])  # fmt: skip
def test_second_moments_are_printed_where_a_cut_is_refitted(door, refit, printed):
    schedule = [{"unit": "neuron", "amount": 8}, {"unit": "layer", "amount": 1}]
    lines = door(dry=True, refit=refit, schedule=schedule)
    found = [line.split()[0] for line in lines
             if line.endswith("/second_moments") or line.startswith("  prune ")]  # fmt: skip
    assert found == [*printed, "prune"], "a round of layers alone has none"


def test_the_models_that_are_measured_are_named_in_order(door):
    task = {"evaluator": "chain_of_thought", "data": "data/held_out.jsonl"}
    keys = {"evaluate": {"tasks": [task], "every": 2, "before_recovery": True}}
    lines, witness = door(dry=True, **keys), Witness()
    door(dry=False, witness=witness, **keys)
    assert [value.split(": ")[0] for value in values(lines, "evaluate")] == witness.measured
    assert len(witness.measured) == 5


def test_an_original_that_is_not_measured_is_not_told(door):
    task = {"evaluator": "chain_of_thought", "data": "data/held_out.jsonl"}
    lines = door(dry=True, evaluate={"tasks": [task], "original": False})
    assert not any(value.startswith("model: ") for value in values(lines, "evaluate"))
    told = door(dry=True, evaluate={"tasks": [task]})
    assert len(values(told, "evaluate")) == len(values(lines, "evaluate")) + 1


def test_shapes_are_the_plans_and_a_threshold_leaves_them_open(door):
    schedule = [*KEYS["schedule"], {"unit": "neuron", "selector": "threshold", "amount": 0.25}]
    heads = [line for line in door(dry=True, schedule=schedule) if line.startswith("round ")]
    assert [line.split(", width ")[-1][:2] for line in heads[1:4]] == ["40", "32", "32"]
    assert heads[3].startswith("round 3 of 4: recovery only -> 5 layers")
    assert heads[4] == (
        "round 4 of 4: neurons by output_change, threshold 0.25 -> a shape that the scores decide"
    )


@pytest.mark.parametrize(("amount", "size"), [(1, 31), (16, 16)])
def test_the_hidden_size_and_the_growth_of_a_round_that_slices_are_told(door, amount, size):
    """The tiny model grows by what its norms become, unless much goes; later rounds keep it."""
    slicing = {"unit": "hidden", "selector": "count", "amount": amount}
    schedule = [{"unit": "neuron", "amount": 8}, slicing, {"unit": "none"}]
    lines = door(dry=True, schedule=schedule)
    heads = [line for line in lines if line.startswith("round ")]
    assert [f", hidden {size} of 32, " in head for head in heads] == [False, False, True, True]
    start = f"slicing the hidden size 32 to {size} makes the model larger, "
    notes = values(lines, "note")
    assert [note.startswith(start) for note in notes] == ([True] if amount == 1 else [])
    if notes:
        assert lines.index(f"  note       {notes[0]}") == lines.index(heads[2]) + 1


def test_nothing_is_written_and_no_weight_is_read(door, place):
    (place / "model" / "model.safetensors").write_bytes(b"no weights")
    door(dry=True)  # writes the recipe
    (place / "r.yaml").unlink()
    before = everything(place)
    lines = door(dry=True)
    assert everything(place).keys() - before.keys() == {place / "r.yaml"}
    assert "  profile    model: 8 calibration sequences, 232 tokens" in lines


def test_finished_rounds_and_steps_are_kept_and_the_folder_is_left_alone(door, place):
    recover = [
        {"backend": "both"},
        {"backend": "both", "settings": {"does": "fail", "rounds": [2]}},
    ]
    with pytest.raises(StageError):
        door(dry=False, recover=recover)
    before = everything(place / "out")
    lines = door(dry=True, recover=recover)
    assert everything(place / "out") == before
    assert "  run folder out: goes on; rounds finished and kept: 1 of 3" in lines
    assert [line.split(":")[0] for line in lines if line.startswith("round ")] == [
        "round 2 of 3", "round 3 of 3",
    ]  # fmt: skip
    folder = "out/round_02"
    assert values(lines, "kept") == [
        f"{folder}/plan.json", f"{folder}/pruned",
        f"{folder}/stage_0/model, which an earlier try finished",
    ]  # fmt: skip
    assert f"{folder}/stage_1, which an earlier try left" in values(lines, "delete")
    assert len([line for line in lines if line.startswith(COMMAND)]) == 3


def test_a_finished_run_has_nothing_left_to_do(door):
    door(dry=False)
    lines = door(dry=True)
    assert [value for word in ("write", "run", "delete") for value in values(lines, word)] == []
    assert "out/round_03/model: the last round's model" in lines


def test_what_a_run_refuses_is_refused(door, place):
    with pytest.raises(PTLError, match="no such file"):
        door(dry=True, data={"path": "none.jsonl"})
    with pytest.raises(PTLError, match="schedule: round 1 removes 900 neurons"):
        door(dry=True, schedule=[{"unit": "neuron", "amount": 900}])
    (place / "file").touch()
    with pytest.raises(RunFolderError, match=r"file/out: '.*file' is a file; choose another"):
        door(dry=True, run_dir="file/out")
    door(dry=False)
    with pytest.raises(RunFolderError, match="holds a run of another recipe"):
        door(dry=True, seed=5)
    lock = lock_folder(place / "out")
    with pytest.raises(RunFolderError, match="another run works in this folder"):
        door(dry=True)
    lock.release()
    shutil.rmtree(place / "data")
    write_tiny_corpus(place / "data", num_documents=33)
    before = everything(place / "out")
    for dry in (True, False):
        with pytest.raises(RunFolderError, match="the corpus is not the one"):
            door(dry=dry)
    assert everything(place / "out") == before
