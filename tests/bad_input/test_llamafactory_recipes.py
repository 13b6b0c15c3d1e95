"""A yaml of LLaMA-Factory with a `ptl:` section, and one thing wrong in either part."""

from __future__ import annotations

import json

import pytest
import yaml
from good_recipes import LLAMAFACTORY, changed, write_yaml

DEEPSPEED = {"zero_optimization": {"stage": 2}}
CASES = {
    # the section
    "a section that is null": ("ptl", None, ("ptl", "None")),
    "a section that is text": ("ptl", "neuron", ("ptl", "'neuron'")),
    "a section that is a list": ("ptl", [1], ("ptl", "[1]")),
    "an empty section": ("ptl", {}, ("ptl.schedule", "missing")),
    "an unknown key": ("ptl.shedule", [], ("ptl.shedule", "did you mean 'schedule'")),
    "a key of ptl run": ("ptl.recover", [], ("ptl.recover", "unknown key")),
    "no round": ("ptl.schedule", [], ("ptl.schedule", "at least 1")),
    "a phase that is text": ("ptl.schedule.0", "neuron", ("ptl.schedule.0", "'neuron'")),
    "an unknown unit": ("ptl.schedule.0.unit", "head", ("ptl.schedule.0.unit", "'head'")),
    "an unknown criterion": ("ptl.schedule.0.criterion", "max", ("ptl.schedule.0.criterion",)),
    "a negative amount": ("ptl.schedule.0.amount", -1, ("ptl.schedule.0.amount", "-1")),
    "an amount that is too large": ("ptl.schedule.0.amount", 40, ("ptl.schedule", "40")),
    "slicing": ("ptl.schedule.0", {"unit": "hidden", "amount": 8}, ("ptl.schedule", "hidden")),
    "a seed that is text": ("ptl.seed", "abc", ("ptl.seed", "'abc'")),
    "an unknown family": ("ptl.family", "lama", ("ptl.family", "'lama'")),
    "an unknown evaluator": (
        "ptl.evaluate", {"tasks": [{"evaluator": "sped"}]}, ("ptl.evaluate.tasks.0", "speed")),
    "a teacher that is not there": (
        "ptl.distill", {"teacher": "./none", "weight": 0.5}, ("ptl.distill.teacher", "./none")),
    "a teacher of nobody": (
        "ptl.distill", {"teacher": "~nobody-is-called-so/m", "weight": 0.5}, ("~nobody",)),
    "a protect set that is not there": (
        "ptl.protect", {"data": "./none.jsonl", "top": 2}, ("ptl.protect.data", "none.jsonl")),
    # LLaMA-Factory's keys
    "an unknown key of its own": ("learning_rat", 1e-4, ("learning_rat", "learning_rate")),
    "no model": ("model_name_or_path", ..., ("model_name_or_path", "missing")),
    "a model that is a list": ("model_name_or_path", ["m"], ("model_name_or_path", "['m']")),
    "a model that is a number": ("model_name_or_path", 7, ("model_name_or_path", "7")),
    "a model that is not there": ("model_name_or_path", "./none", ("./none", "no such folder")),
    "a model of nobody": ("model_name_or_path", "~nobody-is-called-so/m", ("~nobody",)),
    "a model of two lines": ("model_name_or_path", "mo\ndel", ("model_name_or_path", "mo\\ndel")),
    "no output": ("output_dir", ..., ("output_dir", "missing")),
    "an output that is a file": ("output_dir", "scores", ("output_dir", "scores", "file")),
    "an output that is a model": ("output_dir", "model", ("output_dir", "model")),
    "an output that is a mapping": ("output_dir", {"a": 1}, ("output_dir", "{'a': 1}")),
    "an output with a NUL": ("output_dir", "o\x00ut", ("output_dir", "o\\x00ut")),
    "an output of 5000 letters": ("output_dir", "x" * 5000, ("xxx", "too long")),
    "another stage": ("stage", "sft", ("stage", "'sft'")),
    "a stage that is a list": ("stage", ["pt"], ("stage", "['pt']")),
    "no training": ("do_train", False, ("do_train", "False")),
    "training that is text": ("do_train", "true", ("do_train", "'true'")),
    "an adapter": ("finetuning_type", "lora", ("finetuning_type", "'lora'")),
    "a quantised one": ("quantization_bit", 4, ("quantization_bit", "4")),
    "streaming": ("streaming", True, ("streaming", "True")),
    "a seed below zero": ("seed", -1, ("seed", "-1")),
    "a seed that is true": ("seed", True, ("seed", "True")),
    "a file of DeepSpeed that is not there": ("deepspeed", "none.json", ("deepspeed", "none.json")),
    "a file of DeepSpeed that is a folder": ("deepspeed", "model", ("deepspeed", "'model'")),
    "a file of DeepSpeed in depth": ("deepspeed", "deep.json", ("deepspeed", "deep.json")),
    "a file of DeepSpeed that is a list": ("deepspeed", "list.json", ("deepspeed", "list.json")),
    "DeepSpeed that is a number": ("deepspeed", 3, ("deepspeed", "3")),
    "DeepSpeed of another stage": (
        "deepspeed", {"zero_optimization": {"stage": 3}}, ("deepspeed", "ZeRO-3")),
    "DeepSpeed that is broken": (
        "deepspeed", {"zero_optimization": [2]}, ("deepspeed", "cannot be read")),
}  # fmt: skip
TEXTS = {
    "a key that is a date": ("2024-01-01: x\n", ("wrong.yaml", "LLaMA-Factory")),
    "a key that is null": ("~: x\n", ("wrong.yaml",)),
    "a key that is a number": ("7: x\n", ("wrong.yaml", "7")),
    "a value that is a set": ("run_name: !!set {a, b}\n", ("wrong.yaml",)),
    "a reference that is open": ('run_name: "${oc.env:HOME"\n', ("wrong.yaml",)),
    "a reference to nothing": ('run_name: "${nothing.there}"\n', ("wrong.yaml",)),
    "a mark of what is missing": ('model_name_or_path: "???"\n', ("wrong.yaml", "???")),
}  # fmt: skip
OVERRIDES = {
    "a word that is open": ("ptl.seed=[1", ("ptl.seed=[1",)),
    "a word in itself": ("ptl.seed=&a [*a]", ("ptl.seed=&a [*a]",)),
    "a seed": ("ptl.seed=abc", ("ptl.seed", "'abc'")),
    "a phase": ("ptl.schedule=[]", ("ptl.schedule", "at least 1")),
    "another section": ("ptl=3", ("ptl",)),
    "another model": ("model_name_or_path=./none", ("model_name_or_path", "./none")),
    "another stage": ("stage=dpo", ("stage", "'dpo'")),
}  # fmt: skip


