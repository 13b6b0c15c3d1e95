"""One forward pass that gathers every statistic of neurons and layers (Eq. 3 to 6).

Hooks sit on the input of each layer's `down_proj` (the neurons' Act) and around each layer.
The lm_head is never run. Sums are fp32; memory is one batch, whatever the number of sequences.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ptl_plugins.calibration import Batch
from ptl_plugins.criteria import Statistic
from ptl_plugins.families import Family
from ptl_plugins.live import decoder, decoder_layers, evaluating, ffn_output, width
from ptl_plugins.ranks import Ranks
from ptl_plugins.types import Scores


def profile(
    model: PreTrainedModel,
    family: Family,
    batches: Iterable[Batch],
    statistics: Sequence[Statistic],
    ranks: Ranks,
) -> Scores:
    """Run `batches` through the decoder and return the statistics of all ranks together.

    Args:
        model: a live model on its device, in any float dtype.
        family: its facts.
        batches: this rank's share; padding may be left or right, under mask 0.
        statistics: what to gather; with none nothing is run.
        ranks: whose statistics are merged; every rank returns the same.
    """
    tally = _Tally(model, family, statistics)
    if statistics:
        with evaluating(model), tally.hooks():
            for batch in batches:
                tally.start(batch)
                decoder(model, family)(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
                )
    return tally.scores(ranks)


class _Tally:
    """Running totals of one pass, filled by forward hooks."""

    def __init__(
        self, model: PreTrainedModel, family: Family, statistics: Sequence[Statistic]
    ) -> None:
        self.layers = decoder_layers(model, family)
        self.family = family
        self.width = width(model, family)
        self.statistics = statistics
        device = next(model.parameters()).device
        self.totals = {s.name: self._empty(s, device) for s in statistics}
        self.counts = torch.zeros(2, dtype=torch.float64, device=device)
        self._mask: torch.Tensor | None = None
        self._before: torch.Tensor | None = None

    def _empty(self, statistic: Statistic, device: torch.device) -> torch.Tensor:
        rows = len(self.layers)
        shape = (rows, self.width) if statistic.site == "neuron" else (rows,)
        start = 0.0 if statistic.merge == "sum" else -torch.inf
        return torch.full(shape, start, dtype=torch.float32, device=device)

    def start(self, batch: Batch) -> None:
        """Note which tokens of the coming batch are real."""
        mask = batch.attention_mask.bool()
        self._mask = None if bool(mask.all()) else mask
        self.counts += torch.stack([mask.sum(), mask.any(dim=1).sum()])

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Place the hooks, and take them away whatever happens."""
        neuron = any(s.site == "neuron" for s in self.statistics)
        layer = any(s.site == "layer" for s in self.statistics)
        handles: list[Any] = []
        try:
            for index, module in enumerate(self.layers):
                if neuron:
                    output = ffn_output(module, self.family)
                    handles.append(output.register_forward_pre_hook(self._see_neurons(index)))
                if layer:
                    handles.append(module.register_forward_pre_hook(self._see_input))
                    handles.append(module.register_forward_hook(self._see_output(index)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see_neurons(self, index: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._add("neuron", index, self._real(inputs[0]))

        return hook

    def _see_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._before = inputs[0]

    def _see_output(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            after = output[0] if isinstance(output, tuple) else output
            assert self._before is not None
            self._add("layer", index, self._real(self._before), self._real(after))

        return hook

    def _real(self, states: torch.Tensor) -> torch.Tensor:
        """Return [tokens, features] without padding."""
        return states.flatten(0, 1) if self._mask is None else states[self._mask]

    def _add(self, site: str, index: int, *signal: torch.Tensor) -> None:
        for statistic in self.statistics:
            if statistic.site != site:
                continue
            total, value = self.totals[statistic.name][index], statistic.measure(*signal)
            if statistic.merge == "sum":
                total.add_(value)
            else:
                torch.maximum(total, value, out=total)

    def scores(self, ranks: Ranks) -> Scores:
        """Merge the ranks and return everything on the CPU."""
        for statistic in self.statistics:
            ranks.merge(self.totals[statistic.name], statistic.merge)
        ranks.merge(self.counts, "sum")
        return Scores(
            statistics={name: total.cpu() for name, total in self.totals.items()},
            num_layers=len(self.layers),
            width=self.width,
            num_tokens=int(self.counts[0]),
            num_sequences=int(self.counts[1]),
        )
