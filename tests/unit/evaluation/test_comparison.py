"""Tiny models through the real lm-eval."""

import dataclasses
import json
from pathlib import Path

import pytest

from ptl_plugins.evaluation import asking, examination
from ptl_plugins.evaluation.comparison import compare
from ptl_plugins.evaluation.values import EvaluationError, Settings

TASKS = ["gsm8k_cot", "minerva_math", "math500", "minerva_ocw"]


def settings(data_dir: Path, **keys) -> Settings:
    return Settings(**{"data_dir": str(data_dir), "max_new_tokens": 8, "batch_size": 4, **keys})


def test_every_few_shot_task_is_asked_and_scored(data_dir, roomy, registry):
    found = compare(str(roomy), None, TASKS, settings(data_dir), registry)
    assert [task.task for task in found] == TASKS
    for task in found:
        assert task.answers.summary.num_questions == (10 if task.task == "gsm8k_cot" else 6)
        assert task.answers.summary.flops > 0
        assert all(result.prompt_tokens > 100 for result in task.answers.results)


def test_programs_run_only_when_allowed(data_dir, roomy, registry):
    with pytest.raises(EvaluationError, match="--allow-code-execution"):
        compare(str(roomy), None, ["mbpp"], settings(data_dir), registry)
    allowed = settings(data_dir, allow_code_execution=True)
    found = compare(str(roomy), None, ["mbpp"], allowed, registry)
    assert found[0].answers.summary.num_questions == 3


def test_tokens_are_those_of_each_row_whatever_its_batch(data_dir, roomy, registry):
    alone = compare(str(roomy), None, ["gsm8k_cot"], settings(data_dir, batch_size=1), registry)
    batched = compare(str(roomy), None, ["gsm8k_cot"], settings(data_dir, batch_size=4), registry)
    usage = [
        [(r.prompt_tokens, r.generated_tokens, r.response) for r in one[0].answers.results]
        for one in (alone, batched)
    ]
    assert usage[0] == usage[1]


def test_the_same_weights_are_not_asked_twice(data_dir, roomy, registry, monkeypatch):
    first = compare(str(roomy), None, ["gsm8k_cot"], settings(data_dir), registry)
    monkeypatch.setattr(examination, "ask", forbidden)
    again = compare(str(roomy), None, ["gsm8k_cot"], settings(data_dir), registry)
    assert again[0].answers.results == first[0].answers.results
    with pytest.raises(AssertionError):
        compare(str(roomy), None, ["gsm8k_cot"], settings(data_dir), registry, fresh=True)


@pytest.mark.parametrize("change", ["data", "setting", "weights"])
def test_what_changes_the_answers_is_asked_again(
    change, data_dir, roomy, other, registry, monkeypatch
):
    compare(str(roomy), None, ["gsm8k_cot"], settings(data_dir), registry)
    keys, model = {}, roomy
    if change == "data":
        file = data_dir / "gsm8k/test.jsonl"
        file.write_text(file.read_text().replace("Ann", "Eve"))
    if change == "setting":
        keys["max_new_tokens"] = 9
    if change == "weights":
        model = other
    monkeypatch.setattr(examination, "ask", forbidden)
    with pytest.raises(AssertionError):
        compare(str(model), None, ["gsm8k_cot"], settings(data_dir, **keys), registry)


def test_a_killed_evaluation_goes_on_with_the_first_block_that_is_missing(
    data_dir, roomy, registry, monkeypatch
):
    monkeypatch.setattr(examination, "BATCHES_PER_BLOCK", 1)
    whole = compare(str(roomy), None, ["gsm8k_cot"], settings(data_dir), registry)
    store = whole[0].answers.questions
    lines = store.read_text().splitlines()
    store.write_text("\n".join([*lines[:6], lines[6][:20]]))  # torn within the second block
    asked = []
    real = asking.ask
    monkeypatch.setattr(
        examination,
        "ask",
        lambda e, b, q, *a: asked.append([x.index for x in q]) or real(e, b, q, *a),
    )
    again = compare(str(roomy), None, ["gsm8k_cot"], settings(data_dir), registry)
    assert asked == [[4, 5, 6, 7], [8, 9]]
    assert again[0].answers.results == whole[0].answers.results


