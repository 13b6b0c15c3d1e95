"""Command lines of which one word is wrong, and folders that are not what a command reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import the_one_line
from folder_tree import folder_tree
from good_recipes import FAKE, RUN, STUDY, changed, write_yaml

PRUNE = ("prune", "model", "--scores", "scores", "--out", "pruned")
PROFILE = ("profile", "model", "--data", "data/tiny.jsonl")
EVAL = ("eval", "model", "--tasks", "gsm8k_cot", "--data-dir", "data")
WORDS = {
    # of no command
    "an unknown command": (("plann",), ("plann",)),
    "an unknown option": (("validate", "run.yaml", "--fast"), ("--fast",)),
    "a word too much": (("plan", "run.yaml", "train.yaml"), ("train.yaml",)),
    "no recipe": (("run",), ("RECIPE",)),
    "an option without a value": (("run", "run.yaml", "--run-dir"), ("--run-dir",)),
    # run, plan
    "a word that is no KEY=VALUE": (("run", "run.yaml", *FAKE, "--set", "seed"), ("--set seed",)),
    "a value without a key": (("run", "run.yaml", *FAKE, "--set", "=3"), ("--set =3",)),
    "a value that is no YAML": (("run", "run.yaml", *FAKE, "--set", "seed=[1"), ("seed=[1",)),
    "a value that is in itself": (
        ("run", "run.yaml", *FAKE, "--set", "seed=&a [*a]"), ("seed=&a [*a]",)),
    "a value with a tag": (
        ("run", "run.yaml", *FAKE, "--set", "seed=!!python/name:os.system"), ("seed=!!python",)),
    "a place that is not": (
        ("run", "run.yaml", *FAKE, "--set", "schedule.7.amount=3"), ("schedule.7.amount", "'7'")),
    "a place within a number": (
        ("run", "run.yaml", *FAKE, "--set", "schedule.0.amount.x=3"), ("amount.x=3", "'x'")),
    "a place without a number": (
        ("run", "run.yaml", *FAKE, "--set", "schedule.first=3"), ("schedule.first", "'first'")),
    "an empty run folder": (("run", "run.yaml", *FAKE, "--run-dir", ""), ("--run-dir", "empty")),
    "a run folder that is a file": (
        ("run", "run.yaml", *FAKE, "--run-dir", "scores"), ("scores", "is a file")),
    "a recipe of the other door": (("run", "train.yaml"), ("train.yaml", "llamafactory-cli")),
    "tokens that are none": (("plan", "run.yaml", *FAKE, "--tokens", "many"), ("'many'",)),
    "negative tokens": (("plan", "run.yaml", *FAKE, "--tokens", "-1"), ("'-1'",)),
    "tokens of many digits": (("plan", "run.yaml", *FAKE, "--tokens", "9" * 5000), ("999",)),
    # profile
    "no data": (("profile", "model", "--out", "new"), ("--data",)),
    "no place": (PROFILE, ("--out",)),
    "no samples": ((*PROFILE, "--out", "new", "--samples", "0"), ("--samples", "1")),
    "samples that are a word": ((*PROFILE, "--out", "new", "--samples", "all"), ("--samples",)),
    "a negative length": ((*PROFILE, "--out", "new", "--max-length", "-1"), ("--max-length", "1")),
    "a negative seed": ((*PROFILE, "--out", "new", "--seed", "-1"), ("--seed", "0")),
    "a place that is a folder": ((*PROFILE, "--out", "model"), ("model", "no scores file")),
    "a place that is something else": ((*PROFILE, "--out", "run.yaml"), ("run.yaml", "no scores")),
    "a place below a file": ((*PROFILE, "--out", "run.yaml/new"), ("run.yaml", "--out")),
    "moments in a file": (
        (*PROFILE, "--out", "new", "--second-moments", "run.yaml"), ("run.yaml", "moments")),
    "an unknown family": ((*PROFILE, "--out", "new", "--family", "lama"), ("'lama'", "llama")),
    "a model that is not": (("profile", "./no", "--data", "x", "--out", "new"), ("./no",)),
    "a model of nobody": (
        ("profile", "~nobody-is-called-so/m", "--data", "x", "--out", "new"), ("~nobody",)),
    # prune
    "nothing to cut": (PRUNE, ("nothing to cut", "--neurons")),
    "two amounts": ((*PRUNE, "--neurons", "8", "--neuron-fraction", "0.5"), ("exclude",)),
    "an amount that is a word": ((*PRUNE, "--neurons", "many"), ("--neurons", "'many'")),
    "an amount below zero": ((*PRUNE, "--neurons", "-8"), ("--neurons", "'-8'")),
    "an endless amount": ((*PRUNE, "--neurons", "inf"), ("--neurons", "'inf'")),
    "no number": ((*PRUNE, "--neurons", "nan"), ("--neurons", "'nan'")),
    "half a neuron": ((*PRUNE, "--neurons", "8.5"), ("--neurons", "8.5")),
    "no neuron": ((*PRUNE, "--neurons", "0"), ("no neuron",)),
    "all neurons": ((*PRUNE, "--neurons", "48"), ("48",)),
    "more than all": ((*PRUNE, "--neuron-fraction", "1.5"), ("--neuron-fraction", "1.5")),
    "a target above the model": ((*PRUNE, "--target-parameters", "7B"), ("7B",)),
    "a target of nothing": ((*PRUNE, "--target-parameters", "0"), ("--target-parameters", "0")),
    "all layers": ((*PRUNE, "--layers", "5"), ("5 layers",)),
    "a layer that is not": ((*PRUNE, "--drop-layers", "9"), ("--drop-layers", "9")),
    "a layer below zero": ((*PRUNE, "--drop-layers", "-1"), ("--drop-layers", "-1")),
    "a layer twice": ((*PRUNE, "--drop-layers", "1,1"), ("--drop-layers", "1")),
    "layers that are words": ((*PRUNE, "--drop-layers", "one"), ("--drop-layers", "'one'")),
    "a layer of many digits": ((*PRUNE, "--drop-layers", "9" * 5000), ("--drop-layers", "999")),
    "an unknown criterion": ((*PRUNE, "--neurons", "8", "--criterion", "mx"), ("'mx'",)),
    "a criterion of layers": ((*PRUNE, "--neurons", "8", "--criterion", "l2"), ("'l2'", "layers")),
    "a criterion of nothing": ((*PRUNE, "--layers", "1", "--criterion", "l2"), ("--criterion",)),
    "a multiple of nothing": ((*PRUNE, "--neurons", "8", "--multiple-of", "0"), ("--multiple-of",)),
    "a multiple that is too large": (
        (*PRUNE, "--neurons", "8", "--multiple-of", "99"), ("multiple", "99")),
    "protection without a set": (
        (*PRUNE, "--neurons", "8", "--protect-top", "4"), ("protect",)),
    "scores that are not": (
        ("prune", "model", "--scores", "none", "--out", "pruned", "--neurons", "8"), ("none",)),
    "scores that are a model": (
        ("prune", "model", "--scores", "model/model.safetensors", "--out", "p", "--neurons", "8"),
        ("model/model.safetensors", "no scores file")),
    "scores that are a folder": (
        ("prune", "model", "--scores", "data", "--out", "pruned", "--neurons", "8"), ("data",)),
    "scores that are text": (
        ("prune", "model", "--scores", "run.yaml", "--out", "pruned", "--neurons", "8"),
        ("run.yaml",)),
    "no scores": (("prune", "model", "--out", "pruned", "--neurons", "8"), ("--scores",)),
    "a place that is there": (
        ("prune", "model", "--out", "data", "--drop-layers", "1"), ("data", "is there already")),
    "the model itself": (
        ("prune", "model", "--out", "model", "--drop-layers", "1"), ("model", "is there already")),
    "a refit of nothing": ((*PRUNE, "--neurons", "8", "--refit", "none"), ("none", "second")),
    # eval
    "no task": (("eval", "model", "--tasks", ""), ("no task",)),
    "an unknown task": (("eval", "model", "--tasks", "gsm9k"), ("'gsm9k'",)),
    "a task twice": (("eval", "model", "--tasks", "speed,speed"), ("'speed'", "twice")),
    "speed alone": (("eval", "model", "--tasks", "speed"), ("'speed'", "--baseline")),
    "an unknown backend": ((*EVAL, "--backend", "onnx"), ("--backend", "'onnx'")),
    "an unknown template": ((*EVAL, "--chat-template", "x"), ("--chat-template", "'x'")),
    "no question": ((*EVAL, "--limit", "0"), ("--limit", "1")),
    "questions that are not": (EVAL, ("data", "gsm8k")),
    "a model to ask that is not": (("eval", "./no", "--tasks", "gsm8k_cot"), ("./no",)),
    "a baseline that is not": ((*EVAL, "--baseline", "./no"), ("./no",)),
    "answers below a file": ((*EVAL, "--out", "run.yaml/x.json"), ("run.yaml",)),
    # report
    "no run": (("report",), ("RUN_DIR",)),
    "a run that is not": (("report", "none"), ("none", "no such folder")),
    "a run that is a file": (("report", "run.yaml"), ("run.yaml", "is a file")),
    "a run that is a model": (("report", "model"), ("model", "no run folder")),
    # study
    "a study that is not": (("study", "none.yaml", "--folder", "x"), ("none.yaml",)),
    "a study that is a recipe": (("study", "short.yaml", "--folder", "x"), ("short.yaml",)),
    "a study of nothing": (("study", "study.yaml"), ("--folder",)),
    "a study of a run that is not": (
        ("study", "study.yaml", "--folder", "x", "--only", "oursx"), ("oursx",)),
    "a study with a word": (
        ("study", "study.yaml", "--folder", "x", "--set", "seed"), ("--set seed",)),
    "a page without records": (("study", "study.yaml", "--page", "p.md"), ("--from",)),
    "records that are not": (
        ("study", "study.yaml", "--from", "none", "--page", "p.md"), ("none",)),
    "a negative budget": (
        ("study", "study.yaml", "--folder", "x", "--budget", "-1"), ("--budget", "0")),
    # data
    "an unknown corpus": (("data", "minii", "--out", "x"), ("minii",)),
    "no place for a corpus": (("data", "released_mix"), ("--out",)),
    "a corpus in a file": (("data", "released_mix", "--out", "run.yaml"), ("run.yaml",)),
    "no rows": (("data", "released_mix", "--out", "x", "--rows", "0"), ("--rows", "1")),
    # others
    "an unknown kind": (("ls", "criterias"), ("criterias", "criteria")),
    "a miniature in a file": (("miniature", "--out", "run.yaml"), ("run.yaml", "is a file")),
}  # fmt: skip


@pytest.mark.parametrize("case", WORDS)
def test_words_that_are_wrong(place, refused, case):
    words, names = WORDS[case]
    write_yaml(place / "short.yaml", {"model": "model"})
    if case == "a study that is a recipe":
        write_yaml(place / "short.yaml", {**STUDY, "model": "model"})
    refused(*words, names=names)


STUDIES = {
    "no runs": ("runs", ..., ("runs", "missing")),
    "an empty list of runs": ("runs", {}, ("runs", "at least 1")),
    "runs that are a list": ("runs", [{"recipe": "run.yaml"}], ("runs", "dictionary")),
    "a run that is text": ("runs.ours", "run.yaml", ("runs.ours", "'run.yaml'")),
    "a run without a recipe": ("runs.ours", {"seeds": [1]}, ("runs.ours.recipe", "missing")),
    "a run above": ("runs", {"../up": {"recipe": "run.yaml"}}, ("runs.../up",)),
    "a run with a slash": ("runs", {"a/b": {"recipe": "run.yaml"}}, ("runs.a/b", "name")),
    "a run named by dots": ("runs", {"..": {"recipe": "run.yaml"}}, ("runs...", "name")),
    "a recipe that is not": ("runs.ours.recipe", "none.yaml", ("runs.ours", "none.yaml")),
    "a recipe that is a folder": ("runs.ours.recipe", "model", ("runs.ours", "model")),
    "a recipe with a NUL": ("runs.ours.recipe", "r\x00.yaml", ("runs.ours.recipe",)),
    "a recipe of nobody": ("runs.ours.recipe", "~nobody-is-called-so/r", ("runs.ours", "~nobody")),
    "a seed below zero": ("seeds", [-1], ("seeds.0", "-1")),
    "a seed twice": ("seeds", [1, 1], ("seeds", "twice")),
    "a seed that is a word": ("seeds", ["one"], ("seeds.0", "'one'")),
    "a run that waits for itself": ("runs.ours.after", ["ours"], ("runs.ours", "itself")),
    "a run that waits for nobody": ("runs.ours.after", ["their"], ("runs.ours.after", "'their'")),
    "a control that is not": ("controls", ["contol"], ("controls", "'contol'", "control")),
    "a pair of one": ("pairs", [["ours"]], ("pairs.0", "2")),
    "a key of the study's own": ("set", {"seed": 3}, ("set.seed", "set by the study")),
    "a key that no recipe has": ("set", {"shedule": []}, ("shedule",)),
    "a title twice": ("tables", [{"title": "a", "runs": ["ours"]}] * 2, ("tables.1.title",)),
    "a table of nothing": ("tables", [{"title": "a"}], ("tables.0", "runs")),
}  # fmt: skip


@pytest.mark.parametrize("case", STUDIES)
def test_a_study_that_is_wrong(place, refused, case):
    where, value, names = STUDIES[case]
    write_yaml(place / "wrong.yaml", changed(STUDY, where, value))
    refused("study", "wrong.yaml", "--folder", "runs", *FAKE, names=("wrong.yaml: ", *names))


RECORDS = {
    "an empty manifest": ("manifest.json", "", ("manifest.json", "damaged")),
    "a manifest cut short": ("manifest.json", '{"recipe": {', ("manifest.json", "damaged")),
    "a manifest that is a list": ("manifest.json", "[]", ("manifest.json", "damaged")),
    "a manifest without a recipe": ("manifest.json", "{}", ("manifest.json", "recipe")),
    "a manifest in depth": ("manifest.json", "[" * 10**5, ("manifest.json", "damaged")),
    "a manifest that is not UTF-8": ("manifest.json", b"\xff", ("manifest.json", "damaged")),
    "an empty record": ("round_01/record.json", "", ("record.json", "damaged")),
    "a record that is null": ("round_01/record.json", "null", ("record.json", "damaged")),
    "a record of NULs": ("round_01/record.json", "\x00" * 64, ("record.json", "damaged")),
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(ready, tmp_path_factory):
    """A run of `ready`, that a test may copy and damage."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    words = ("run", "run.yaml", *FAKE, "--run-dir", str(folder))
    done = subprocess.run([Path(sys.executable).with_name("ptl"), *words], cwd=ready)
    assert done.returncode == 0
    return folder


