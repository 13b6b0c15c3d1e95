"""The config of a pruned checkpoint equals the one that the live path writes."""

from __future__ import annotations

import dataclasses
import json

import pytest
from transformers import AutoConfig

from ptl_plugins.checkpoint import _write_config
from ptl_plugins.checkpoint_config import pruned_config
from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.surgery import prune_live
from ptl_plugins.testing import COMMON, TINY, tiny_model
from ptl_plugins.types import PrunePlan

LISTED = Family(name="listed", model_types=("listed",), window_key="max_window_layers")


def plan_of(neurons=0, layers=()):
    rows = (tuple(range(neurons)),) * 5 if neurons else ()
    return PrunePlan(
        num_layers=5, width=48, removed_neurons=rows, removed_layers=layers, criteria={},
        scores_digest="d",
    )  # fmt: skip


PLANS = [plan_of(), plan_of(3), plan_of(0, (1, 4)), plan_of(3, (0,))]


@pytest.mark.parametrize("left_out", ["nothing", "lists", "null"])
@pytest.mark.parametrize("plan", PLANS, ids=repr)
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2"])
def test_it_is_the_dict_of_the_live_path(registry, tmp_path, name, plan, left_out):
    family = registry.families.get(name)
    text = AutoConfig.for_model(name, **{**COMMON, **TINY[name]}).to_json_string(use_diff=False)
    config = {**json.loads(text), "note": {"of": ["the", "user"]}}
    for key in family.per_layer_keys if left_out != "nothing" else ():
        if left_out == "lists" or config.pop(key, None) is None:
            config.pop(key, None)
        else:
            config[key] = None
    model = tiny_model(name)
    prune_live(model, family, plan)
    model.config.save_pretrained(tmp_path)
    _write_config(tmp_path / "config.json", config, family)
    live = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert pruned_config(config, family, plan) == live


def test_the_given_config_stays_as_it_is():
    config = {"intermediate_size": 48, "num_hidden_layers": 5, "layer_types": list("abcde")}
    after = pruned_config(config, LISTED, plan_of(1, (1,)))
    assert after == {"intermediate_size": 47, "num_hidden_layers": 4, "layer_types": list("acde")}
    assert config["layer_types"] == list("abcde")


def test_leading_layers_are_counted_again():
    config = {"intermediate_size": 48, "num_hidden_layers": 5, "max_window_layers": 3}
    assert pruned_config(config, LISTED, plan_of(0, (1, 4)))["max_window_layers"] == 2


def test_a_default_count_of_leading_layers_is_spelled_out_once_layers_went():
    family = dataclasses.replace(LISTED, per_layer_defaults=lambda config: {LISTED.window_key: 3})
    config = {"intermediate_size": 48, "num_hidden_layers": 5}
    assert "max_window_layers" not in pruned_config(config, family, plan_of(1))
    assert pruned_config(config, family, plan_of(0, (1, 4)))["max_window_layers"] == 2


@pytest.mark.parametrize("values", [["a"] * 4, "abcde", 5])
def test_a_list_that_is_not_one_entry_per_layer_is_refused(values):
    config = {"intermediate_size": 48, "num_hidden_layers": 5, "layer_types": values}
    with pytest.raises(PruneError, match=r"layer_types: .* not a list of 5 entries"):
        pruned_config(config, LISTED, plan_of(0, (1,)))


@pytest.mark.parametrize("key", ["intermediate_size", "num_hidden_layers"])
def test_a_config_of_another_model_is_refused(key):
    config = {"intermediate_size": 48, "num_hidden_layers": 5}
    for other in ({**config, key: 7}, {k: v for k, v in config.items() if k != key}):
        with pytest.raises(PruneError, match=f"{key}: is (7|None), but the plan is for"):
            pruned_config(other, LISTED, plan_of(1))
