"""`ptl prune` in this process: bit for bit the live cut, the right neurons, a model that runs."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptl_plugins.checkpoint import save_live
from ptl_plugins.errors import PruneError, PTLError
from ptl_plugins.families import find_family
from ptl_plugins.geometry import geometry
from ptl_plugins.model_config import read_config
from ptl_plugins.model_digest import model_digest
from ptl_plugins.profile_run import ProfileRequest, run_profile
from ptl_plugins.protection import protected
from ptl_plugins.provenance import FILE, Provenance, how_it_was_cut, untouched
from ptl_plugins.prune_run import PruneRequest, run_prune
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.refit import refit_live
from ptl_plugins.scores_file import digest, read_scores, write_scores
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.selection import lowest_per_layer
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.side_files import side_files
from ptl_plugins.surgery import prune_live
from ptl_plugins.testing import TINY, tiny_texts, write_tiny_checkpoint
from ptl_plugins.types import Cut, Subject

FAMILIES = sorted(TINY)
WITH_WINDOWS = ("gemma2", "gemma3_text", "mistral", "phi3", "qwen2", "qwen3")
WIDTH, DEPTH = 48, 5


def neurons(amount, selector="count", criterion="output_change"):
    return Cut(unit="neuron", criterion=criterion, selector=selector, amount=float(amount))


def layers(amount, selector="count", criterion="l2"):
    return Cut(unit="layer", criterion=criterion, selector=selector, amount=float(amount))


CUTS = {
    "neurons": {"cuts": (neurons(8),)},
    "layers": {"cuts": (layers(2),)},
    "both": {"cuts": (layers(1), neurons(5))},
    "named layers": {"cuts": (neurons(3),), "drop_layers": (2, 0)},
}


@pytest.fixture(scope="module")
def profiled(tmp_path_factory, registry):
    """A tiny model of a family with its scores and second moments, each made once."""
    root = tmp_path_factory.mktemp("profiled")
    for name, seed in (("main", 0), ("other", 7)):
        text = "\n".join(json.dumps({"text": text}) for text in tiny_texts(12, seed=seed))
        (root / f"{name}.jsonl").write_text(text, encoding="utf-8")

    def run(model, **keys):
        request = ProfileRequest(
            model=str(model),
            data=str(root / "main.jsonl"),
            out=model.with_name(f"{model.name}.scores"),
            second_moments=model.with_name(f"{model.name}.moments"),
            **keys,
        )
        run_profile(request, registry, SingleProcess(), lambda *_: None)
        return SimpleNamespace(model=model, scores=request.out, moments=request.second_moments)

    @functools.cache
    def make(model_type="llama", seed=0):
        model = write_tiny_checkpoint(root / f"{model_type}{seed}", model_type, seed=seed)
        (model / "chat_template.jinja").write_text("{{ messages }}\n", encoding="utf-8")
        return run(model, protect=str(root / "other.jsonl"))

    make.run = run
    return make


@pytest.fixture
def prune(profiled, registry, tmp_path):
    """Prune a profiled model into `tmp_path / "out"`; keys override the request."""

    def run(model_type="llama", *, refit=False, **keys):
        ready = profiled(model_type)
        facts = {"model": str(ready.model), "out": tmp_path / "out", "scores": ready.scores}
        if refit:
            facts["refit"] = ready.moments if refit is True else refit
        return run_prune(PruneRequest(**{"cuts": (), "protect_top": 0, **facts, **keys}), registry)

    return run


def importance(ready, registry, criterion="output_change"):
    return registry.criteria.get(criterion).importance(read_scores(ready.scores)[0])


def sizes(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config["intermediate_size"], config["num_hidden_layers"]


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def cut_live(ready, out, registry, plan, *, how):
    """Load the model, cut it in memory and save it, as a run in a trainer does."""
    model = AutoModelForCausalLM.from_pretrained(ready.model, dtype="auto")
    family = find_family(registry, model.config.to_dict())
    stored = model.dtype
    if how["refit"] == "ridge":
        moments = MomentFolder(path=ready.moments)
        refit_live(model, family, plan, moments, SingleProcess())
    prune_live(model, family, plan)
    parent = {"model": str(ready.model), "digest": model_digest(open_checkpoint(ready.model))}
    origin = untouched(num_layers=DEPTH, width=WIDTH).after(plan, parent, how)
    subject = Subject(family=family, model=model, stored_dtype=stored)
    save_live(subject, out, original=str(ready.model), extra={FILE: origin.to_json()})


@pytest.mark.parametrize("refit", [False, True], ids=["plain", "refit"])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_checkpoint_is_bit_for_bit_the_live_cut(
    prune, profiled, registry, tmp_path, model_type, cut, refit
):
    pruned = prune(model_type, refit=refit, **CUTS[cut])
    refitted = refit and bool(pruned.plan.removed_neurons)
    live = tmp_path / "live"
    asked = CUTS[cut]["cuts"]
    if cut == "named layers":
        asked = (layers(2, "named", "named"), *asked)
    how = how_it_was_cut(asked, refit=refitted, protected=0)
    cut_live(profiled(model_type), live, registry, pruned.plan, how=how)
    assert pruned.refitted is refitted
    assert files(tmp_path / "out") == files(live)


@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_a_refit_changes_the_output_matrices_and_nothing_else(prune, tmp_path, model_type):
    prune(model_type, cuts=(neurons(8),), out=tmp_path / "plain")
    prune(model_type, cuts=(neurons(8),), refit=True)
    plain, refitted = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "plain", tmp_path / "out")
    )
    changed = {name for name in plain if not torch.equal(plain[name], refitted[name])}
    assert changed == {f"model.layers.{i}.mlp.down_proj.weight" for i in range(DEPTH)}


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


def test_two_prunes_in_a_row_compose_to_the_original_indices(prune, profiled, registry, tmp_path):
    start = profiled()
    first = prune(cuts=(layers(1), neurons(6)), out=tmp_path / "one")
    again = profiled.run(tmp_path / "one")
    second = prune(
        model=str(again.model),
        scores=again.scores,
        cuts=(layers(1), neurons(4)),
        out=tmp_path / "two",
    )
    read = json.loads((tmp_path / "two" / FILE).read_text(encoding="utf-8"))
    origin = Provenance.from_json(read)
    assert (len(origin.layers), {len(row) for row in origin.neurons}) == (3, {38})
    before = load_file(start.model / "model.safetensors")
    after = load_file(tmp_path / "two" / "model.safetensors")
    for new, (old, kept) in enumerate(zip(origin.layers, origin.neurons, strict=True)):
        for name, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
            weight = before[f"model.layers.{old}.mlp.{name}.weight"].index_select(
                dim, torch.tensor(kept)
            )
            assert torch.equal(after[f"model.layers.{new}.mlp.{name}.weight"], weight)
    folders = (start, again)
    assert [entry["parent"] for entry in origin.history] == [
        {"model": str(f.model), "digest": model_digest(open_checkpoint(f.model))} for f in folders
    ]
    assert [entry["scores_digest"] for entry in origin.history] == [
        digest(read_scores(f.scores)[0]) for f in folders
    ]
    assert [entry["criteria"] for entry in origin.history] == [
        {"layer": "l2", "neuron": "output_change"}
    ] * 2
    assert [entry["width"] for entry in origin.history] == [[48, 42], [42, 38]]
    assert [entry["cuts"] for entry in origin.history] == [
        [
            {"unit": "layer", "criterion": "l2", "selector": "count", "amount": 1.0},
            {"unit": "neuron", "criterion": "output_change", "selector": "count", "amount": n},
        ]
        for n in (6.0, 4.0)
    ]
    assert [entry["layers"] for entry in origin.history] == [[5, 4], [4, 3]]
    assert (first.plan.new_width, second.plan.new_width) == (42, 38)


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


def greedy(model, ids, **keys):
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 3, "eos_token_id": None}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **{**options, **keys})


@pytest.mark.parametrize("cut", [(layers(2),), (layers(1), neurons(8))], ids=["layers", "both"])
@pytest.mark.parametrize("model_type", WITH_WINDOWS)
def test_the_result_loads_and_generates_the_same_with_cache(prune, tmp_path, model_type, cut):
    prune(model_type, cuts=cut)
    model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    model.generation_config.max_length = None
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer(tiny_texts(1)[0], return_tensors="pt")["input_ids"]
    assert ids.shape[1] > 8, "longer than the window"
    with_cache, without = (greedy(model, ids, use_cache=use) for use in (True, False))
    assert torch.equal(with_cache, without)
    assert with_cache.shape[1] == ids.shape[1] + 20


@pytest.mark.parametrize("model_type", WITH_WINDOWS)
def test_every_layer_keeps_its_kind_of_attention(prune, profiled, tmp_path, model_type):
    prune(model_type, drop_layers=(1, 3))
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder).config.to_dict().get("layer_types")
        for folder in (profiled(model_type).model, tmp_path / "out")
    )
    if before is not None:
        assert after == [before[i] for i in (0, 2, 4)]
    assert (before is None) is (model_type in ("mistral", "phi3"))


def test_side_files_are_the_originals_byte_for_byte(prune, profiled, tmp_path):
    model = shutil.copytree(profiled().model, tmp_path / "model")
    (model / "LICENSE").write_bytes(b"line\r\n\xff\n")
    for name in ("scores.0.ptl-part", "x.ptl-tmp", "optimizer.bin", ".hidden"):
        (model / name).write_bytes(b"x")
    (model / "folder").mkdir()
    prune(model=str(model), cuts=(neurons(1),))
    own = {"config.json", "model.safetensors", FILE}
    carried = {
        "LICENSE", "chat_template.jinja", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert set(files(tmp_path / "out")) == own | carried
    for name in carried:
        assert (tmp_path / "out" / name).read_bytes() == (model / name).read_bytes()
    assert {file.name for file in side_files(str(tmp_path / "out"))} == carried, "and so on"


def test_the_models_own_folder_is_left_as_it_was(prune, profiled, tmp_path):
    before = files(profiled().model)
    prune(cuts=(layers(1), neurons(8)), refit=True)
    assert files(profiled().model) == before


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


def test_a_cut_that_finds_nothing_to_do_does_not_stop_the_other(prune, tmp_path):
    prune(cuts=(layers(2), neurons(0, "threshold")))
    assert sizes(tmp_path / "out") == (WIDTH, 3)
    prune(cuts=(layers(4), neurons(0.9, "parameters")), out=tmp_path / "small")
    assert sizes(tmp_path / "small") == (WIDTH, 1)


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


def test_weights_in_several_files_stay_in_several_files(prune, profiled, registry, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(profiled().model, dtype="auto")
    sharded = shutil.copytree(profiled().model, tmp_path / "sharded")
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="30KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    whole = prune(cuts=(neurons(8),), refit=True)
    pruned = prune(model=str(sharded), cuts=(neurons(8),), refit=True, out=tmp_path / "out2")
    assert pruned.plan == whole.plan, "the digest does not depend on the files"
    tensors = {}
    for file in (tmp_path / "out2").glob("*.safetensors"):
        tensors.update(load_file(file))
    expected = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
