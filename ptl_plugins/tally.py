"""Running totals of statistics and of second moments, in fp32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from ptl_plugins.criteria import Site, Statistic
from ptl_plugins.families import Family
from ptl_plugins.gram import add_gram, complete
from ptl_plugins.live import decoder_layers, ffn_output, width
from ptl_plugins.ranks import Ranks
from ptl_plugins.signals import Tokens
from ptl_plugins.types import Scores

PIECE = {"cpu": 2**18}
"""fp32 elements of a signal that are worked on at once, by device: on a CPU they stay in its
cache, which is several times faster than whole batches."""
PIECE_ELSEWHERE = 2**26
MOMENT_PIECE = 2**23


def pieces(
    signal: Sequence[torch.Tensor], rows: torch.Tensor | None, elements: int
) -> Iterator[list[torch.Tensor]]:
    """Yield `rows` of each of `signal` (None: all) in fp32, at most `elements` at a time."""
    step = max(1, elements // signal[0].shape[-1])
    number = signal[0].shape[0] if rows is None else len(rows)
    for start in range(0, number, step):
        end = min(start + step, number)
        if rows is None:
            yield [states[start:end].float() for states in signal]
        else:
            yield [states.index_select(0, rows[start:end]).float() for states in signal]


class StatisticTally:
    """Totals of statistics: [layers, width] for neurons, [layers] for layers."""

    def __init__(
        self, model: PreTrainedModel, family: Family, statistics: Sequence[Statistic]
    ) -> None:
        self.model, self.family, self.statistics = model, family, statistics
        self.sites: frozenset[Site] = frozenset(s.site for s in statistics)
        self.layers = range(len(decoder_layers(model, family)))
        self.width = width(model, family)
        self.device = next(model.parameters()).device
        self.piece = PIECE.get(self.device.type, PIECE_ELSEWHERE)
        self.totals = {s.name: self._empty(s) for s in statistics}
        self.totals["counts"] = torch.zeros(2, dtype=torch.float64, device=self.device)

    def _empty(self, statistic: Statistic) -> torch.Tensor:
        rows = len(self.layers)
        shape = (rows,) if statistic.site == "layer" else (rows, self.width)
        start = 0.0 if statistic.merge == "sum" else -torch.inf
        return torch.full(shape, start, dtype=torch.float32, device=self.device)

    def start(self, tokens: Tokens) -> None:
        """Count tokens and sequences."""
        counts = [tokens.num_tokens, len(tokens.last)]
        self.totals["counts"] += torch.tensor(counts, dtype=torch.float64, device=self.device)

    def see(self, site: Site, layer: int, tokens: Tokens, *signal: torch.Tensor) -> None:
        """Measure every statistic of the site, piece by piece."""
        for which, rows in (("all", tokens.real), ("last", tokens.last)):
            wanted = [s for s in self.statistics if (s.site, s.tokens) == (site, which)]
            for piece in pieces(signal, rows, self.piece) if wanted else ():
                for statistic in wanted:
                    self._add(statistic, layer, statistic.measure(*piece))

    def _add(self, statistic: Statistic, layer: int, value: torch.Tensor) -> None:
        total = self.totals[statistic.name][layer]
        if statistic.merge == "sum":
            total.add_(value)
        else:
            torch.maximum(total, value, out=total)

    def scores(self, ranks: Ranks) -> Scores:
        """Look at the weights, merge the ranks and return everything on the CPU."""
        self._see_weights()
        for statistic in self.statistics:
            ranks.merge(self.totals[statistic.name], statistic.merge)
        ranks.merge(self.totals["counts"], "sum")
        num_tokens, num_sequences = (int(n) for n in self.totals["counts"].tolist())
        return Scores(
            statistics={s.name: self.totals[s.name].cpu().numpy() for s in self.statistics},
            num_layers=len(self.layers),
            width=self.width,
            num_tokens=num_tokens,
            num_sequences=num_sequences,
        )

    @torch.inference_mode()
    def _see_weights(self) -> None:
        for statistic in self.statistics:
            if statistic.site == "weight":
                assert statistic.merge == "max", "every rank sees the same weights"
                for index, layer in enumerate(decoder_layers(self.model, self.family)):
                    weight = ffn_output(layer, self.family).weight.float()
                    self._add(statistic, index, statistic.measure(weight))


class MomentTally:
    """Second moments H = X^T X of the FFN output matrices' inputs X, [width, width] a layer."""

    sites: frozenset[Site] = frozenset({"neuron"})

    def __init__(self, model: PreTrainedModel, family: Family, layers: range) -> None:
        self.layers = layers
        size, device = width(model, family), next(model.parameters()).device
        self.totals = {
            str(layer): torch.zeros(size, size, dtype=torch.float32, device=device)
            for layer in layers
        }

    def start(self, tokens: Tokens) -> None:
        """Nothing is counted."""

    def see(self, site: Site, layer: int, tokens: Tokens, *signal: torch.Tensor) -> None:
        """Add the real tokens' outer products, as far as `complete` does not mirror them."""
        bf16_exact = signal[0].dtype == torch.bfloat16
        for (act,) in pieces(signal, tokens.real, MOMENT_PIECE):
            add_gram(self.totals[str(layer)], act, bf16_exact=bf16_exact)

    def complete(self) -> None:
        """Make whole matrices of the totals, when all is seen."""
        for total in self.totals.values():
            complete(total)
