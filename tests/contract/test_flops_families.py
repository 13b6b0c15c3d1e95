"""FLOPs from the config alone are those that torch counts, in every family, dense and pruned.

Eager attention: torch's counter does not know the CPU kernel of scaled_dot_product_attention.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from ptl_plugins.flops import attention_flops, question_flops
from ptl_plugins.geometry import geometry
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.surgery import prune_live
from ptl_plugins.testing import tiny_model

PLUGINS = [name for name in os.environ.get("PTL_PLUGINS", "").split(",") if name]
REGISTRY = build_registry(build_manager(autoload=False, plugins=PLUGINS))
PROMPT, NEW = 20, 12  # the window of the tiny models is 8
LONG_WINDOW = {"sliding_window": 26}  # full while the first half of the tokens is generated
CUTS = {
    "dense": {},
    "neurons": {"neurons": tuple(range(0, 40, 2))},
    "layers": {"layers": (0, 2)},  # the attention of what is left differs from a pattern anew
    "both": {"neurons": (0, 5, 17, 46, 47), "layers": (1,)},
}


@pytest.fixture(scope="module", params=REGISTRY.families.names())
def family(request):
    return REGISTRY.families.get(request.param)


@pytest.fixture
def build(family, make_plan):
    """Return a function that makes a pruned model and reads the sizes of its config."""

    def model_and_sizes(cut, **keys):
        model = tiny_model(family.model_types[0], attn_implementation="eager", **keys)
        prune_live(model, family, make_plan(model, family, **CUTS[cut]))
        return model, geometry(model.config.to_dict(), family)

    return model_and_sizes


def prompt():
    return (torch.arange(PROMPT)[None] * 7 % 250) + 4


def counted(run):
    """Return the FLOPs that torch counts while `run` runs, and what it returns."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result


def within_a_percent(number):
    return pytest.approx(number, rel=0.01)


def read_all(model, cache, tokens):
    """Feed tokens one by one, as decoding does, with logits of each."""
    for token in tokens:
        model(token.reshape(1, 1), past_key_values=cache, use_cache=True)


@pytest.mark.parametrize("cut", CUTS)
def test_a_forward_over_a_prompt(build, cut):
    model, sizes = build(cut)
    flops, output = counted(lambda: model(prompt()))
    assert output.logits.shape[1] == PROMPT, "lm_head is counted for every token"
    assert within_a_percent(flops) == question_flops(
        sizes, prompt_tokens=PROMPT, generated_tokens=0
    )


@pytest.mark.parametrize("cut", CUTS)
def test_every_token_of_an_answer_read_with_a_cache(build, cut):
    """Nothing is left out here: logits of every token, and the last token is read as well."""
    model, sizes = build(cut)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(prompt(), past_key_values=cache, use_cache=True)
    flops, _ = counted(lambda: read_all(model, cache, torch.arange(4, 4 + NEW)))
    whole = question_flops(sizes, prompt_tokens=PROMPT, generated_tokens=NEW)
    alone = question_flops(sizes, prompt_tokens=PROMPT, generated_tokens=0)
    assert within_a_percent(flops) == whole - alone


@pytest.mark.parametrize("keys", [{}, LONG_WINDOW], ids=["window_of_8", "window_of_26"])
@pytest.mark.parametrize("cut", CUTS)
def test_greedy_generation_with_a_cache(build, cut, keys):
    """`generate` takes the question's FLOPs less what it leaves out, to the last token."""
    model, sizes = build(cut, **keys)
    words = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "use_cache": True}
    inputs = {"input_ids": prompt(), "attention_mask": torch.ones_like(prompt())}
    flops, tokens = counted(lambda: model.generate(**inputs, **words))
    assert tokens.shape[1] == PROMPT + NEW

    # the last generated token is fed to no step
    read = question_flops(sizes, prompt_tokens=PROMPT, generated_tokens=NEW - 1)
    # lm_head runs for the last token of the prompt alone
    no_logits = 2 * sizes.hidden * sizes.vocabulary * (PROMPT - 1)
    assert within_a_percent(flops) == read - no_logits


def test_the_attention_term_is_seen_at_a_percent(build):
    """A long prompt of a thin model: the agreement would not survive without the term."""
    model, sizes = build("dense")
    tokens = prompt().repeat(1, 10)
    flops, _ = counted(lambda: model(tokens))
    parts = {"prompt_tokens": tokens.shape[1], "generated_tokens": 0}
    attention = attention_flops(sizes, **parts)
    assert attention > 0.3 * flops
    assert within_a_percent(flops) == question_flops(sizes, **parts)
