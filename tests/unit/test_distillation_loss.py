"""The loss of distillation against the plain computation, and how large its tensors are."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ptl_plugins.distillation.head import Head, head_of
from ptl_plugins.distillation.loss import distillation_sums, targets_of
from ptl_plugins.distillation.teacher import Teacher
from ptl_plugins.testing import tiny_model

MODELS = {
    "tied": ("llama", {}),
    "untied": ("llama", {"tie_word_embeddings": False}),
    "biases": ("qwen2", {"tie_word_embeddings": False}),
    "soft cap": ("gemma2", {}),
    "soft cap, untied": ("gemma2", {"tie_word_embeddings": False}),
}


def student_and_teacher(kind, dtype=torch.float64):
    model_type, keys = MODELS[kind]
    if model_type == "gemma2":  # a cap that bends these small logits
        keys = {**keys, "final_logit_softcapping": 0.5}
    student, other = (tiny_model(model_type, seed=s, dtype=dtype, **keys) for s in (0, 1))
    for model in (student, other):
        model.set_attn_implementation("eager")
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(20)
    return student, other


def batch():
    torch.manual_seed(5)
    ids = torch.randint(4, 256, (3, 11))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    return {"input_ids": ids, "attention_mask": mask}, ids.masked_fill(mask == 0, -100)


def chunked(student, teacher, weight, *, rows=4, gradient_checkpointing=False):
    inputs, labels = batch()
    if gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": True})
        student.enable_input_require_grads()
        student.train()
    is_target, targets = targets_of(labels)
    states = student.get_decoder()(**inputs, use_cache=False).last_hidden_state
    return distillation_sums(
        head_of(student),
        states[:, :-1][is_target],
        targets,
        teacher.logits(inputs, is_target, states.device),
        weight=weight,
        logits_per_chunk=rows * 256,
    )


def plain(student, teacher, weight):
    """The same by whole logits, as the formula says."""
    inputs, labels = batch()
    chosen = labels[:, 1:] != -100
    log_q = student(**inputs).logits[:, :-1][chosen].log_softmax(-1)
    with torch.no_grad():
        log_p = teacher(**inputs).logits[:, :-1][chosen].log_softmax(-1)
    cross_entropy = -log_q.gather(1, labels[:, 1:][chosen][:, None]).sum()
    divergence = (log_p.exp() * (log_p - log_q)).sum()
    return SimpleNamespace(
        loss=(1 - weight) * cross_entropy + weight * divergence,
        cross_entropy=cross_entropy,
        divergence=divergence,
    )


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_loss_and_gradients_are_those_of_the_plain_computation(
    kind, gradient_checkpointing, weight
):
    student, other = student_and_teacher(kind)
    twin = copy.deepcopy(student)
    expected = plain(twin, other, weight)
    expected.loss.backward()
    found = chunked(student, Teacher(other), weight, gradient_checkpointing=gradient_checkpointing)
    (3 * found.loss).backward()
    for name in ("loss", "cross_entropy", "divergence"):
        one, other_one = (float(getattr(sums, name).detach()) for sums in (found, expected))
        assert one == pytest.approx(other_one, rel=1e-12)
    assert float(expected.divergence.detach()) > 1
    wanted, got = gradients(twin), gradients(student)
    assert got.keys() == wanted.keys() == dict(student.named_parameters()).keys()
    for name, gradient in wanted.items():
        # norms compute in fp32 whatever the model's dtype; only the head's gradient never sees one
        atol = (1e-12 if name == "lm_head.weight" else 1e-5) * float(gradient.abs().max())
        torch.testing.assert_close(got[name], 3 * gradient, rtol=0, atol=3 * atol)


@pytest.mark.parametrize("kind", MODELS)
def test_a_student_that_is_its_teacher_has_exactly_no_loss_and_no_gradient(kind):
    student, _ = student_and_teacher(kind, dtype=torch.float32)
    found = chunked(student, Teacher(copy.deepcopy(student)), 1.0)
    found.loss.backward()
    assert found.loss.item() == 0.0
    assert float(found.cross_entropy) > 1
    assert all(not gradient.any() for gradient in gradients(student).values())
    assert len(gradients(student)) == len(dict(student.named_parameters()))


def test_a_teacher_alone_draws_the_student_towards_it():
    student, other = student_and_teacher("tied", dtype=torch.float32)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    divergences = []
    for _ in range(20):
        found = chunked(student, Teacher(other), 1.0)
        (found.loss / found.num_targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        divergences.append(float(found.divergence))
    assert divergences[-1] < divergences[0] / 2


def test_the_size_of_the_chunks_changes_nothing():
    student, other = student_and_teacher("tied")
    losses = {chunked(student, Teacher(other), 0.4, rows=r).loss.item() for r in (1, 7, 999)}
    assert max(losses) == pytest.approx(min(losses), rel=1e-12)


def test_a_batch_without_a_target_has_no_loss_and_gradients_of_zero():
    student, _ = student_and_teacher("untied")
    nothing = torch.zeros(0, dtype=torch.long)
    states = torch.zeros(0, 32, dtype=torch.float64, requires_grad=True)
    found = distillation_sums(head_of(student), states, nothing, lambda part: None, weight=0.5)
    found.loss.backward()
    assert found.loss.item() == 0.0
    assert not student.lm_head.weight.grad.any()


def random_head(dtype, *, kind=torch.nn.Linear, tokens=512):
    """Return a head of 64 x 512, states and the teacher's logits of `tokens` targets."""
    torch.manual_seed(3)
    head = Head(module=kind(64, 512).to(dtype))
    states = torch.randn(tokens, 64).to(dtype).requires_grad_()
    return head, states, torch.randint(512, (tokens,)), torch.randn(tokens, 512, dtype=torch.double)


