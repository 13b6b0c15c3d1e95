"""Runs batches through a decoder and hands each layer's signals to those who tally them.

Hooks sit on the FFN's matrices and around each layer, only where somebody looks. Nothing but the
batch is in memory. The lm_head is run where somebody looks at gradients, and only there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from ptl_plugins.calibration import Batch
from ptl_plugins.criteria import BACKWARD, Site
from ptl_plugins.families import Family
from ptl_plugins.gradients import BackwardPass, differentiating
from ptl_plugins.live import decoder, decoder_layers, evaluating, ffn_output
from ptl_plugins.profile_model import hand_back_freed_memory


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokens:
    """Which rows of a flattened signal, [sequences * length, features], are real tokens."""

    real: torch.Tensor | None
    """Their indices; None: all of them."""
    last: torch.Tensor
    """The index of each sequence's last token."""
    num_tokens: int


class Tally(Protocol):
    """Running totals that signals are added to."""

    @property
    def sites(self) -> Container[Site]:
        """The signals it looks at."""
        ...

    @property
    def layers(self) -> range:
        """The layers it looks at."""
        ...

    @property
    def totals(self) -> dict[str, torch.Tensor]:
        """The totals by name, changed in place."""
        ...

    def start(self, tokens: Tokens) -> None:
        """Take note of a batch that is about to run."""
        ...

    def see(self, site: Site, layer: int, tokens: Tokens, *signal: torch.Tensor) -> None:
        """Add a signal: [rows, features] in the model's dtype, padding among its rows."""
        ...


def run_batches(
    model: PreTrainedModel,
    family: Family,
    batches: Sequence[Batch],
    tallies: Sequence[Tally],
    *,
    skip: int = 0,
    after_batch: Callable[[int], None] | None = None,
) -> None:
    """Run the batches from number `skip` on; `after_batch` is told how many are done.

    The decoder stops at the last layer that a tally looks at, unless one looks at gradients: then
    every batch has a backward pass, too.
    """
    backward = any(BACKWARD in tally.sites for tally in tallies)
    last = max(tally.layers.stop for tally in tallies) - 1
    layers = list(decoder_layers(model, family))
    again = BackwardPass(model, layers) if backward else None
    watch = _Watch(model, family, tallies, again)
    mode = differentiating(model) if backward else evaluating(model)
    with mode, watch.hooks(), _stop_after(model, family, len(layers) - 1 if backward else last):
        for index in range(skip, len(batches)):
            batch = batches[index]
            watch.start(batch)
            with contextlib.suppress(_EnoughError):
                _run_batch(decoder(model, family), batch, watch)
            if after_batch is not None:
                after_batch(index + 1)


def _run_batch(decoder: nn.Module, batch: Batch, watch: _Watch) -> None:
    """Run a batch; nothing of its graph is held when the next one runs."""
    output = decoder(input_ids=batch.input_ids, attention_mask=watch.mask, use_cache=False)
    if watch.again is not None:
        watch.again.run(output.last_hidden_state, batch)
        if batch.input_ids.device.type == "cpu":
            hand_back_freed_memory()


def real_tokens(batch: Batch) -> Tokens:
    """Work out which rows of the batch's signals are real; padding may be left or right."""
    mask = batch.attention_mask.bool()
    length = mask.shape[1]
    number = int(mask.sum())
    place = torch.arange(length, device=mask.device)
    last = torch.where(mask, place, -1).amax(dim=1)
    rows = torch.arange(mask.shape[0], device=mask.device) * length
    return Tokens(
        real=None if number == mask.numel() else mask.flatten().nonzero().flatten(),
        last=(rows + last)[last >= 0],
        num_tokens=number,
    )


class _EnoughError(Exception):
    """Raised inside the decoder behind the last layer that is looked at."""


@contextlib.contextmanager
def _stop_after(model: PreTrainedModel, family: Family, last: int) -> Iterator[None]:
    layers = decoder_layers(model, family)
    if last == len(layers) - 1:  # nothing to gain
        yield
        return

    def stop(module: nn.Module, inputs: Any, output: Any) -> None:
        raise _EnoughError

    handle = layers[last].register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()


class _Watch:
    """The hooks of one pass, and the batch that they are seeing."""

    def __init__(
        self,
        model: PreTrainedModel,
        family: Family,
        tallies: Sequence[Tally],
        again: BackwardPass | None,
    ) -> None:
        self.layers = decoder_layers(model, family)
        self.again = again
        self.family = family
        self.tallies = tallies
        self.mask: torch.Tensor | None = None
        self._tokens: Tokens | None = None
        self._before: torch.Tensor | None = None

    def start(self, batch: Batch) -> None:
        """Tell the tallies of a batch; without padding the decoder needs no mask."""
        self._tokens = real_tokens(batch)
        self.mask = None if self._tokens.real is None else batch.attention_mask
        for tally in self.tallies:
            tally.start(self._tokens)

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Place the hooks, and take them away whatever happens."""
        with contextlib.ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                for handle in self._place(index, layer):
                    stack.callback(handle.remove)
            if self.again is not None:
                stack.enter_context(self.again.hooks())
            yield

    def _place(self, index: int, layer: nn.Module) -> Iterator[Any]:
        if self._wanted("neuron", index):
            output = ffn_output(layer, self.family)
            yield output.register_forward_pre_hook(
                lambda module, inputs: self._tell("neuron", index, inputs[0])
            )
        if self._wanted(BACKWARD, index):
            output = ffn_output(layer, self.family)
            yield output.register_forward_pre_hook(self._await_gradient(index))
        inputs, blocks = self.family.ffn_inputs, self.family.ffn_blocks
        sites: tuple[tuple[Site, str, int], ...] = (("gate", inputs[0], 0), ("up", inputs[-1], -1))
        for site, name, block in sites:
            if self._wanted(site, index):
                module = layer.get_submodule(name)
                yield module.register_forward_hook(self._see_block(site, index, blocks, block))
        if self._wanted("layer", index):
            yield layer.register_forward_pre_hook(self._see_input)
            yield layer.register_forward_hook(self._see_output(index))

    def _wanted(self, site: Site, layer: int) -> bool:
        return any(site in tally.sites and layer in tally.layers for tally in self.tallies)

    def _see_block(self, site: Site, index: int, blocks: int, block: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self._tell(site, index, output.chunk(blocks, dim=-1)[block])

        return hook

    def _await_gradient(self, index: int) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if self._repeats:
                values = inputs[0].detach()  # a hook that held its own tensor would hold the graph
                inputs[0].register_hook(
                    lambda gradient: self._tell(BACKWARD, index, values, gradient)
                )

        return hook

    @property
    def _repeats(self) -> bool:
        """Whether a layer is run once more, for its gradient alone."""
        return self.again is not None and self.again.running

    def _see_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._before = inputs[0].detach()  # without a graph that leads to it

    def _see_output(self, index: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            after = output[0] if isinstance(output, tuple) else output
            assert self._before is not None
            self._tell("layer", index, self._before, after)

        return hook

    def _tell(self, site: Site, layer: int, *signal: torch.Tensor) -> None:
        assert self._tokens is not None
        if self._repeats and site != BACKWARD:
            return
        flat = [states.detach().reshape(-1, states.shape[-1]) for states in signal]
        with torch.no_grad():
            for tally in self.tallies:
                if site in tally.sites and layer in tally.layers:
                    tally.see(site, layer, self._tokens, *flat)
