"""The sizes and FLOPs that the headers of the slicing recipes tell are those of their plans."""

from __future__ import annotations

import json
import re

import pytest
from shipped import ALL, CONFIGS, header, keys_of, plan_of

from ptl_plugins.geometry import geometry
from ptl_plugins.manager import build_manager, build_registry

SLICING = sorted(name for name in ALL if name.endswith("slicegpt.yaml"))
GSM8K = {"llama3_8b": 605, "gemma2_9b": 622}
"""Tokens of a question and its answer: docs/reproduce.md."""


@pytest.fixture(scope="module")
def plugins():
    """Every plugin that PTL ships, and what they register."""
    manager = build_manager()
    return manager, build_registry(manager)


@pytest.fixture
def end(tmp_path, monkeypatch, plugins):
    """Return a function that gives the last shape of a recipe, by its name."""
    monkeypatch.chdir(tmp_path)
    for place in ("mini", "quickstart"):
        for name in ("held_out", "other_text", "train", "mini_192"):
            file = tmp_path / place / "data" / f"{name}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            line = {"question": "1 + 1?", "answer": "2", "text": "1 + 1 = 2"}
            file.write_text(json.dumps(line) + "\n", encoding="utf-8")
        names = {"mini": "mini_192", "quickstart": "train"}
        info = {"gsm_symbolic": {"file_name": f"{names[place]}.jsonl"}}
        (tmp_path / place / "data" / "dataset_info.json").write_text(json.dumps(info))
    return lambda name: plan_of(ALL[name], tmp_path, *plugins).rounds[-1].geometry


def told(name, pattern):
    """Return the groups of the one place in the header that says so."""
    (found,) = re.finditer(pattern, header(ALL[name]))
    return found.groups()


def tera(geometry, model):
    return f"{geometry.flops_per_token * GSM8K[model] / 1e12:.1f}"


def test_every_slicing_recipe_is_held():
    folders = [name.rpartition("/")[0] for name in SLICING]
    assert folders == ["mini", *(f"paper/{m}" for m in ("gemma2_9b", "llama3_8b", "qwen2_5_7b")),
                       "quickstart"]  # fmt: skip


@pytest.mark.parametrize("name", SLICING)
def test_the_share_that_goes_is_the_recipes_own(name):
    (percent,) = told(name, r"(\d+) % of the residual stream's directions go")
    (phase,) = keys_of(ALL[name])["schedule"]
    assert (phase["selector"], f"{phase['amount']:.0%}") == ("fraction", f"{percent}%")


@pytest.mark.parametrize("name", [name for name in SLICING if not name.startswith("paper/")])
def test_a_small_recipe_ends_in_the_hidden_size_and_parameters_that_it_tells(end, name):
    shape = end(name)
    hidden, before, millions = told(name, r"idden size (\d+) of (\d+), ([\d.]+) M parameters")
    assert (shape.hidden, shape.sliced_from) == (int(hidden), int(before))
    assert f"{shape.num_parameters / 1e6:.1f}" == millions


@pytest.mark.parametrize("name", [name for name in SLICING if name.startswith("paper/")])
def test_a_full_size_recipe_ends_in_the_hidden_size_and_parameters_that_it_tells(end, name):
    shape = end(name)
    hidden, billions = told(name, r"The end: .* and hidden size (\d+), ([\d.]+) B parameters")
    assert (str(shape.hidden), f"{shape.num_parameters / 1e9:.2f}") == (hidden, billions)


def test_gemmas_flops_are_table_1s_and_its_size_is_ptls(end):
    sliced = end("paper/gemma2_9b/slicegpt.yaml")
    ours = end("paper/gemma2_9b/ptl_cpt.yaml")
    flops, percent = told(
        "paper/gemma2_9b/slicegpt.yaml",
        r"FLOPs \(([\d.]+) T on GSM8K\).*number of parameters within (\d+) %",
    )
    assert tera(sliced, "gemma2_9b") == flops
    assert abs(sliced.num_parameters / ours.num_parameters - 1) < int(percent) / 100


def test_llamas_flops_of_table_1_are_those_of_the_share_that_it_tells(end, registry):
    name = "paper/llama3_8b/slicegpt.yaml"
    flops, share, billions = told(
        name, r"#FLOPs \(([\d.]+) T on GSM8K\) would be those of ([\d.]+) \(([\d.]+) B\)"
    )
    dense = geometry(CONFIGS["meta-llama/Meta-Llama-3-8B"], registry.families.get("llama"))
    left = dense.hidden - int(float(share) * dense.hidden)
    other = dense.sliced(-(-left // 8) * 8)  # multiple_of, rounded up
    assert (tera(other, "llama3_8b"), f"{other.num_parameters / 1e9:.1f}") == (flops, billions)


def test_qwens_size_is_that_of_the_grpo_recipe(end):
    sliced = end("paper/qwen2_5_7b/slicegpt.yaml")
    ours = end("paper/qwen2_5_7b/ptl_grpo_verl.yaml")
    billions, percent = told(
        "paper/qwen2_5_7b/slicegpt.yaml",
        r"ptl_grpo_verl.yaml's end \(([\d.]+) B\), within ([\d.]+) %",
    )
    assert f"{ours.num_parameters / 1e9:.2f}" == billions
    assert abs(sliced.num_parameters / ours.num_parameters - 1) < float(percent) / 100
