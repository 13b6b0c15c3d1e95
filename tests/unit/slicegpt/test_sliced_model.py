"""The sliced model as transformers uses it: cache, padding, gradients, saving, its own code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from ptl_plugins.testing import tiny_tokenizer

FAMILIES = ["llama", "qwen2", "gemma2", "mistral"]
RELOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
assert not any(name.startswith("ptl_plugins") for name in sys.modules)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules")
with torch.no_grad():
    torch.save(model(torch.arange(4, 24)[None]).logits, sys.argv[3])
model.save_pretrained(sys.argv[2])
"""


def tokens(rows, length):
    return torch.randint(4, 256, (rows, length), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_writes_what_it_writes_without(slice_tiny, family):
    model = slice_tiny(family).model
    asked = {"max_new_tokens": 14, "do_sample": False, "eos_token_id": None}
    ids = tokens(2, 12)
    with_cache = model.generate(ids, use_cache=True, **asked)
    assert with_cache.shape == (2, 26)
    assert torch.equal(with_cache, model.generate(ids, use_cache=False, **asked))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_left_padding_changes_no_answer(slice_tiny, family):
    model = slice_tiny(family).model
    ids = tokens(1, 12)
    padded = torch.cat([torch.full((1, 5), 3), ids], dim=1)
    mask = (torch.arange(17) >= 5).long()[None]
    asked = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    answer = model.generate(padded, attention_mask=mask, **asked)[:, 17:]
    assert torch.equal(answer, model.generate(ids, **asked)[:, 12:])


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_cache_goes_on_in_pieces(slice_tiny, family):
    model = slice_tiny(family).model
    ids = tokens(1, 30)
    with torch.no_grad():
        first = model(ids[:, :17], use_cache=True)
        second = model(ids[:, 17:], past_key_values=first.past_key_values).logits
        whole = model(ids).logits[:, 17:]
    assert torch.allclose(second, whole, atol=1e-4)


def gradients(model, *, checkpointing):
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = tokens(2, 20)
    model(ids, labels=ids).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_every_parameter_has_a_gradient_and_checkpointing_keeps_it(slice_tiny, family):
    pair = slice_tiny(family)
    plain = gradients(pair.model, checkpointing=False)
    assert all(grad is not None and grad.abs().sum() > 0 for grad in plain.values())
    less_memory = gradients(pair.model, checkpointing=True)
    assert all(torch.allclose(plain[name], grad) for name, grad in less_memory.items())


def test_checkpointing_recomputes_the_layers(slice_tiny):
    model = slice_tiny("llama").model
    calls = []
    model.model.layers[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    gradients(model, checkpointing=True)
    assert len(calls) == 2


def test_the_loss_is_that_of_the_logits(slice_tiny):
    model = slice_tiny("gemma2").model
    ids = tokens(2, 20)
    with torch.no_grad():
        out = model(ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    )
    assert torch.allclose(out.loss, expected)


def test_only_the_logits_asked_for_are_made(slice_tiny):
    model = slice_tiny("llama").model
    ids = tokens(1, 9)
    with torch.no_grad():
        last, whole = model(ids, logits_to_keep=2).logits, model(ids).logits
    assert torch.allclose(last, whole[:, -2:], atol=1e-5)


@pytest.mark.timeout(240)
def test_a_fresh_process_loads_and_saves_it_by_the_checkpoints_own_code(slice_tiny, tmp_path):
    pair = slice_tiny("gemma2")
    env = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PTL_AUTOLOAD": "0"}
    env.pop("PYTHONPATH", None)
    saved, logits = tmp_path / "saved", tmp_path / "logits.pt"
    for source, target in ((pair.folder, saved), (saved, tmp_path / "again")):
        words = [sys.executable, "-c", RELOAD, str(source), str(target), str(logits)]
        done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        if source == pair.folder:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                (saved / file).write_bytes((pair.folder / file).read_bytes())
        with torch.no_grad():
            expected = pair.model(torch.arange(4, 24)[None]).logits
        assert torch.allclose(torch.load(logits), expected, atol=1e-5)
    assert (tmp_path / "again" / "modeling_ptl_sliced.py").is_file()


def test_ptl_loads_it_with_its_own_classes_and_runs_no_remote_code(slice_tiny):
    pair = slice_tiny("llama")
    code = pair.folder / "modeling_ptl_sliced.py"
    code.write_text("raise RuntimeError('remote code was run')\n", encoding="utf-8")
    assert type(pair.model).__module__ == "ptl_plugins.slicegpt.modeling_ptl_sliced"


def test_embedding_and_head_are_untied_and_sliced(slice_tiny):
    pair = slice_tiny("llama", hidden=20, tie_word_embeddings=True)
    tensors = load_file(pair.folder / "model.safetensors")
    assert (
        tensors["lm_head.weight"].shape == tensors["model.embed_tokens.weight"].shape == (256, 20)
    )
    assert AutoConfig.from_pretrained(pair.folder).tie_word_embeddings is False
    assert pair.model.lm_head.weight is not pair.model.model.embed_tokens.weight


def test_what_it_cannot_do_is_said(slice_tiny):
    model = slice_tiny("llama").model
    with pytest.raises(ValueError, match="attention_mask has 4 dimensions"):
        model(tokens(1, 8), attention_mask=torch.ones(1, 1, 8, 8))
    with pytest.raises(ValueError, match="no static cache"):
        model.generate(tokens(1, 8), max_new_tokens=4, cache_implementation="static")


@pytest.mark.parametrize(
    "asked", [{"output_hidden_states": True}, {"output_attentions": True}, {"return_dict": False}]
)
def test_outputs_that_it_does_not_have_are_refused(slice_tiny, asked):
    pair = slice_tiny("llama")
    ((name, value),) = asked.items()
    message = f"a sliced model has no {name}={value}; leave {name} out"
    for model in (pair.model, pair.model.model):
        with pytest.raises(ValueError, match=message):
            model(tokens(1, 8), **asked)
    with torch.no_grad():
        assert pair.model(tokens(1, 8), **{name: not value}).logits.shape == (1, 8, 256)


@pytest.mark.parametrize(
    ("name", "value"), [("output_hidden_states", True), ("return_dict", False)]
)
def test_outputs_that_it_does_not_have_are_refused_of_its_config_too(slice_tiny, name, value):
    model = slice_tiny("llama").model
    setattr(model.config, name, value)
    with pytest.raises(ValueError, match=f"a sliced model has no {name}={value}"):
        model(tokens(1, 8))


@pytest.mark.timeout(180)
def test_without_trust_its_tokenizer_alone_is_loaded_outside_ptl(slice_tiny, tmp_path):
    pair = slice_tiny("llama")
    program = (
        "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        "print(len(T.from_pretrained(sys.argv[1], trust_remote_code=False)), flush=True); "
        "M.from_pretrained(sys.argv[1], trust_remote_code=False)"
    )
    env = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PTL_AUTOLOAD": "0"}
    words = [sys.executable, "-c", program, str(pair.folder)]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.strip() == str(len(tiny_tokenizer()))
    assert "trust_remote_code" in done.stderr


def test_the_config_class_survives_a_round_trip(slice_tiny, tmp_path):
    pair = slice_tiny("gemma2", attn_logit_softcapping=2.0)
    model = pair.model
    model.config.save_pretrained(tmp_path / "config")
    again = AutoConfig.from_pretrained(tmp_path / "config")
    where = {"_name_or_path": ""}
    assert again.to_dict() | where == model.config.to_dict() | where
    assert (again.attention_softcap, again.original_hidden_size) == (2.0, 32)
    assert AutoModelForCausalLM.from_config(again).num_parameters() == model.num_parameters()


def test_norms_average_over_the_size_before_slicing(slice_tiny):
    norm = slice_tiny("llama", hidden=24).model.model.layers[0].norm
    x = torch.randn(3, 24)
    expected = x / (x.square().sum(dim=-1, keepdim=True) / 32 + norm.eps).sqrt()
    assert torch.allclose(norm(x), expected, atol=1e-6)
