"""Loss, KL and agreement against whole logits in float64; what padding and batches may change."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ptl_plugins.evaluators.chain_of_thought import Problem, count_chain_of_thought
from ptl_plugins.evaluators.divergence import DivergenceSums, compare
from ptl_plugins.slicegpt.auto_classes import register_sliced_models
from ptl_plugins.testing import TINY, tiny_model, tiny_tokenizer

SEQUENCES = [
    torch.randint(4, 256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (30, 2, 17, 1, 9, 17)
]
NUM_TARGETS = sum(map(len, SEQUENCES)) - len(SEQUENCES)


def confident(model_type, seed, dtype=torch.float64, **keys):
    """A tiny model whose logits are far from equal."""
    model = tiny_model(model_type, seed=seed, dtype=dtype, **keys)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model


@torch.no_grad()
def plain(model, original, sequences=SEQUENCES):
    """The same from whole logits, a sequence at a time."""
    nll = divergence = 0.0
    agreed = 0
    for ids in sequences:
        row = torch.tensor([ids])
        q, p = (one(input_ids=row).logits[0, :-1] for one in (model, original))
        agreed += int((q.argmax(-1) == p.argmax(-1)).sum())
        log_q, log_p = q.log_softmax(-1), p.log_softmax(-1)
        nll -= float(log_q.gather(1, row[0, 1:, None]).sum())
        divergence += float((log_p.exp() * (log_p - log_q)).sum())
    return nll, divergence, agreed


def assert_near(sums, expected):
    assert sums.nll == pytest.approx(expected[0], rel=1e-9)
    assert sums.divergence == pytest.approx(expected[1], rel=1e-9)
    assert sums.num_agreed == expected[2]


@pytest.mark.filterwarnings("ignore:.*original_max_position_embeddings")
@pytest.mark.parametrize("model_type", TINY)
def test_every_family_gives_what_whole_logits_give(model_type):
    keys = {"final_logit_softcapping": 2.0} if model_type.startswith("gemma") else {}
    model, original = (confident(model_type, seed, **keys) for seed in (0, 1))
    sums = compare(model, original, SEQUENCES, batch_tokens=40, logits_per_chunk=5 * 256)
    assert_near(sums, plain(model, original))
    assert sums.num_tokens == NUM_TARGETS
    assert sums.divergence > NUM_TARGETS / 10


def test_the_divergence_is_from_the_original_to_the_model_and_the_loss_is_the_models():
    model, original = confident("llama", 0), confident("llama", 1)
    there, back = (
        compare(*pair, SEQUENCES, batch_tokens=64)
        for pair in ((model, original), (original, model))
    )
    assert there.divergence != pytest.approx(back.divergence, rel=1e-3)
    assert there.nll != pytest.approx(back.nll, rel=1e-3)
    assert there.num_agreed == back.num_agreed


@pytest.mark.parametrize("hidden", [32, 24])
def test_a_sliced_gemma2_is_compared_with_its_soft_cap(tmp_path, registry, hidden):
    from transformers import AutoModelForCausalLM

    from ptl_plugins.slicegpt.criterion import SLICEGPT
    from ptl_plugins.slicegpt.sliced_checkpoint import SliceRequest, slice_checkpoint

    original = confident("gemma2", 0, attn_implementation="eager", final_logit_softcapping=0.5)
    original.save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    request = SliceRequest(
        source=tmp_path / "dense", out=tmp_path / "sliced", hidden=hidden, batch_tokens=64,
        family=registry.families.get("gemma2"), sequences=[SEQUENCES[0]], basis=SLICEGPT.basis,
        seed=1, provenance={},
    )  # fmt: skip
    slice_checkpoint(request)
    register_sliced_models()
    sliced = AutoModelForCausalLM.from_pretrained(tmp_path / "sliced").eval().double()
    # no padding: transformers' eager attention makes it NaN in float64, and only there
    sums = compare(sliced, original, SEQUENCES, batch_tokens=1)
    nll, divergence, agreed = plain(sliced, original)
    assert sums.nll == pytest.approx(nll, rel=1e-9)
    assert sums.divergence == pytest.approx(divergence, rel=1e-9, abs=1e-12)
    assert sums.num_agreed == agreed
    # the rotation alone changes nothing but rounding
    assert (sums.divergence / NUM_TARGETS < 1e-6) == (hidden == 32)


def test_the_loss_of_worked_answers_has_a_sliced_models_soft_cap_too(tmp_path):
    from ptl_plugins.slicegpt.configuration_ptl_sliced import PTLSlicedConfig
    from ptl_plugins.slicegpt.modeling_ptl_sliced import PTLSlicedForCausalLM

    torch.manual_seed(0)
    config = PTLSlicedConfig(vocab_size=256, hidden_size=32, logit_softcap=0.5)
    model = PTLSlicedForCausalLM(config).double().eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(50)
    problem = Problem(prompt="1 + 2 ", answer="= 3")
    tokenizer = tiny_tokenizer()
    counts = count_chain_of_thought(model, tokenizer, [problem])
    ids = torch.tensor([tokenizer("1 + 2 = 3</s>")["input_ids"]])
    with torch.no_grad():
        log_q = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    nll = -log_q.gather(1, ids[0, 1:, None])[-counts.num_tokens :].sum()
    assert counts.nll_sum == pytest.approx(float(nll), rel=1e-5)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    order=st.permutations(range(len(SEQUENCES))),
    batch_tokens=st.integers(1, 200),
    rows=st.integers(1, 90),
    cut=st.integers(0, len(SEQUENCES)),
)
def test_neither_batches_nor_chunks_nor_ranks_change_the_sums(order, batch_tokens, rows, cut):
    shuffled = [SEQUENCES[index] for index in order]
    sums = sum(
        (
            compare(MODEL, OTHER, share, batch_tokens=batch_tokens, logits_per_chunk=rows * 256)
            for share in (shuffled[:cut], shuffled[cut:])
        ),
        start=DivergenceSums(),
    )
    assert_near(sums, EXPECTED)
    assert sums.num_tokens == NUM_TARGETS


MODEL, OTHER = confident("qwen2", 0), confident("qwen2", 1)
EXPECTED = plain(MODEL, OTHER)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch_tokens", [1, 64, 1000])
def test_equal_models_have_a_divergence_of_exactly_zero_and_agree_on_everything(
    dtype, batch_tokens
):
    model = confident("llama", 0, dtype)
    sums = compare(model, copy.deepcopy(model), SEQUENCES, batch_tokens=batch_tokens)
    assert (sums.divergence, sums.num_agreed) == (0.0, NUM_TARGETS)
    assert sums.nll > NUM_TARGETS


def test_models_stay_as_they_are_and_nothing_of_their_training_is_measured():
    keys = {"attention_dropout": 0.5}
    model, original = (confident("llama", 0, torch.float32, **keys) for _ in range(2))
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        sums = compare(model, original, SEQUENCES, batch_tokens=64)
    assert sums.divergence == 0
    assert sums.nll == pytest.approx(plain(model.eval(), original)[0], rel=1e-5)
    model.train()
    assert compare(model, original, SEQUENCES, batch_tokens=64) == sums
    assert (model.training, original.training) == (True, False)
    assert next(model.parameters()).requires_grad


class LargestLogits(TorchDispatchMode):
    """Notes the most rows that a tensor of logits had; lm_head's transpose has 32 and is none."""

    rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.shape[-1:] == (256,) and len(leaf) != 32:
                self.rows = max(self.rows, leaf.numel() // 256)
        return result


def test_no_tensor_holds_the_logits_of_more_tokens_than_a_chunk_has():
    with LargestLogits() as whole:
        compare(MODEL, OTHER, SEQUENCES, batch_tokens=1000)
    with LargestLogits() as largest:
        compare(MODEL, OTHER, SEQUENCES, batch_tokens=1000, logits_per_chunk=7 * 256)
    assert (whole.rows, largest.rows) == (NUM_TARGETS, 7)


def test_sequences_that_predict_nothing_are_no_error():
    assert compare(MODEL, OTHER, [[], [5]], batch_tokens=8) == DivergenceSums()
