"""What `ptl prune` refuses: one line, and nothing is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.provenance import FILE
from ptl_plugins.scores_file import read_scores, write_scores

from .conftest import layers, neurons


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read as provenance"),
        ("[]", "cannot be read as provenance"),
        ('{"layers": [0]}', "cannot be read as provenance"),
        ('{"layers": [0], "neurons": [[0]], "history": ["x"]}', "cannot be read as provenance"),
        ('{"layers": [0], "neurons": [[0]], "history": []}', "is not of this model, whose shape"),
    ],
)
def test_a_wrong_provenance_is_refused(prune, profiled, tmp_path, text, told):
    model = shutil.copytree(profiled().model, tmp_path / "model")
    (model / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(PTLError, match=rf"{FILE}: {told}.*; remove it"):
        prune(model=str(model), cuts=(neurons(1),))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def refused(prune, tmp_path):
    """Assert that the prune is refused with a line that matches, and that nothing is written."""

    def run(told, **keys):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(PTLError, match=told) as raised:
            prune(**keys)
        assert "\n" not in str(raised.value)
        assert sorted(tmp_path.rglob("*")) == before

    return run


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(refused, profiled, tmp_path, value):
    scores, about = read_scores(profiled().scores)
    scores.statistics["neuron_square_sum"][3, 7] = value
    write_scores(tmp_path / "bad", scores, about)
    told = r"criterion 'output_change' is not finite in layer 3 .*\(1 of 240 values\)"
    refused(told, scores=tmp_path / "bad", cuts=(neurons(4),))


def test_scores_of_another_model_are_refused(refused, profiled):
    told = rf"are of another model \(model_digest \w{{12}}, not \w{{12}}\); .* {profiled().model} "
    refused(told, scores=profiled(seed=1).scores, cuts=(neurons(4),))


def test_scores_that_do_not_say_of_which_model_are_refused(refused, profiled, tmp_path):
    write_scores(tmp_path / "round", read_scores(profiled().scores)[0])
    told = "do not say which model they are of, as those of a run's round do not; profile this one"
    refused(told, scores=tmp_path / "round", cuts=(neurons(4),))


def test_a_missing_statistic_is_named(refused, profiled, tmp_path):
    scores, about = read_scores(profiled().scores)
    scores.statistics.pop("layer_l2_sum")
    write_scores(tmp_path / "fewer", scores, about)
    told = "criterion 'l2' needs the statistic 'layer_l2_sum', which the scores do not hold"
    refused(told, scores=tmp_path / "fewer", cuts=(layers(1),))


def test_moments_of_another_model_are_refused(refused, profiled):
    told = "layer_000.safetensors: was made from another model"
    refused(told, refit=profiled(seed=1).moments, cuts=(neurons(4),))


def test_a_layer_without_moments_is_named_unless_it_goes(refused, prune, profiled, tmp_path):
    moments = shutil.copytree(profiled().moments, tmp_path / "moments")
    (moments / "layer_002.safetensors").unlink()
    refused("layer_002.safetensors: no such second moment", refit=moments, cuts=(neurons(4),))
    prune(refit=moments, cuts=(neurons(4),), drop_layers=(2,))


def test_moments_that_turn_out_wrong_half_way_leave_nothing(refused, profiled, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    moments = shutil.copytree(profiled().moments, tmp_path / "moments")
    path = moments / "layer_003.safetensors"
    with safe_open(path, "pt") as file:
        facts, moment = file.metadata(), file.get_tensor("second_moment")
    for broken, told in ((moment[:40, :40], "of width 40"), (moment / 0, "not finite")):
        save_file({"second_moment": broken.contiguous()}, path, facts)
        refused(told, refit=moments, cuts=(neurons(4),))


def test_without_a_neuron_cut_no_moment_is_read(prune, tmp_path):
    prune(refit=tmp_path / "nowhere", cuts=(layers(1),))


MISTAKES = {
    "target is there": ({"out": "taken", "cuts": (neurons(1),)}, "taken: is there already; remove"),
    "target first of all": ({"out": "taken", "scores": "no"}, "taken: is there already; remove"),
    "no scores": ({"scores": None, "cuts": (neurons(1),)}, "'output_change' needs --scores; make"),
    "no such scores": ({"scores": "no", "cuts": (neurons(1),)}, "no: cannot be read as scores"),
    "too many neurons": ({"cuts": (neurons(48),)}, "only 48 and one has to stay: 1 too many"),
    "too many layers": ({"cuts": (layers(5),)}, "only 5 and one has to stay: 1 too many"),
    "target out of reach": ({"cuts": (neurons(0.1, "parameters"),)}, "0.1 cannot be reached"),
    "nothing": ({"cuts": (neurons(0),)}, "no neuron would be removed: count 0 comes to none; ch"),
    "fraction of nothing": ({"cuts": (neurons(0.001, "fraction"),)}, "fraction 0.001 comes to no"),
    "threshold of nothing": ({"cuts": (layers(0, "threshold"),)}, "no layer would be removed"),
    "target is met": (
        {"cuts": (neurons(9e9, "parameters"),)},
        r"--target-parameters 9B: the model has \d\d,\d{3} parameters already; give a lower target",
    ),
    "rounded away": (
        {"cuts": (neurons(5),), "multiple_of": 8},
        "count 5 comes to none, or --multiple-of 8 rounds it away; change the amount",
    ),
    "half of it is none": (
        {"cuts": (layers(1), neurons(5)), "multiple_of": 8},
        "no neuron would be removed: count 5",
    ),
    "layer too high": ({"drop_layers": (1, 5)}, r"--drop-layers 5: .* once, from 0 to 4"),
    "layer below 0": ({"drop_layers": (-1,)}, r"--drop-layers -1: is not allowed"),
    "layer twice": ({"drop_layers": (3, 1, 3)}, r"--drop-layers 3: is not allowed; give each lay"),
    "every layer": ({"drop_layers": (0, 1, 2, 3, 4)}, "names every layer; at least one has to st"),
    "all protected": ({"cuts": (neurons(1),), "protect_top": 48}, "48 of 48 neurons per layer"),
    "too few unprotected": ({"cuts": (neurons(9),), "protect_top": 40}, "only 8 of 48 are not pr"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_writes_nothing(refused, tmp_path, case):
    keys, told = MISTAKES[case]
    (tmp_path / "taken").mkdir()
    keys = {k: tmp_path / v if isinstance(v, str) else v for k, v in keys.items()}
    refused(told, **keys)


def test_a_protect_set_that_is_not_there_cannot_protect(refused, profiled, tmp_path):
    scores, about = read_scores(profiled().scores)
    write_scores(tmp_path / "without", replace(scores, protect=None), about)
    told = "4 neurons per layer shall be protected, but the scores hold no protect set"
    refused(told, scores=tmp_path / "without", cuts=(neurons(4),), protect_top=4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"quantization_config": {"bits": 4}}, "is quantised"),
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported"),
    ],
)
def test_a_model_that_cannot_be_pruned_is_refused(refused, profiled, tmp_path, change, told):
    folder = shutil.copytree(profiled().model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    refused(told, model=str(folder), cuts=(neurons(4),))
