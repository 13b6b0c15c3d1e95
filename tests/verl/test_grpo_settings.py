"""The settings object: defaults of the paper, and a line for each mistake."""

from __future__ import annotations

import pytest

from verl_ext.grpo_settings import EasyR1Model, VerlModel, flatten, read_settings, template_path

PROBLEMS = {"path": "math.jsonl"}


def test_the_defaults_are_the_papers():
    settings = read_settings(VerlModel, {"problems": PROBLEMS})
    grpo = settings.grpo
    assert (grpo.prompts_per_step, grpo.mini_batch, grpo.samples_per_prompt) == (128, 128, 8)
    assert (grpo.temperature, grpo.learning_rate) == (1.0, 1e-6)
    assert (settings.reward.accuracy_weight, settings.reward.format_weight) == (0.9, 0.1)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "settings.problems: is missing and has no default"),
        ({"grpo": {"sample_per_prompt": 4}}, "did you mean 'samples_per_prompt'?"),
        ({"grpo": {"samples_per_prompt": 1}}, "settings.grpo.samples_per_prompt: 1 "),
        ({"grpo": {"temperature": 0}}, "settings.grpo.temperature: 0 "),
        ({"grpo": {"top_p": 1.5}}, "settings.grpo.top_p: 1.5 "),
        ({"grpo": {"learning_rate": float("nan")}}, "settings.grpo.learning_rate: nan "),
        (
            {"grpo": {"mini_batch": 48}},
            "settings.grpo: mini_batch: 48 does not divide prompts_per_step, 128",
        ),
        ({"reward": {"accuracy_weight": 0, "format_weight": 0}}, "nothing is rewarded"),
        ({"reward": {"file": "r.py"}}, "settings.reward: file and function go together"),
        ({"rollout": "vlm"}, "settings.rollout: 'vlm' "),
        ({"problems": {"path": ""}}, "settings.problems.path: '' "),
    ],
)
def test_a_wrong_key_or_value_is_one_line_that_names_it(settings, line):
    found = read_settings(VerlModel, {"problems": PROBLEMS, **settings} if settings else {})
    assert len(found) == 1
    assert line in found[0]
    assert "\n" not in found[0]


def test_easyr1_needs_its_clone():
    found = read_settings(EasyR1Model, {"problems": PROBLEMS})
    assert found == ["settings.home: is missing and has no default"]


def test_nested_and_dotted_keys_are_the_same():
    nested = {"a": {"b": {"c": 1}, "d": {}}, "e.f": 2}
    assert dict(flatten(nested)) == {"a.b.c": 1, "a.d": {}, "e.f": 2}


def test_templates_come_with_ptl_or_are_files(tmp_path):
    assert template_path("think_boxed").is_file()
    assert template_path(str(tmp_path / "own.jinja")) == tmp_path / "own.jinja"


@pytest.mark.parametrize(("address", "fine"), [(None, False), ("local", False), ("h:6379", True)])
def test_several_machines_need_the_address_of_their_cluster(address, fine):
    found = read_settings(VerlModel, {"problems": PROBLEMS, "nodes": 2, "ray_address": address})
    assert isinstance(found, VerlModel) if fine else found[0].startswith("settings: nodes: 2 ")