@pytest.mark.parametrize("case", RECORDS)
def test_a_run_that_is_damaged(place, refused, finished, case):
    import shutil

    name, text, names = RECORDS[case]
    shutil.copytree(finished, place / "out")
    (place / "out" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused("report", "out", names=("out", *names))


@pytest.mark.parametrize("value", ['{"num_layers": 5}', "[1, 2]", "{", '{"layers": "x"}'])
def test_a_pruned_model_whose_provenance_is_none(place, refused, value):
    (place / "model/ptl_pruning.json").write_text(value, encoding="utf-8")
    words = ("prune", "model", "--drop-layers", "1", "--out", "pruned")
    refused(*words, names=("ptl_pruning.json", "remove it"))


@pytest.mark.parametrize("how", ["cut short", "other shapes", "not finite", "of another model"])
def test_scores_that_are_damaged(place, refused, how):
    from damaged_checkpoints import read_file, write_file

    path = place / "scores"
    header, data = read_file(path)
    if how == "cut short":
        path.write_bytes(path.read_bytes()[:-9])
    elif how == "other shapes":
        for entry in header.values():
            entry.get("shape", []).reverse()
        write_file(path, header, data)
    elif how == "not finite":
        write_file(path, header, b"\x00\x00\xc0\x7f" * (len(data) // 4))
    else:
        facts = json.loads(header["__metadata__"]["ptl"])
        header["__metadata__"]["ptl"] = json.dumps({**facts, "model_digest": "0" * 64})
        write_file(path, header, data)
    told = {"cut short": "cannot be read", "other shapes": "shape", "not finite": "not finite",
            "of another model": "another model"}[how]  # fmt: skip
    refused(*PRUNE, "--neurons", "8", names=("scores", told))


def process(place, *words, **environment):
    """Run a command in a process of its own; return exit code, stdout and stderr."""
    program = Path(sys.executable).with_name(words[0])
    done = subprocess.run(
        [program, *words[1:]],
        cwd=place,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["run", "validate", "plan"])
def test_the_console_script_does_the_same(place, command):
    write_yaml(place / "wrong.yaml", changed(RUN, "shedule", []))
    before = folder_tree(place)
    code, out, err = process(place, "ptl", command, "wrong.yaml", *FAKE)
    the_one_line(code, out, err, ("wrong.yaml: shedule: ", "did you mean"))
    assert folder_tree(place) == before


@pytest.mark.parametrize("door", [("llamafactory-cli", "train"), ("ptl", "train-llamafactory")])
def test_the_console_script_of_llamafactory_does_the_same(place, door):
    (place / "wrong.yaml").write_text((place / "train.yaml").read_text() + "a: *a\n")
    before = folder_tree(place)
    code, out, err = process(place, *door, "wrong.yaml")
    line = err.splitlines()[-1] + "\n"  # LLaMA-Factory may print at its import
    the_one_line(code, "", line, ("wrong.yaml: ", "undefined alias"))
    assert "Traceback" not in err
    assert err.count("ptl: ") == 1
    assert folder_tree(place) == before
    assert "wrong.yaml" not in out