def write_files(place):
    """Write what some cases name."""
    (place / "deep.json").write_text("[" * 10**5, encoding="utf-8")
    (place / "list.json").write_text("[1]", encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_llamafactory_does_not_start(place, refused_by_llamafactory, case):
    where, value, names = CASES[case]
    write_files(place)
    write_yaml(place / "wrong.yaml", changed(LLAMAFACTORY, where, value))
    refused_by_llamafactory("wrong.yaml", names=names)


BY_LLAMAFACTORY = {"an unknown key of its own", "an output that is a file",
                   "an output that is a model", "an output of 5000 letters"}  # fmt: skip


@pytest.mark.parametrize("case", [case for case in CASES if case not in BY_LLAMAFACTORY])
def test_ptl_validate_refuses(place, refused, case):
    where, value, names = CASES[case]
    write_files(place)
    write_yaml(place / "wrong.yaml", changed(LLAMAFACTORY, where, value))
    refused("validate", "wrong.yaml", names=("wrong.yaml: ", *names))


@pytest.mark.parametrize("case", [case for case in TEXTS if "reference to" not in case])
def test_a_text_that_llamafactory_cannot_read(place, refused_by_llamafactory, case):
    text, names = TEXTS[case]
    keys = {key: value for key, value in LLAMAFACTORY.items() if not text.startswith(key)}
    (place / "wrong.yaml").write_text(text + yaml.safe_dump(keys), encoding="utf-8")
    refused_by_llamafactory("wrong.yaml", names=names)


@pytest.mark.parametrize("case", OVERRIDES)
def test_a_word_behind_the_yaml(refused_by_llamafactory, case):
    word, names = OVERRIDES[case]
    refused_by_llamafactory("train.yaml", word, names=("train.yaml", *names))


@pytest.mark.parametrize("key", ['"ptl"', "'ptl'", "ptl ", "\ufeffptl"])
def test_the_section_is_found_however_it_is_written(place, refused_by_llamafactory, key):
    rest = yaml.safe_dump({k: v for k, v in LLAMAFACTORY.items() if k != "ptl"})
    text = f"{key}: {json.dumps({'shedule': []})}\n{rest}"
    (place / "wrong.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match="== 1"):  # two problems, two lines
        refused_by_llamafactory("wrong.yaml", names="ptl.shedule")