class OtherLinear(torch.nn.Linear):
    """A head that is not known to be a plain one, although it is."""


def weight_gradient(head, states, targets, teacher, *, rows):
    sums = distillation_sums(
        head, states, targets, lambda part: teacher[part], weight=0.5, logits_per_chunk=rows * 512
    )
    (sums.loss / len(targets)).backward()
    return head.module.weight.grad


@pytest.mark.parametrize("kind", [torch.nn.Linear, OtherLinear])
def test_the_gradient_of_a_head_in_bf16_does_not_lose_more_in_more_chunks(kind):
    head, states, targets, teacher = random_head(torch.bfloat16, kind=kind)
    exact = Head(module=copy.deepcopy(head.module).double())
    wanted = weight_gradient(
        exact, states.detach().double().requires_grad_(), targets, teacher, rows=512
    )
    for rows in (512, 1):
        head.module.zero_grad()
        found = weight_gradient(head, states, targets, teacher, rows=rows)
        assert float((found.double() - wanted.double()).norm() / wanted.norm()) < 0.005
    assert head.module.weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_under_autocast_has_the_gradients_of_autograd(dtype):
    head, states, targets, teacher = random_head(torch.float32)
    other = OtherLinear(64, 512)
    other.load_state_dict(head.module.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = weight_gradient(head, states, targets, teacher, rows=100)
        wanted = weight_gradient(
            Head(module=other), states.detach().requires_grad_(), targets, teacher, rows=100
        )
    error = float((found.double() - wanted.double()).norm() / wanted.norm())
    assert error < (1e-6 if dtype == torch.float32 else 1e-3)
    assert head.module.bias.grad is not None


def test_a_second_backward_pass_is_refused():
    head, states, targets, teacher = random_head(torch.float32, tokens=8)
    sums = distillation_sums(head, states, targets, lambda part: teacher[part], weight=0.5)
    sums.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        sums.loss.backward()


class LiveBytes(TorchDispatchMode):
    """Notes the most bytes that were there at once of what was made since it began."""

    def __init__(self):
        super().__init__()
        self.peak = 0
        self._live = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if torch.is_tensor(leaf)
        }
        result = function(*args, **(kwargs or {}))
        self._live = {key: held for key, held in self._live.items() if not held[0].expired()}
        for leaf in filter(torch.is_tensor, tree_leaves(result)):
            storage = leaf.untyped_storage()
            if storage._cdata not in known:
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


@pytest.mark.parametrize(
    ("dtype", "cap"), [(torch.float32, None), (torch.float32, 2.0), (torch.bfloat16, None)]
)
def test_one_gradient_of_the_head_and_three_tensors_of_a_chunk_exist_at_once(dtype, cap):
    head, states, targets, teacher = random_head(dtype, tokens=64)
    head, teacher = Head(module=head.module, cap=cap), teacher.to(dtype)
    with LiveBytes() as live:
        weight_gradient(head, states, targets, teacher, rows=8)
    chunk, summed, result = 8 * 512 * 4, 64 * 512 * 4, 64 * 512 * dtype.itemsize
    chunks = 3 if cap is None else 4  # of a soft cap the tanh stays
    bound = summed + (chunks * chunk if dtype == torch.float32 else result)  # cast at the end
    assert summed < live.peak < bound + states.nbytes + 4096


class LargestTensor(TorchDispatchMode):
    """Notes the most rows that a tensor of logits had; lm_head's transpose has 32 and is none."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.shape[-1:] == (256,) and len(leaf) != 32:
                self.rows = max(self.rows, leaf.numel() // 256)
        return result


def test_no_tensor_holds_the_logits_of_more_tokens_than_a_chunk_has():
    student, other = student_and_teacher("untied", dtype=torch.float32)
    with LargestTensor() as whole:
        plain(student, other, 0.5).loss.backward()
    with LargestTensor() as largest:
        chunked(student, Teacher(other), 0.5, rows=4).loss.backward()
    assert whole.rows >= 27
    assert largest.rows == 4


def test_the_teacher_is_frozen_and_its_autocast_is_its_own():
    _, other = student_and_teacher("untied", dtype=torch.float32)
    teacher = Teacher(other)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inputs, labels = batch()
        is_target, targets = targets_of(labels)
        logits = teacher.logits(inputs, is_target, torch.device("cpu"))(slice(0, 4))
    assert logits.dtype == torch.float32
    assert not any(p.requires_grad for p in other.parameters())
    assert not other.training
    assert teacher.stopwatch.take() > 0
    assert teacher.stopwatch.take() == 0
    assert teacher.num_bytes == sum(p.numel() * 4 for p in other.parameters()) + sum(
        b.numel() * b.element_size() for b in other.buffers()
    )
    assert len(targets) == int(is_target.sum())
