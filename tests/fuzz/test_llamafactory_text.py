"""Yamls of LLaMA-Factory: what PTL reads of a section, and what it writes for a stage."""

from __future__ import annotations

import os

import fuzz_targets as targets
from fuzz_inputs import TOKENS, TRAIN, TREES, WORDS, as_yaml, bounded, pieced, spoilt
from hypothesis import example, given
from hypothesis import strategies as st

NAMES = st.sampled_from(("learning_rate", "run_name", "deepspeed", "a b", "1", "yes", "~"))


@bounded(120)
@given(spoilt(TRAIN), WORDS)
@example(TRAIN, ["ptl.schedule.0.amount=3"])
@example({**TRAIN, "dataset": "${dataset_dir}/${oc.env:HOME}"}, [])
def test_spoilt_keys_and_words(keys, words):
    targets.llamafactory_yaml(as_yaml(keys), words)


@bounded(80)
@given(pieced(TOKENS, 20))
def test_pieces_of_yaml_behind_a_section(text):
    targets.llamafactory_yaml("ptl: {}\n" + text, [])


def test_variables_of_the_environment_stay_names(monkeypatch):
    """OmegaConf could put their values into keys, and so into the manifest."""
    from llamafactory_ext.overrides import read_as_llamafactory

    monkeypatch.setenv("HF_TOKEN", "not for the manifest")
    words = ["run_name=${oc.env:HF_TOKEN}"]
    keys = read_as_llamafactory(targets.workplace() / "x.yaml", "a: ${oc.env:HF_TOKEN}", words)
    assert os.environ["HF_TOKEN"] not in str(keys)


@bounded(120)
@given(st.dictionaries(NAMES, TREES, max_size=3))
@example({"learning_rate": "1e-5", "run_name": "no", "a b": "0o7", "1": "1_0", "~": "null"})
@example({"run_name": "2001-01-01", "a b": ".5e+3", "yes": "0x1f", "1": "1:30"})
def test_settings_of_a_stage_arrive_as_they_were_given(settings):
    targets.stage_yaml(settings)
