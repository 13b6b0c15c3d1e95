"""A step's line, and the texts that the actor is profiled on."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from ptl_plugins.testing import tiny_tokenizer
from verl_ext.in_verl.profile_texts import profile_problem, read_sequences
from verl_ext.in_verl.step_metrics import FIELDS, append_line, step_line

SPEC = importlib.util.find_spec("verl")
GIVEN = {
    "critic/rewards/mean": 0.25,
    "critic/rewards/min": 0,
    "critic/rewards/max": torch.tensor(1.0),
    "actor/kl_loss": 0.001,
    "actor/ppo_kl": float("nan"),
    "actor/pg_clipfrac": "0.5",
    "actor/entropy": None,
    "actor/grad_norm": float("inf"),
    "actor/lr": 1e-6,
    "response_length/mean": 12.5,
    "actor/unknown": 3,
}
BUILT = {"actor/kl_loss": 'metrics["kl_loss"] =', "actor/lr": 'final_metrics["lr"] ='}
"""What verl puts "actor/" before."""


def test_a_line_has_our_names_and_null_for_what_is_no_number():
    line = step_line(4, GIVEN)
    assert line.endswith("}\n")
    assert json.loads(line, parse_constant=pytest.fail) == {
        "step": 4,
        "reward": 0.25,
        "reward_min": 0.0,
        "reward_max": 1.0,
        "kl": 0.001,
        "policy_kl": None,
        "clip_fraction": 0.5,
        "entropy": None,
        "gradient_norm": None,
        "learning_rate": 1e-6,
        "response_length": 12.5,
        "response_cut": None,
        "rollout_correlation": None,
        "seconds": None,
        "not_finite": ["policy_kl", "gradient_norm"],
    }


def test_the_first_name_that_verl_has_is_taken(monkeypatch):
    monkeypatch.setattr("verl_ext.in_verl.step_metrics.FIELDS", {"loss": ("new", "old")})
    assert json.loads(step_line(1, {"old": 1, "new": 2}))["loss"] == 2
    assert json.loads(step_line(1, {"old": 1}))["loss"] == 1


def test_lines_are_appended_to_a_file_whose_folder_is_made(tmp_path):
    path = tmp_path / "stage" / "steps.jsonl"
    for step in (1, 2):
        append_line(path, step_line(step, {}))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


@pytest.mark.skipif(SPEC is None, reason="needs verl")
def test_verl_still_has_every_metric():
    source = "".join(p.read_text(encoding="utf-8") for p in Path(SPEC.origin).parent.rglob("*.py"))
    missing = [name for names in FIELDS.values() for name in names if not in_source(name, source)]
    assert missing == []


def in_source(name, source):
    return f'"{name}"' in source or BUILT.get(name, name) in source


def sequences(tmp_path, entries, **keys):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return read_sequences(path, tiny_tokenizer(), **{"max_length": 10, **keys})


def test_texts_are_encoded_cut_and_sorted_by_length(tmp_path):
    texts = ["ab", "a long text that is cut off by the limit", "abcd"]
    found = sequences(tmp_path, texts)
    tokenizer = tiny_tokenizer()
    assert found == [tokenizer.encode(texts[i])[:10] for i in (1, 2, 0)]
    assert len(found[0]) == 10


def test_token_ids_are_taken_as_they_are_and_nothing_is_empty(tmp_path):
    assert sequences(tmp_path, [[5], "", [], [7, 8, 9]], max_length=2) == [[7, 8], [5]]


@pytest.mark.parametrize("entries", [[], ["", []]])
def test_a_file_without_a_text_is_refused(tmp_path, entries):
    with pytest.raises(ValueError, match=r"profile\.json: has no text to profile the actor on"):
        sequences(tmp_path, entries)


def config(strategy="fsdp2", old=None, new=1, ptl=None):
    from omegaconf import OmegaConf

    actor = {"strategy": strategy, "fsdp_config": {"ulysses_sequence_parallel_size": new}}
    if old is not None:
        actor["ulysses_sequence_parallel_size"] = old
    ptl = {"profile_file": "texts"} if ptl is None else ptl
    return OmegaConf.create({"actor_rollout_ref": {"actor": actor}, "ptl": ptl})


@pytest.mark.skipif(SPEC is None, reason="needs verl")
@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_an_actor_whose_ranks_run_the_whole_model_can_be_profiled(strategy):
    assert profile_problem(config(strategy, old=1)) is None
    assert profile_problem(config("megatron", ptl={})) is None, "nobody asked"


@pytest.mark.skipif(SPEC is None, reason="needs verl")
@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"strategy": "megatron"}, "strategy 'megatron' cannot be profiled, those of fsdp and"),
        ({"old": 4}, "cut among 4 GPUs (ulysses_sequence_parallel_size) cannot be profiled"),
        ({"new": 2}, "cut among 2 GPUs (ulysses_sequence_parallel_size) cannot be profiled"),
    ],
)
def test_another_actor_is_refused_in_one_line(keys, line):
    found = profile_problem(config(**keys))
    assert found.startswith("settings.profile: ")
    assert line in found
    assert "\n" not in found
