"""The backward pass of profiling: gradients by the inputs of the FFN's output matrices.

The loss is that of the next tokens, in nats, SUMMED over the tokens of a sequence: a token's
gradient then depends on its own sequence alone, not on the batch it is in. Only activations have
gradients, parameters none.

Layers go backward one at a time: the forward pass keeps the hidden states before each layer, and a
layer is run once more for the graph that its gradient goes through. So the pass needs the graph of
one layer and one batch, at the price of a second forward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ptl_plugins.calibration import Batch
from ptl_plugins.distillation.head import head_of

LOGITS_PER_CHUNK = {"cpu": 2**22}
"""fp32 logits that exist at once, by device: 16 MB, and about four times that with their gradients.
"""
LOGITS_PER_CHUNK_ELSEWHERE = 2**25


@contextlib.contextmanager
def differentiating(model: PreTrainedModel) -> Iterator[None]:
    """Switch to eval mode with a graph of activations alone, and back."""
    training = model.training
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in learnt:
        parameter.requires_grad_(False)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in learnt:
            parameter.requires_grad_()
        model.train(training)


class BackwardPass:
    """The calls of a forward pass's layers, made again from the last to the first."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[nn.Module]) -> None:
        self.model, self.layers = model, layers
        self.running = False
        """Whether layers are run once more: what hooks see of them they have seen before."""
        self._calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._end: torch.Tensor | None = None

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Note the layers' calls, and begin a graph behind the last of them."""
        with contextlib.ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                note = layer.register_forward_pre_hook(self._note(index), with_kwargs=True)
                stack.callback(note.remove)
            stack.callback(self.layers[-1].register_forward_hook(self._begin_graph).remove)
            yield

    def run(self, hidden: torch.Tensor, batch: Batch) -> None:
        """Send the loss's gradient from the decoder's last hidden states back through its layers.

        Args:
            hidden: [sequences, length, hidden], of a forward pass under `hooks`.
            batch: what the decoder was given.
        """
        assert self._end is not None
        torch.autograd.backward(hidden, loss_gradient(self.model, hidden.detach(), batch))
        gradient, self._end = self._end.grad, None
        self.running = True
        try:
            for index in reversed(range(len(self.layers))):
                gradient = self._through(index, gradient)
        finally:
            self.running = False
            self._calls.clear()

    def _through(self, index: int, gradient: torch.Tensor | None) -> torch.Tensor | None:
        """Return the gradient before a layer, given the one behind it."""
        inputs, keywords = self._calls.pop(index)
        start = inputs[0].detach().requires_grad_()
        output = _states(self.layers[index](start, *inputs[1:], **keywords))
        torch.autograd.backward(output, gradient)
        before: torch.Tensor | None = start.grad
        return before

    def _note(self, index: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if not self.running:
                self._calls[index] = (inputs, keywords)

        return hook

    def _begin_graph(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self.running:
            return None
        self._end = _states(output).detach().requires_grad_()
        return (self._end, *output[1:]) if isinstance(output, tuple) else self._end


def loss_gradient(model: PreTrainedModel, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the gradient of the loss by the decoder's last hidden states, of their shape.

    Targets are the real tokens that follow a real token; padding may be left or right. Logits
    exist for a chunk of the tokens at a time.
    """
    mask = batch.attention_mask.bool()
    predicts = torch.zeros_like(mask)
    predicts[:, :-1] = mask[:, :-1] & mask[:, 1:]
    rows = predicts.flatten().nonzero().flatten()
    targets = batch.input_ids.flatten()[rows + 1]
    states = hidden.flatten(0, 1)
    gradient = torch.zeros_like(states)
    at_once = LOGITS_PER_CHUNK.get(states.device.type, LOGITS_PER_CHUNK_ELSEWHERE)
    step = max(1, at_once // head_of(model).vocabulary)
    chunks = (torch.split(rows, step), torch.split(targets, step))
    for some, truth in zip(*chunks, strict=True):
        gradient[some] = _loss_gradient(model, states[some], truth)
    return gradient.view_as(hidden)


def _loss_gradient(
    model: PreTrainedModel, states: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the gradient of the summed loss by `states`, [targets, hidden]."""
    states = states.requires_grad_()
    logits = head_of(model)(states).float()
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return torch.autograd.grad(loss, states)[0]


def _states(output: Any) -> torch.Tensor:
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states
