"""Which models a rollout engine cannot serve."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ptl_plugins.geometry import Geometry
from ptl_plugins.stage_types import StageModel
from verl_ext.grpo_settings import VerlModel
from verl_ext.rollout_shape import has_chat_template, shape_problems

SHAPE = Geometry(
    num_layers=2, width=96, hidden=32, vocabulary=256, tied=True, layer_fixed=1, per_neuron=1
)
CONFIG = {"num_attention_heads": 12, "num_key_value_heads": 4}
PLAIN = {"problems": {"path": "p.jsonl"}, "chat_template": "plain_chat"}


def problems(parallel, *widths, folder=Path("/nothing"), settings=(), **config):
    shapes = tuple(replace(SHAPE, width=width) for width in widths or (96,))
    model = StageModel(config={**CONFIG, **config}, folder=folder, shapes=shapes)
    keys = {**PLAIN, "tensor_parallel": parallel, **dict(settings)}
    return list(shape_problems(VerlModel.model_validate(keys), model))


@pytest.mark.parametrize(
    ("parallel", "config"),
    [
        (1, {"num_attention_heads": 7, "num_key_value_heads": 7}),
        (2, {}),
        (4, {}),
        (12, {}),  # key-value heads are repeated
        (4, {"num_key_value_heads": None}),
        (4, {"num_key_value_heads": 1}),
    ],
)
def test_sizes_that_divide_are_fine(parallel, config):
    assert problems(parallel, 96, 84, **config) == []


@pytest.mark.parametrize(
    ("parallel", "widths", "config", "line"),
    [
        (
            5,
            (100,),
            {"num_key_value_heads": 5},
            "settings.tensor_parallel: 5 does not divide the model's 12 attention heads; "
            "give a divisor of it",
        ),
        (
            6,
            (96,),
            {},
            "settings.tensor_parallel: 6 neither divides nor is a multiple of the model's "
            "4 key-value heads",
        ),
        (
            4,
            (96, 90, 84),
            {},
            "settings.tensor_parallel: 4 does not divide the width 90 that a round leaves; "
            "set multiple_of to a multiple of 4",
        ),
    ],
)
def test_what_does_not_divide_is_one_line_with_the_remedy(parallel, widths, config, line):
    assert problems(parallel, *widths, **config) == [line]


def test_everything_wrong_is_told_at_once():
    found = problems(8, 90, num_key_value_heads=3)
    assert [line.split(": ")[1].split(" the ")[0] for line in found] == [
        "8 does not divide",
        "8 neither divides nor is a multiple of",
        "8 does not divide",
    ]


def tokenizer(folder, text):
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def test_a_model_without_a_chat_template_needs_one(tmp_path):
    tokenizer(tmp_path, json.dumps({"model_max_length": 9}))
    assert problems(1, folder=tmp_path, settings={"chat_template": None}) == [
        "settings.chat_template: the model has no chat template of its own; give one, such as "
        "plain_chat"
    ]
    assert problems(1, folder=tmp_path) == []


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_chat_template_may_be_a_file_beside(tmp_path, name):
    tokenizer(tmp_path, "{}")
    assert not has_chat_template(tmp_path)
    (tmp_path / name).write_text("{}", encoding="utf-8")
    assert has_chat_template(tmp_path)


@pytest.mark.parametrize(
    "text", [json.dumps({"chat_template": "{{ messages }}"}), "{ damaged", None]
)
def test_what_cannot_be_seen_to_be_without_one_is_let_through(tmp_path, text):
    if text is not None:
        tokenizer(tmp_path, text)
    assert has_chat_template(tmp_path)
