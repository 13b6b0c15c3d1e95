"""What slicing cannot do is one line before anything is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ptl_plugins.cli.main import build_app
from ptl_plugins.errors import PruneError, PTLError, RecipeError
from ptl_plugins.evaluation.examinee import loaded_examinee
from ptl_plugins.evaluation.values import EvaluationError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.markers import hookimpl
from ptl_plugins.preflight import plan_run
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.slicegpt import plugin
from ptl_plugins.slicegpt.sliced_checkpoint import slice_checkpoint
from ptl_plugins.stage_types import ModelChecker
from ptl_plugins.testing import FakeBackend, write_tiny_checkpoint, write_tiny_corpus
from ptl_plugins.types import Subject
from verl_ext.grpo_settings import VerlModel
from verl_ext.rollout_shape import shape_problems

HIDDEN = {"unit": "hidden", "selector": "fraction", "amount": 0.25}
NEURONS = {"unit": "neuron", "amount": 8}
VERL_MODEL = {"problems": {"path": "p.jsonl"}, "chat_template": "plain_chat"}


class Rollout(FakeBackend):
    """A backend whose model check is that of verl's and EasyR1's."""

    def check_model(self, stage, model):
        return "\n".join(shape_problems(VerlModel.model_validate(VERL_MODEL), model)) or None


class RolloutPlugin:
    @hookimpl
    def ptl_register(self, registry):
        registry.backends.add("rollout", Rollout())


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Write a recipe with other keys and plan it."""
    monkeypatch.chdir(tmp_path)
    write_tiny_corpus(tmp_path / "data", num_documents=30)
    manager = build_manager(plugins=["ptl_plugins.testing.fake_backend"], autoload=False)
    manager.register(RolloutPlugin(), "rollout")
    registry = build_registry(manager)

    def run(*phases, family="llama", model=None, **keys):
        folder = model or write_tiny_checkpoint(tmp_path / family, family)
        base = {
            "model": str(folder),
            "run_dir": "out",
            "data": {"path": "data/tiny.jsonl"},
            "recover": [{"backend": "fake"}],
            "schedule": list(phases),
        }
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(base | keys), encoding="utf-8")
        recipe = read_recipe(tmp_path / "r.yaml", manager.hook, registry)
        return plan_run(recipe, registry)

    return run


def refusal(plan, *phases, **keys):
    """Return the one line of the error."""
    with pytest.raises(RecipeError) as caught:
        plan(*phases, **keys)
    assert not Path("out").exists()
    (line,) = str(caught.value).splitlines()
    return line.removeprefix(f"{Path.cwd() / 'r.yaml'}: ")


def test_slicing_may_follow_other_cuts(plan):
    last = plan(NEURONS, HIDDEN, {"unit": "none", "rounds": 2}).rounds[-1].geometry
    assert (last.width, last.hidden, last.sliced_from) == (40, 24, 32)


@pytest.mark.parametrize("order", ["neuron_then_layer", "layer_then_neuron", "alternating"])
def test_an_order_of_neurons_and_layers_puts_slicing_behind(plan, order):
    rounds = plan(HIDDEN, NEURONS, {"unit": "layer", "amount": 1}, order=order).rounds
    assert [spec.spec.cuts[0].unit for spec in rounds][-1] == "hidden"


@pytest.mark.parametrize("phase", [NEURONS, {"unit": "layer", "amount": 1}, HIDDEN])
def test_a_sliced_model_is_cut_no_further(plan, phase):
    line = refusal(plan, HIDDEN, phase)
    assert line.startswith("schedule: round 2: the model's residual stream is sliced (SliceGPT), ")


def test_that_holds_where_only_the_scores_tell_the_shapes(plan):
    by_scores = NEURONS | {"selector": "threshold", "amount": 0.1}
    line = refusal(plan, by_scores, HIDDEN, NEURONS)
    assert line.startswith("schedule: round 3: the model's residual stream is sliced (SliceGPT), ")


def test_slicing_has_a_round_of_its_own(plan):
    line = refusal(plan, NEURONS, HIDDEN, order="together")
    assert line.startswith("schedule: round 1 slices the residual stream beside another cut; ")


def test_directions_have_no_importances_for_a_threshold(plan):
    by_scores = {"selector": "threshold", "amount": 0.1}
    for phases in ([HIDDEN | by_scores], [NEURONS | by_scores, HIDDEN | by_scores]):
        line = refusal(plan, *phases)
        assert f"round {len(phases)}: selector 'threshold' reads importances, and" in line


def test_a_criterion_of_another_unit_is_refused(plan):
    line = refusal(plan, HIDDEN | {"criterion": "l2"})
    assert "'l2' scores layers, but the phase cuts directions of the hidden size; " in line
    assert line.endswith("allowed: random_directions, slicegpt")


