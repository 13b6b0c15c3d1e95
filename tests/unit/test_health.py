"""When a training counts as diverged: whatever a healthy one does, it never does."""

from __future__ import annotations

import math
import random

import pytest

from ptl_plugins.health import HealthSpec, HealthWatch, Step, as_settings, first_trouble, watch_of

NAN, INF = math.nan, math.inf
VOCABULARY = 32_000


def losses(*values, start=1):
    return [Step(step=start + index, loss=value) for index, value in enumerate(values)]


def norms(*values):
    return [Step(step=1 + index, gradient_norm=value) for index, value in enumerate(values)]


def answers(*lengths, rewards=None):
    rewards = rewards or [None] * len(lengths)
    pairs = enumerate(zip(lengths, rewards, strict=True))
    return [Step(step=1 + i, length=length, reward=reward) for i, (length, reward) in pairs]


def trouble(told, /, vocabulary=VOCABULARY, **limits):
    return first_trouble(told, HealthSpec(**limits), vocabulary=vocabulary)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["loss", "mean_loss"])
def test_a_loss_that_is_not_finite_is_caught_at_once(value, where):
    steps = [*losses(2.0, 1.9), Step(step=3, **{where: value})]
    name = where.replace("_", " ")
    assert trouble(steps) == f"the {name} is not finite at step 3"


def test_another_loss_that_is_not_finite_is_named():
    assert trouble([Step(step=7, other={"KL divergence": NAN})]) == (
        "the KL divergence is not finite at step 7"
    )


def test_a_loss_that_rises_and_stays_up_is_caught_with_where_it_began():
    assert trouble(losses(*[2.0] * 5, *[5.1] * 4)) is None, "not yet long enough"
    assert trouble(losses(*[2.0] * 5, *[5.1] * 5)) == (
        "the loss is 5.1, and since step 6 more than 3 (health.loss_rise) above the 2 that it had "
        "come to"
    )


def test_spikes_are_no_divergence():
    assert trouble(losses(*[2.0] * 5, *[9.0, 9.0, 9.0, 9.0, 2.0] * 20)) is None


def test_a_single_easy_text_is_no_level():
    assert trouble(losses(0.01, *[3.5] * 50)) is None


def test_a_loss_far_beyond_guessing_is_caught_once_the_model_did_better():
    guess = math.log(VOCABULARY)
    rises = [2.0, *[guess + 3.1] * 5]
    assert "above the 10.37 that it had come to" in trouble(losses(*rises))
    assert trouble(losses(*rises), vocabulary=None) is None
    assert trouble(losses(*[guess + 3.1] * 5, *[2.0] * 5)) is None, "a heavy cut, and a recovery"


def test_a_training_that_told_of_no_step_is_judged_by_its_mean_loss():
    assert trouble([Step(step=9, mean_loss=13.3)]) is None
    assert trouble([Step(step=9, mean_loss=13.4)]).startswith(
        "the mean loss of all 9 steps is 13.4"
    )
    assert trouble([Step(step=9, mean_loss=1e9)], vocabulary=None) is None


def test_gradient_norms_are_caught_when_they_stay_large_or_not_finite():
    assert trouble(norms(*[1e5] * 4, 1.0, *[1e5] * 4)) is None
    found = trouble(norms(1.0, *[1e5] * 5))
    assert found == "the gradient norm is 1e+05, above 10000 (health.gradient_norm) since step 2"
    assert trouble(norms(INF, INF, NAN, 1.0)) is None, "mixed precision finds its scale"
    assert "not finite since step 1" in trouble(norms(INF, NAN, INF, INF, NAN))


def test_answers_that_collapse_are_caught_and_better_short_ones_are_not():
    first, later = [200.0] * 5, [19.0] * 5
    found = trouble(answers(*first, *later))
    assert found == (
        "the generated answers have 19 tokens, since step 6 less than 0.1 (health.length_ratio) "
        "of the first steps' 200"
    )
    assert trouble(answers(*first, *[21.0] * 50)) is None
    paid = [0.1] * 5 + [0.6] * 5
    assert trouble(answers(*first, *later, rewards=paid)) is None, "it rambled before"
    assert trouble(answers(*first, *later, rewards=[0.1] * 10)) is not None
    assert trouble(answers(*[0.0] * 20)) is None


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"steps": 2}, losses(2.0, 2.0, 5.1, 5.1)),
        ({"loss_rise": 0.5}, losses(*[2.0] * 5, *[2.6] * 5)),
        ({"gradient_norm": 0.5}, norms(*[1.0] * 5)),
        ({"length_ratio": 0.9}, answers(*[10.0] * 5, *[8.0] * 5)),
    ],
)
def test_each_bound_is_the_recipes(limits, steps):
    assert trouble(steps) is None
    assert trouble(steps, **limits) is not None


@pytest.mark.parametrize("seed", range(50))
def test_a_training_that_recovers_is_never_taken_for_a_divergence(seed):
    """From a deep cut's loss down, noisy as batches of one text are, with spikes."""
    draw = random.Random(seed)
    top, floor = draw.uniform(2, 14), draw.uniform(0.05, 2)
    steps = []
    for number in range(1, draw.randrange(2, 400)):
        loss = floor + (top - floor) * math.exp(-number / 30) + draw.gauss(0, 0.6)
        loss = max(0.01, loss) + (draw.uniform(0, 20) if draw.random() < 0.02 else 0)
        norm = draw.choice([draw.lognormvariate(1, 2), INF if draw.random() < 0.02 else 1.0])
        steps.append(Step(step=number, loss=loss, gradient_norm=norm))
    steps.append(Step(step=len(steps), mean_loss=sum(s.loss for s in steps) / max(1, len(steps))))
    assert trouble(steps, vocabulary=49_152) is None


@pytest.mark.parametrize("seed", range(30))
def test_a_training_that_explodes_is_always_caught_and_soon(seed):
    draw = random.Random(seed)
    good = [2.0 + draw.gauss(0, 0.3) for _ in range(draw.randrange(5, 60))]
    bad = [2.0 * draw.uniform(1.5, 3) ** (2 + n) + 4 for n in range(20)]
    watch = HealthWatch(HealthSpec(), vocabulary=VOCABULARY)
    found = [watch.see(step) is not None for step in losses(*good, *bad)]
    assert True not in found[: len(good)]
    assert found.index(True) <= len(good) + 5


def test_a_watch_goes_to_another_process_and_is_the_same_there():
    limits = HealthSpec(steps=2, loss_rise=1.0)
    watch = watch_of(as_settings(limits, VOCABULARY))
    found = [watch.see(step) for step in losses(2.0, 2.0, 3.1, 3.1)]
    assert found[:3] == [None] * 3
    assert found[3] == trouble(losses(2.0, 2.0, 3.1, 3.1), steps=2, loss_rise=1.0)
