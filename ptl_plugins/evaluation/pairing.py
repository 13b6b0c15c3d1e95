"""Two models on the same questions: what differs, and whether chance would do as much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ptl_plugins.evaluation.values import QuestionResult

RESAMPLES = 9999
CONFIDENCE = 0.95
SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """A model against a baseline on one mark of the questions that both were asked."""

    mark: str
    num_questions: int
    both: int
    """Questions that both have right."""
    only_model: int
    only_baseline: int
    neither: int
    difference: float
    """Accuracy of the model minus that of the baseline."""
    interval: tuple[float, float]
    """95 % of the paired bootstrap over questions (percentiles)."""
    p_value: float
    """Exact McNemar test, two-sided: chance alone makes a split at least as uneven this often."""


def pair(
    mark: str, results: Sequence[QuestionResult], baseline: Sequence[QuestionResult]
) -> Pairing:
    """Compare a model with a baseline, question by question.

    Args:
        mark: the mark that is compared.
        results: of the model.
        baseline: of the baseline on the same data; questions that either lacks are left out.
    """
    theirs = {r.index: r.marks[mark] for r in baseline if mark in r.marks}
    pairs = [(r.marks[mark], theirs[r.index]) for r in results
             if mark in r.marks and r.index in theirs]  # fmt: skip
    ours_right = [(ours > 0, other > 0) for ours, other in pairs]
    only_model = ours_right.count((True, False))
    only_baseline = ours_right.count((False, True))
    differences = [ours - other for ours, other in pairs]
    return Pairing(
        mark=mark,
        num_questions=len(pairs),
        both=ours_right.count((True, True)),
        only_model=only_model,
        only_baseline=only_baseline,
        neither=ours_right.count((False, False)),
        difference=sum(differences) / len(pairs) if pairs else 0.0,
        interval=bootstrap_interval(differences),
        p_value=mcnemar(only_model, only_baseline),
    )


def mcnemar(only_model: int, only_baseline: int) -> float:
    """Return the two-sided p-value of McNemar's exact test."""
    from scipy.stats import binomtest

    disagreements = only_model + only_baseline
    if not disagreements:
        return 1.0
    return float(binomtest(only_model, disagreements, 0.5).pvalue)


def bootstrap_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean difference over resampled questions."""
    import numpy as np
    from scipy.stats import bootstrap

    if len(differences) < 2 or len(set(differences)) == 1:
        same = float(differences[0]) if differences else 0.0
        return same, same
    found = bootstrap(
        (np.asarray(differences, dtype=np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        batch=256,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)
