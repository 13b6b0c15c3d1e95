"""Questions with checkable answers: read once, cut into one part per round, in each one's form."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptl_plugins.errors import PTLError
from ptl_plugins.shares import part_weights
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.text_data import read_rows
from ptl_plugins.types import RoundContext
from verl_ext.grpo_settings import GrpoStageModel, ProblemsModel

NUM_VALIDATION = 8
"""EasyR1 validates once at the end whatever is asked; more problems would only cost time."""
SOURCE = "ptl"
"""verl's `data_source`: PTL's reward judges them all alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One question and its final answer."""

    question: str
    answer: str


def stage_problems(
    ctx: RoundContext, stage: StageSpec, settings: GrpoStageModel
) -> tuple[Problem, ...]:
    """Return the problems of a stage's round: the rounds that have it share them.

    Raises:
        PTLError: as from `round_problems`, or one round's part does not fill a step.
    """
    first, last = stage.rounds or (1, len(ctx.recipe.planned_rounds))
    weights = part_weights(ctx.recipe, ctx.original, ctx.registry, among=(first, last))
    parts = _parts(settings.problems, weights, seed=ctx.recipe.seed)
    if (fewest := min(map(len, parts))) < settings.grpo.prompts_per_step:
        raise PTLError(
            f"settings.grpo.prompts_per_step: {settings.grpo.prompts_per_step} is more than the "
            f"{fewest} problems of a round's part of '{settings.problems.path}', and the "
            "frameworks drop a step that is not full; give more problems, or fewer a step"
        )
    return parts[ctx.spec.planned - first]


def round_problems(
    spec: ProblemsModel, *, round_index: int, weights: Sequence[int], seed: int
) -> tuple[Problem, ...]:
    """Return the problems of a round; the parts do not overlap.

    Args:
        spec: where they are.
        round_index: from 1.
        weights: of the parts, one per round.
        seed: of the shuffle before the cut.

    Raises:
        PTLError: they cannot be read, lack a column, or are too few for each round to get one.
    """
    return _parts(spec, weights, seed=seed)[round_index - 1]


def _parts(
    spec: ProblemsModel, weights: Sequence[int], *, seed: int
) -> tuple[tuple[Problem, ...], ...]:
    from ptl_plugins.parts import cut_documents

    problems = _read(spec)
    try:
        parts = cut_documents(len(problems), weights, seed=seed)
    except PTLError as error:
        raise PTLError(f"problems '{spec.path}': {error}") from error
    return tuple(tuple(problems[index] for index in part) for part in parts)


@functools.lru_cache(maxsize=2)
def _read(spec: ProblemsModel) -> tuple[Problem, ...]:
    """Read every problem that has both a question and an answer."""
    problems = []
    for row in read_rows(spec.path, spec.split):
        for key, column in (("question", spec.question), ("answer", spec.answer)):
            if column not in row:
                raise PTLError(
                    f"problems '{spec.path}': has no column '{column}'; it has {', '.join(row)}; "
                    f"name one of them as settings.problems.{key}"
                )
        question, answer = row[spec.question], row[spec.answer]
        if question is not None and answer is not None and str(question).strip():
            problems.append(Problem(question=str(question), answer=str(answer)))
    if not problems:
        raise PTLError(f"problems '{spec.path}': holds none; give other data")
    return tuple(problems)


def verl_rows(problems: Sequence[Problem], template: Path) -> str:
    """Return the jsonl that verl reads: the prompt is a chat of one message.

    Raises:
        PTLError: the template cannot be rendered.
    """
    return _lines(
        {
            "data_source": SOURCE,
            "prompt": [{"role": "user", "content": content}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": problem.answer},
            "extra_info": {"index": index},
        }
        for index, (problem, content) in enumerate(
            zip(problems, _rendered(problems, template), strict=True)
        )
    )


def easyr1_rows(problems: Sequence[Problem]) -> str:
    """Return the jsonl that EasyR1 reads; it renders the template itself."""
    return _lines({"problem": each.question, "answer": each.answer} for each in problems)


def _rendered(problems: Sequence[Problem], template: Path) -> list[str]:
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    try:
        form = environment.from_string(template.read_text(encoding="utf-8").strip())
        texts = [form.render(content=problem.question) for problem in problems]
        asks = form.render(content="one") != form.render(content="two")
    except Exception as error:  # a template may do anything
        raise PTLError(f"{template}: is no jinja template of `content` ({error})") from error
    if not asks:
        raise PTLError(f"{template}: does not write the question; use `content` in it")
    return texts


def _lines(rows: Iterable[object]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
