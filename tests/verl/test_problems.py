"""Problems: equal parts that do not overlap, in each framework's form."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_plugins.errors import PTLError
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.types import RoundSpec
from verl_ext.grpo_settings import GrpoModel, GrpoStageModel, ProblemsModel
from verl_ext.problems import Problem, easyr1_rows, round_problems, stage_problems, verl_rows


def write(path, number, **more):
    rows = [{"problem": f"What is {i} + 1?", "answer": i + 1, **more} for i in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parts(path, number, seed=0):
    spec = ProblemsModel(path=str(path))
    return [
        round_problems(spec, round_index=index + 1, weights=(1,) * number, seed=seed)
        for index in range(number)
    ]


def context(index, *, num_rounds=5, tokens="equal", step_of=None):
    recipe = SimpleNamespace(planned_rounds=(None,) * num_rounds, seed=0, tokens=tokens)
    spec = RoundSpec(index=index, cuts=(), step_of=step_of)
    return SimpleNamespace(recipe=recipe, spec=spec, original=None, registry=None)


@given(number=st.integers(1, 7), seed=st.integers(0, 5))
def test_the_parts_are_equal_and_share_no_problem(tmp_path_factory, number, seed):
    path = tmp_path_factory.getbasetemp() / "forty.jsonl"
    if not path.exists():
        write(path, 40)
    found = parts(path, number, seed)
    assert {len(part) for part in found} == {40 // number}
    questions = [problem.question for part in found for problem in part]
    assert len(set(questions)) == len(questions)


def test_the_seed_decides_the_parts(tmp_path):
    path = write(tmp_path / "p.jsonl", 40)
    assert parts(path, 2, seed=0) == parts(path, 2, seed=0)
    assert parts(path, 2, seed=0) != parts(path, 2, seed=1)


def test_numbers_are_answers_and_rows_without_one_are_left_out(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "a?", "answer": 3}\n{"problem": "b?", "answer": null}\n')
    assert parts(path, 1) == [(Problem(question="a?", answer="3"),)]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"question": "prompt"}, "has no column 'prompt'; it has problem, answer; name one"),
        ({"answer": "solution"}, "as settings.problems.answer"),
    ],
)
def test_a_column_that_is_not_there_is_one_line(tmp_path, keys, line):
    spec = ProblemsModel(path=str(write(tmp_path / "p.jsonl", 3)), **keys)
    with pytest.raises(PTLError, match=line):
        round_problems(spec, round_index=1, weights=(1,), seed=0)


def test_fewer_problems_than_rounds_are_refused(tmp_path):
    spec = ProblemsModel(path=str(write(tmp_path / "p.jsonl", 2)))
    with pytest.raises(PTLError, match="2 documents for 3 rounds"):
        round_problems(spec, round_index=1, weights=(1, 1, 1), seed=0)


def test_verls_rows_hold_the_rendered_prompt_and_the_answer(tmp_path):
    template = tmp_path / "t.jinja"
    template.write_text("Q: {{ content | trim }} Think.\n")
    (row,) = map(
        json.loads, verl_rows([Problem(question=" 1+1? ", answer="2")], template).splitlines()
    )
    assert row["prompt"] == [{"role": "user", "content": "Q: 1+1? Think."}]
    assert row["reward_model"] == {"style": "rule", "ground_truth": "2"}


def test_easyr1s_rows_are_plain(tmp_path):
    assert json.loads(easyr1_rows([Problem(question="q", answer="2")])) == {
        "problem": "q",
        "answer": "2",
    }


def test_a_template_may_change_the_question(tmp_path):
    template = tmp_path / "t.jinja"
    template.write_text("{{ content | upper | replace('A', 'B') }}")
    (row,) = verl_rows([Problem(question="a?", answer="2")], template).splitlines()
    assert json.loads(row)["prompt"][0]["content"] == "B?"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{{ content", "is no jinja template of `content`"),
        ("{{ question }}", "is no jinja template of `content`"),
        ("{{ 1 / 0 }} {{ content }}", "is no jinja template of `content`"),
        ("Answer.", "does not write the question"),
    ],
)
def test_a_template_that_asks_no_question_is_one_line(tmp_path, text, line):
    template = tmp_path / "t.jinja"
    template.write_text(text)
    with pytest.raises(PTLError, match=rf"t\.jinja: {line}"):
        verl_rows([Problem(question="q", answer="2")], template)


def test_a_part_that_fills_no_step_is_refused_with_the_key(tmp_path):
    spec = ProblemsModel(path=str(write(tmp_path / "p.jsonl", 8)))
    grpo = GrpoModel(prompts_per_step=4, mini_batch=4)
    settings = GrpoStageModel(problems=spec, grpo=grpo)
    stage = StageSpec(backend="verl", settings={}, rounds=(2, 4))
    ctx = context(3, num_rounds=4)
    with pytest.raises(PTLError, match="prompts_per_step: 4 is more than the 2 problems"):
        stage_problems(ctx, stage, settings)


def test_a_stage_of_some_rounds_has_a_part_for_each_of_them(tmp_path):
    spec = ProblemsModel(path=str(write(tmp_path / "p.jsonl", 9)))
    settings = GrpoStageModel(problems=spec, grpo=GrpoModel(prompts_per_step=1, mini_batch=1))
    stage = StageSpec(backend="verl", settings={}, rounds=(2, 4))
    found = [stage_problems(context(index), stage, settings) for index in (2, 3, 4)]
    assert [len(part) for part in found] == [3, 3, 3]
    assert len({problem.question for part in found for problem in part}) == 9


def test_half_steps_of_a_round_have_that_rounds_problems(tmp_path):
    spec = ProblemsModel(path=str(write(tmp_path / "p.jsonl", 9)))
    settings = GrpoStageModel(problems=spec, grpo=GrpoModel(prompts_per_step=1, mini_batch=1))
    stage = StageSpec(backend="verl", settings={}, rounds=(2, 4))
    planned = [stage_problems(context(index), stage, settings) for index in (2, 3, 4)]
    steps = [context(2), context(3, step_of=3), context(4, step_of=3), context(5, step_of=4)]
    found = [stage_problems(ctx, stage, settings) for ctx in steps]
    assert found == [planned[0], planned[1], planned[1], planned[2]]


def test_the_rounds_of_a_stage_share_its_problems_as_the_recipe_says(tmp_path):
    """The last round that has the stage gets half, though it is not the last of the run."""
    spec = ProblemsModel(path=str(write(tmp_path / "p.jsonl", 12)))
    settings = GrpoStageModel(problems=spec, grpo=GrpoModel(prompts_per_step=1, mini_batch=1))
    stage = StageSpec(backend="verl", settings={}, rounds=(2, 4))
    rounds = [context(index, tokens="final") for index in (2, 3, 4)]
    found = [stage_problems(ctx, stage, settings) for ctx in rounds]
    assert [len(part) for part in found] == [3, 3, 6]
    assert len({problem.question for part in found for problem in part}) == 12


def test_the_part_of_a_later_round_that_fills_no_step_is_told_in_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr("verl_ext.problems.part_weights", lambda *args, **keys: (5, 1))
    spec = ProblemsModel(path=str(write(tmp_path / "p.jsonl", 12)))
    settings = GrpoStageModel(problems=spec, grpo=GrpoModel(prompts_per_step=4, mini_batch=4))
    stage = StageSpec(backend="verl", settings={}, rounds=(1, 2))
    with pytest.raises(PTLError, match="prompts_per_step: 4 is more than the 2 problems"):
        stage_problems(context(1), stage, settings)
