"""A neuron criterion of its own, after the protocol `ptl_plugins.components.Criterion`."""

from __future__ import annotations

import numpy as np

from ptl_plugins.criteria import Statistic


def size_sum(act):
    """Sum |Act| over tokens: a torch tensor, fp32 [tokens, width] -> [width]."""
    return act.abs().sum(dim=0)


SIZE_SUM = Statistic(name="copycat_size_sum", site="neuron", merge="sum", measure=size_sum)


class MeanSize:
    """Neurons are as important as their mean |Act| is large."""

    unit = "neuron"
    statistics = (SIZE_SUM,)

    def importance(self, scores):
        """Return numpy fp32 [layers, width]."""
        return scores.statistics[SIZE_SUM.name] / np.float32(scores.num_tokens)
