"""The server of the rollout `hf_cpu`, called as verl calls it but without Ray."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import time
import warnings
from types import SimpleNamespace

import pytest
import torch

from verl_ext.in_verl.hf_generation import Sampling, generate

if not importlib.util.find_spec("verl"):
    pytest.skip("needs verl", allow_module_level=True)

from ptl_plugins.testing import tiny_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # verl imports what is deprecated
    from verl_ext.in_verl import hf_server

from verl_ext.in_verl.hf_server import HfServer, load_weights

ENDS = (250, 251)
"""The checkpoint's end tokens."""
GREEDY = {"temperature": 0, "logprobs": True, "max_tokens": 6}


@pytest.fixture
def server(checkpoint):
    return make_server(checkpoint)


def make_server(checkpoint, **keys):
    facts = {"max_num_seqs": 64, "max_model_len": 64, "response_length": 8, "seed": 0, **keys}
    return HfServer(path=str(checkpoint), config=SimpleNamespace(**facts), replica_rank=0)


@pytest.fixture
def batches(monkeypatch):
    """The number of prompts of each batch that was generated."""
    sizes = []

    def counted(model, prompts, *rest):
        sizes.append(len(prompts))
        return generate(model, prompts, *rest)

    monkeypatch.setattr(hf_server, "generate", counted)
    return sizes


def ask(server, prompts, params=GREEDY):
    """Send all prompts at once; return what came, errors as well."""
    each = params if isinstance(params, list) else [params] * len(prompts)

    async def gather():
        pairs = zip(prompts, each, strict=True)
        calls = (server.generate(p, s, f"r{i}") for i, (p, s) in enumerate(pairs))
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(gather())


def plain(model, prompt, limit=6):
    sampling = Sampling(temperature=0, log_probs=True, eos=ENDS)
    return generate(model, [prompt], [limit], sampling)[0]


def shifted(model):
    """Return weights whose answers are others."""
    return [(name, p.detach().roll(1, 0)) for name, p in model.named_parameters()]


def test_prompts_that_come_together_are_answered_together(server, batches, model, prompts):
    outputs = ask(server, prompts * 5)
    assert batches == [20]
    for prompt, output in zip(prompts * 5, outputs, strict=True):
        expected = plain(model, prompt)
        assert output.token_ids == expected.tokens
        assert output.log_probs == pytest.approx(expected.log_probs, abs=1e-4)
        assert output.stop_reason == "completed"


def test_prompts_with_other_sampling_are_answered_apart(server, batches, prompts):
    hot = {"temperature": 1.0, "top_p": 0.9, "top_k": -1, "logprobs": True}
    outputs = ask(server, prompts * 2, [GREEDY, hot] * 4)
    assert sorted(batches) == [4, 4]
    assert [len(output.token_ids) for output in outputs[::2]] == [6] * 4


def test_more_requests_than_a_batch_holds_are_all_answered(checkpoint, batches, model, prompts):
    server = make_server(checkpoint, max_num_seqs=3)
    outputs = ask(server, prompts * 5)
    assert [output.token_ids for output in outputs] == [plain(model, p).tokens for p in prompts] * 5
    assert batches == [3] * 6 + [2]


def test_the_checkpoints_own_sampling_has_no_influence(server, model, prompts):
    # its top_k of 1, temperature and penalty would make hot answers greedy
    own = {"temperature": 5.0, "top_p": 1.0, "logprobs": True, "max_tokens": 1}
    tokens = {output.token_ids[0] for output in ask(server, prompts[:1] * 64, own)}
    assert len(tokens) > 20
    (output,) = ask(server, prompts[:1], {**GREEDY, "max_tokens": 30})
    assert output.token_ids == plain(model, prompts[0], 30).tokens


def test_an_answer_ends_with_the_checkpoints_end_tokens_unless_they_are_ignored(server):
    weights = dict(server.model.named_parameters())
    with torch.no_grad():
        weights["lm_head.weight"][251] = 100 * weights["lm_head.weight"][7]
        weights["lm_head.weight"][250] = -weights["lm_head.weight"][251]
    (ended,) = ask(server, [[9, 8, 7]])
    (ignored,) = ask(server, [[9, 8, 7]], {**GREEDY, "ignore_eos": True})
    assert len(ended.token_ids) == 1
    assert ended.token_ids[0] in ENDS
    assert len(ignored.token_ids) == 6


@pytest.mark.parametrize(("config_eos", "expected"), [(2, (2,)), (None, ())])
def test_a_checkpoint_whose_generation_config_names_no_end_token(
    checkpoint, tmp_path, config_eos, expected
):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    (folder / "generation_config.json").write_text("{}", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**config, "eos_token_id": config_eos})
    (folder / "config.json").write_text(text, encoding="utf-8")
    server = make_server(folder)
    assert server.eos == expected
    assert len(ask(server, [[5, 6]])[0].token_ids) == 6