def test_two_models_are_compared_on_the_same_questions(data_dir, roomy, other, registry):
    found = compare(str(roomy), str(other), ["math500"], settings(data_dir), registry)
    pairing = found[0].pairings[0]
    assert pairing.num_questions == 6
    assert pairing.both + pairing.only_model + pairing.only_baseline + pairing.neither == 6
    assert found[0].baseline.summary.flops < found[0].answers.summary.flops


def test_a_prompt_that_does_not_fit_is_wrong_and_loses_nothing(data_dir, roomy, registry):
    file = data_dir / "gsm8k/test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[3]["question"] = "very long " * 4000
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare(str(roomy), None, ["gsm8k_cot"], settings(data_dir), registry)
    result = found[0].answers.results[3]
    assert result.status == "too_long"
    assert set(result.marks.values()) == {0.0}
    assert found[0].answers.summary.statuses == {"scored": 9, "too_long": 1}


def test_a_true_answer_that_cannot_be_read_is_left_out_and_told(data_dir, roomy, registry):
    file = data_dir / "math500/test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[2] |= {"solution": "It is seven.", "answer": ""}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare(str(roomy), None, ["math500"], settings(data_dir), registry)
    assert found[0].answers.results[2].status == "unreadable_gold"
    assert found[0].answers.summary.num_questions == 5


def test_questions_worded_alike_are_both_answered(data_dir, roomy, registry):
    file = data_dir / "gsm8k/test.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:3], lines[0], lines[0]]) + "\n")
    found = compare(str(roomy), None, ["gsm8k_cot"], settings(data_dir), registry)
    first, *others = (found[0].answers.results[i] for i in (0, 3, 4))
    assert all(other.response == first.response for other in others)
    assert all(other.generated_tokens == first.generated_tokens for other in others)


def test_the_room_for_a_prompt_does_not_count_its_answer(data_dir, tmp_path, registry):
    from ptl_plugins.testing.tiny import write_tiny_checkpoint

    model = write_tiny_checkpoint(tmp_path / "small", max_position_embeddings=1950)
    row = {"question": "1+1?", "answer": "long " * 500 + "#### 2"}
    (data_dir / "gsm8k/test.jsonl").write_text(json.dumps(row) + "\n")
    found = compare(str(model), None, ["gsm8k_cot"], settings(data_dir), registry)
    assert found[0].answers.results[0].status in ("scored", "empty")


def test_no_question_is_asked_when_a_later_task_or_the_baseline_cannot_be(
    data_dir, roomy, tmp_path, registry, monkeypatch
):
    from ptl_plugins.testing.tiny import write_tiny_checkpoint

    monkeypatch.setattr(examination, "ask", forbidden)
    with pytest.raises(EvaluationError, match="no chat template"):
        compare(str(roomy), None, ["gsm8k_cot", "gsm8k_chat"], settings(data_dir), registry)
    small = write_tiny_checkpoint(tmp_path / "small")
    with pytest.raises(EvaluationError, match="context is 256"):
        compare(str(roomy), str(small), ["gsm8k_cot"], settings(data_dir), registry)


def test_a_context_too_short_for_the_examples_is_refused(data_dir, tmp_path, registry):
    from ptl_plugins.testing.tiny import write_tiny_checkpoint

    small = write_tiny_checkpoint(tmp_path / "small")
    with pytest.raises(EvaluationError, match="context is 256"):
        compare(str(small), None, ["gsm8k_cot"], settings(data_dir), registry)


def test_a_chat_task_needs_a_chat_template(data_dir, roomy, registry):
    with pytest.raises(EvaluationError, match="no chat template"):
        compare(str(roomy), None, ["gsm8k_chat"], settings(data_dir), registry)
    form = settings(data_dir, chat_template="qwen_math")
    found = compare(str(roomy), None, ["gsm8k_chat"], form, registry)
    prompt = found[0].answers.results[0].prompt
    assert prompt.startswith("<|im_start|>system\nPlease reason step by step")
    assert prompt.endswith("How many has she?<|im_end|>\n<|im_start|>assistant\n")


def test_settings_have_a_place_in_what_results_are_of(data_dir, roomy, registry):
    """A new setting must change the key, or results of other settings would be taken."""
    found = compare(str(roomy), None, ["gsm8k_cot"], settings(data_dir), registry)
    known = set(found[0].answers.about["key"]["settings"]) | {"data_dir", "allow_code_execution"}
    assert known == {field.name for field in dataclasses.fields(Settings)}


def forbidden(*_):
    raise AssertionError("asked again")
