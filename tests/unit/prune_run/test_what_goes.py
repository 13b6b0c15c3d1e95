"""`ptl prune` removes the right neurons and layers, and as many as were asked for."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ptl_plugins.errors import PruneError
from ptl_plugins.geometry import geometry
from ptl_plugins.model_config import read_config
from ptl_plugins.protection import protected
from ptl_plugins.provenance import FILE
from ptl_plugins.scores_file import read_scores, write_scores
from ptl_plugins.selection import lowest_per_layer

from .conftest import DEPTH, WIDTH, layers, neurons, sizes


def importance(ready, registry, criterion="output_change"):
    return registry.criteria.get(criterion).importance(read_scores(ready.scores)[0])


@pytest.mark.parametrize("criterion", ["output_change", "activation_mean", "released"])
def test_the_least_important_neurons_of_each_layer_go(prune, profiled, registry, criterion):
    pruned = prune(cuts=(neurons(7, criterion=criterion),))
    lowest = lowest_per_layer(importance(profiled(), registry, criterion), 7)
    assert pruned.plan.removed_neurons == lowest
    assert len(set(lowest)) == DEPTH, "other neurons in every layer"


@pytest.mark.parametrize(
    ("criterion", "gone"), [("last", (3, 4)), ("l2", None), ("block_influence", None)]
)
def test_the_least_important_layers_go(prune, profiled, registry, criterion, gone):
    pruned = prune(cuts=(layers(2, criterion=criterion),))
    values = importance(profiled(), registry, criterion)
    assert pruned.plan.removed_layers == (gone or tuple(sorted(values.argsort()[:2].tolist())))
    assert pruned.plan.new_num_layers == 3


def test_the_sizes_told_are_those_of_the_checkpoint(prune, registry, tmp_path):
    pruned = prune("gemma2", cuts=(layers(2), neurons(9)))
    family, config = registry.families.get("gemma2"), read_config(str(tmp_path / "out"))
    assert pruned.after == geometry(config, family)
    assert (pruned.before.width, pruned.before.num_layers) == (WIDTH, DEPTH)
    assert sizes(tmp_path / "out") == (39, 3)


def test_named_layers_go_whatever_their_importance_and_need_no_scores(prune, tmp_path, profiled):
    pruned = prune(drop_layers=(3, 1), scores=None)
    assert pruned.plan.removed_layers == (1, 3)
    assert (pruned.plan.criteria, pruned.plan.scores_digest) == ({"layer": "named"}, "")
    before = load_file(profiled().model / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    for new, old in enumerate((0, 2, 4)):
        name = "model.layers.{}.mlp.down_proj.weight"
        assert torch.equal(after[name.format(new)], before[name.format(old)])


def test_a_criterion_that_needs_no_statistic_needs_no_scores(prune, tmp_path):
    prune(cuts=(layers(2, criterion="last"),), scores=None)
    assert sizes(tmp_path / "out") == (WIDTH, 3)


def test_a_fraction_is_of_the_models_width(prune, tmp_path):
    prune(cuts=(neurons(0.25, "fraction"),))
    assert sizes(tmp_path / "out") == (36, DEPTH)


def test_a_threshold_removes_from_all_layers_what_the_narrowest_allows(prune, profiled, registry):
    values = importance(profiled(), registry)
    sigma = float(np.sort(values, axis=1)[:, 11].max())
    expected = int((values <= np.float32(sigma)).sum(axis=1).min())
    pruned = prune(cuts=(neurons(sigma, "threshold"),))
    assert expected >= 12
    assert pruned.plan.removed_neurons == lowest_per_layer(values, expected)


def test_a_threshold_of_layers_removes_every_layer_below_it(prune, profiled, registry):
    values = importance(profiled(), registry, "l2")
    sigma = float(np.sort(values)[2])
    pruned = prune(cuts=(layers(sigma, "threshold"),))
    assert pruned.plan.removed_layers == tuple(np.flatnonzero(values <= np.float32(sigma)).tolist())
    assert len(pruned.plan.removed_layers) == 3


@pytest.mark.parametrize(
    ("selector", "quantity"), [("parameters", "num_parameters"), ("flops", "flops_per_token")]
)
@pytest.mark.parametrize("dropped", [(), (0,)])
def test_a_target_is_met_with_as_little_as_possible(prune, selector, quantity, dropped):
    pruned = prune("qwen2", cuts=(neurons(0.7, selector),), drop_layers=dropped)
    wanted = 0.7 * getattr(pruned.before, quantity)
    assert getattr(pruned.after, quantity) <= wanted
    wider = pruned.after.after(width=pruned.after.width + 1, num_layers=DEPTH - len(dropped))
    assert getattr(wider, quantity) > wanted


def test_a_target_in_parameters_is_a_number(prune):
    pruned = prune(cuts=(neurons(40_000, "parameters"),))
    assert 40_000 - 5 * 96 < pruned.after.num_parameters <= 40_000


@pytest.mark.parametrize("cut", [neurons(11), neurons(0.85, "parameters")])
def test_the_width_left_is_a_multiple(prune, tmp_path, cut):
    free = prune(cuts=(cut,), out=tmp_path / "free")
    assert free.after.width % 8
    bound = prune(cuts=(cut,), multiple_of=8)
    assert bound.after.width % 8 == 0
    down = cut.selector == "parameters"  # a target is met, a count is not exceeded
    assert (bound.after.width < free.after.width) is down


def test_protected_neurons_stay(prune, profiled, registry, tmp_path):
    scores, criterion = read_scores(profiled().scores)[0], registry.criteria.get("output_change")
    spared = protected(criterion, scores.protect, 20)
    plain = prune(cuts=(neurons(20),))
    removed = [list(row) for row in plain.plan.removed_neurons]
    assert any(spared[layer, row].any() for layer, row in enumerate(removed))
    bound = prune(cuts=(neurons(20),), protect_top=20, out=tmp_path / "bound")
    for layer, row in enumerate(bound.plan.removed_neurons):
        assert not spared[layer, list(row)].any()


def test_a_protect_set_protects_a_twentieth_unless_told(prune, registry, profiled, tmp_path):
    ready = profiled()
    whole = {"cuts": (neurons(46),)}
    prune(**whole, protect_top=None)
    read = json.loads((tmp_path / "out" / FILE).read_text(encoding="utf-8"))
    assert (read["history"][0]["protected"], read["history"][0]["refit"]) == (2, "none")
    with pytest.raises(PruneError, match="only 45 of 48 are not protected: 1 too many"):
        prune(**whole, protect_top=3, out=tmp_path / "more")
    with pytest.raises(PruneError, match="only 46 of 48 are not protected: 1 too many"):
        prune(cuts=(neurons(47),), protect_top=None, out=tmp_path / "more")
    scores, about = read_scores(ready.scores)
    write_scores(tmp_path / "without", replace(scores, protect=None), about)
    prune(cuts=(neurons(47),), scores=tmp_path / "without", protect_top=None, out=tmp_path / "all")


def test_a_cut_that_finds_nothing_to_do_does_not_stop_the_other(prune, tmp_path):
    prune(cuts=(layers(2), neurons(0, "threshold")))
    assert sizes(tmp_path / "out") == (WIDTH, 3)
    prune(cuts=(layers(4), neurons(0.9, "parameters")), out=tmp_path / "small")
    assert sizes(tmp_path / "small") == (WIDTH, 1)