def test_an_error_reaches_every_caller_and_the_server_goes_on(server, monkeypatch, prompts):
    def broken(*args):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(hf_server, "generate", broken)
        outputs = ask(server, prompts)
    assert [str(output) for output in outputs] == ["out of memory"] * 4
    assert len(ask(make_server_again(server), prompts)) == 4


def make_server_again(server):
    """Bind the server's lock to a new event loop."""
    server._busy = asyncio.Lock()
    return server


def test_a_caller_that_gives_up_takes_nobody_with_it(server, monkeypatch, model, prompts):
    def slow(*args):
        time.sleep(0.2)
        return generate(*args)

    monkeypatch.setattr(hf_server, "generate", slow)

    async def scenario():
        tasks = [asyncio.create_task(server.generate(p, GREEDY, "r")) for p in prompts]
        await asyncio.sleep(hf_server.GATHER_SECONDS + 0.1)  # the first one's batch is under way
        tasks[0].cancel()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)

    first, *others = asyncio.run(scenario())
    assert isinstance(first, asyncio.CancelledError)
    assert [o.token_ids for o in others] == [plain(model, p).tokens for p in prompts[1:]]


def test_a_prompt_without_room_is_refused_and_one_with_little_is_cut(server):
    full, near = ask(server, [[5] * 64, [5] * 61])
    assert isinstance(full, ValueError)
    assert str(full) == "a prompt of 64 tokens leaves no room in a context of 64"
    assert len(near.token_ids) == 3


def test_without_a_limit_an_answer_has_the_rollouts_length(server, prompts):
    (output,) = ask(server, prompts[:1], {"temperature": 0})
    assert len(output.token_ids) == 8
    assert output.log_probs is None


def test_an_update_changes_the_answers_and_their_step(server, model, prompts):
    other = tiny_model("llama", seed=0, initializer_range=0.4, tie_word_embeddings=False)
    load_weights(other, dict(shifted(model)))

    async def scenario():
        before = await server.generate(prompts[1], GREEDY, "a")
        await server.update_weights(shifted(model), 7)
        return before, await server.generate(prompts[1], GREEDY, "b")

    before, after = asyncio.run(scenario())
    assert before.token_ids == plain(model, prompts[1]).tokens
    assert after.token_ids == plain(other, prompts[1]).tokens != before.token_ids
    assert (before.extra_fields, after.extra_fields) == (
        {"global_steps": None},
        {"global_steps": 7},
    )


def test_an_update_waits_for_answers_and_answers_wait_for_an_update(
    server, monkeypatch, model, prompts
):
    log = []

    def slow(*args):
        log.append("generate")
        time.sleep(0.2)
        log.append("generated")
        return generate(*args)

    def noted(*args):
        log.append("update")
        load_weights(*args)

    monkeypatch.setattr(hf_server, "generate", slow)
    monkeypatch.setattr(hf_server, "load_weights", noted)

    async def scenario():
        first = asyncio.create_task(server.generate(prompts[1], GREEDY, "a"))
        await asyncio.sleep(hf_server.GATHER_SECONDS + 0.1)
        update = asyncio.create_task(server.update_weights(shifted(model), 1))
        await asyncio.sleep(0)
        second = asyncio.create_task(server.generate(prompts[1], GREEDY, "b"))
        await update
        return await first, await second

    first, second = asyncio.run(scenario())
    assert log == ["generate", "generated", "update", "generate", "generated"]
    assert first.token_ids == plain(model, prompts[1]).tokens
    assert second.token_ids != first.token_ids


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda w: w.update({"model.norm2": w["model.norm.weight"]}), "weight 'model.norm2' is no"),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(7)}),
            r"weight 'model.norm.weight' has shape \[7\], and the rollout's model \[32\]",
        ),
        (lambda w: w.pop("lm_head.weight"), "weight 'lm_head.weight' was not sent"),
    ],
)
def test_weights_of_another_model_are_refused_by_name_and_none_is_taken(model, change, line):
    own = tiny_model("llama", seed=3, tie_word_embeddings=False)
    before = {name: p.detach().clone() for name, p in own.named_parameters()}
    weights = dict(model.named_parameters())
    change(weights)
    with pytest.raises(ValueError, match=line):
        load_weights(own, weights)
    assert all(torch.equal(before[name], p) for name, p in own.named_parameters())


@pytest.mark.parametrize("sent", ["model.embed_tokens.weight", "lm_head.weight", "both"])
def test_tied_embeddings_may_come_under_either_name_or_both(sent):
    own, new = (tiny_model("llama", seed=seed, tie_word_embeddings=True) for seed in (0, 1))
    names = {"model.embed_tokens.weight", "lm_head.weight"}
    weights = dict(new.named_parameters(remove_duplicate=False))
    for name in names - {sent} if sent != "both" else set():
        weights.pop(name)
    load_weights(own, weights)
    assert torch.equal(own.lm_head.weight, new.lm_head.weight)
    assert own.lm_head.weight is own.model.embed_tokens.weight