def test_all_directions_cannot_go(plan):
    line = refusal(plan, HIDDEN | {"selector": "count", "amount": 32})
    assert "round 1 removes 32 directions of the hidden size, but only 32 are left" in line


@pytest.mark.parametrize("family", ["qwen3", "phi3", "gemma3_text"])
def test_a_family_that_the_sliced_model_lacks_is_refused(plan, family):
    line = refusal(plan, HIDDEN, family=family)
    assert line.endswith("it slices gemma2, llama, mistral, qwen2")


def test_the_door_of_a_training_framework_refuses_it_with_the_remedy(plan, registry):
    recipe = dataclasses.replace(plan(HIDDEN).recipe, data=None, stages=())
    with pytest.raises(RecipeError, match=r"ptl.schedule: unit 'hidden' \(SliceGPT\) makes a model "
                       "of another architecture.*use a recipe of ptl run"):  # fmt: skip
        plan_run(recipe, registry)


def test_a_live_model_is_refused_by_the_step_itself(plan, registry, make_round_context):
    recipe = plan(HIDDEN).recipe
    ctx = make_round_context(recipe)
    live = Subject(family=registry.families.get("llama"))
    with pytest.raises(PruneError, match="a model in memory cannot be sliced"):
        plugin.ptl_profile(ctx, live)


def test_grpo_on_a_sliced_model_is_refused_with_the_reason(plan):
    line = refusal(plan, HIDDEN, recover=[{"backend": "rollout"}])
    assert line.startswith("recover.0.backend: the rollout cannot load a sliced model: ")


def test_that_holds_behind_a_round_whose_shape_only_the_scores_tell(plan):
    by_scores = NEURONS | {"selector": "threshold", "amount": 0.1}
    line = refusal(plan, by_scores, HIDDEN, recover=[{"backend": "rollout"}])
    assert line.startswith("recover.0.backend: the rollout cannot load a sliced model: ")


@pytest.mark.parametrize("name", ["verl", "easyr1"])
def test_both_backends_of_grpo_look_at_the_shapes(name):
    backend = build_registry(build_manager()).backends.get(name)
    assert isinstance(backend, ModelChecker)


def test_grpo_before_the_slicing_is_fine(plan):
    stages = [{"backend": "rollout", "rounds": [1, 1]}, {"backend": "fake", "rounds": [2, 2]}]
    assert plan(NEURONS, HIDDEN, recover=stages).rounds


def test_ptl_prune_and_ptl_profile_refuse_a_sliced_model(slice_tiny, tmp_path):
    folder = str(slice_tiny("llama").folder)
    data = write_tiny_corpus(tmp_path / "data") / "tiny.jsonl"
    out = str(tmp_path / "cut")
    for words in (
        ["prune", folder, "--drop-layers", "1", "--out", out],
        ["profile", folder, "--data", str(data), "--out", str(tmp_path / "s.safetensors")],
    ):
        with pytest.raises(PTLError, match="PTL does not prune it further; prune first and slice"):
            CliRunner().invoke(
                build_app(words[0]), words, catch_exceptions=False, standalone_mode=False
            )
    assert not Path(out).exists()


def test_a_run_on_a_sliced_model_may_only_recover(plan, slice_tiny):
    folder = slice_tiny("llama").folder
    assert plan({"unit": "none", "rounds": 2}, model=folder).original.sliced_from == 32
    line = refusal(plan, NEURONS, model=folder)
    assert "round 1: the model's residual stream is sliced" in line


def test_vllm_is_refused_before_it_is_asked(slice_tiny, registry):
    folder = slice_tiny("llama").folder
    settings = type("Settings", (), {"backend": "vllm"})()
    with (
        pytest.raises(EvaluationError, match="vLLM does not know sliced models"),
        loaded_examinee(folder, registry, settings),
    ):
        pass


def changed(pair, change):
    """Slice the dense model of `pair` again, its tensors changed."""
    tensors = load_file(pair.request.source / "model.safetensors")
    change(tensors)
    save_file(tensors, pair.request.source / "model.safetensors", {"format": "pt"})
    slice_checkpoint(dataclasses.replace(pair.request, out=pair.folder.with_name("again")))


def test_activations_that_overflow_leave_no_folder(slice_tiny):
    pair = slice_tiny("llama")
    name = "model.layers.3.mlp.down_proj.weight"
    with pytest.raises(PruneError, match="an activation of the calibration sequences is not fin"):
        changed(pair, lambda tensors: tensors[name].fill_(float("inf")))
    assert not list(pair.folder.parent.glob("again*"))


def test_a_checkpoint_that_lacks_a_tensor_is_told_by_its_name(slice_tiny):
    pair = slice_tiny("llama")
    name = "model.layers.3.post_attention_layernorm.weight"
    with pytest.raises(PruneError, match=f"has no tensor '{name}', which every model of family"):
        changed(pair, lambda tensors: tensors.pop(name))
    assert not list(pair.folder.parent.glob("again*"))
