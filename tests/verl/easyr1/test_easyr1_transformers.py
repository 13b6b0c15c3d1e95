"""What transformers 5 writes and transformers 4 does not read."""

from __future__ import annotations

import json

import pytest

from ptl_plugins.stage_types import StageModel
from verl_ext.easyr1_transformers import transformers_problems

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 500000.0}


def problems(folder, tokenizer_class="PreTrainedTokenizerFast", **config):
    text = json.dumps({"tokenizer_class": tokenizer_class})
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return list(transformers_problems(StageModel(config=config, folder=folder, shapes=())))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rope_theta": 1e6},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 1e6}, "rope_theta": 1e6},
        {"rope_parameters": LLAMA3, "rope_theta": 500000.0, "rope_scaling": {"factor": 8.0}},
    ],
)
def test_a_config_that_both_read_alike_is_fine(config, tmp_path):
    assert problems(tmp_path, **config) == []


def test_a_base_of_rotary_positions_that_would_be_lost_is_refused(tmp_path):
    (line,) = problems(tmp_path, rope_parameters={"rope_theta": 1e6, "rope_type": "default"})
    assert line.endswith('config.json; write {"rope_theta": 1000000.0} beside it')


def test_a_scaling_of_rotary_positions_that_would_be_lost_is_refused(tmp_path):
    (line,) = problems(tmp_path, rope_parameters=LLAMA3, rope_theta=500000.0)
    assert '"rope_scaling": {"rope_type": "llama3", "factor": 8.0}' in line


def test_a_tokenizer_of_transformers_5_is_refused(tmp_path):
    (line,) = problems(tmp_path, tokenizer_class="TokenizersBackend")
    assert "write PreTrainedTokenizerFast" in line


def test_a_damaged_or_missing_tokenizer_config_is_not_this_checks_affair(tmp_path):
    model = StageModel(config={}, folder=tmp_path, shapes=())
    assert list(transformers_problems(model)) == []
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    assert list(transformers_problems(model)) == []
