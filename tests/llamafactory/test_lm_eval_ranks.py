"""The evaluator `lm_eval` on the live model of LLaMA-Factory's trainer, on two ranks."""

from __future__ import annotations

import json

import pytest
from workplace import Workplace, recipe, records

from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
NUM_QUESTIONS = 5


def test_two_ranks_share_the_questions_of_the_original_and_of_the_rounds(tmp_path):
    write_tiny_checkpoint(tmp_path / "model", max_position_embeddings=16384)
    write_tiny_corpus(tmp_path / "data", num_documents=40)
    rows = [
        {"problem": f"What is {n} + 1?", "solution": rf"It is $\boxed{{{n + 1}}}$."}
        for n in range(NUM_QUESTIONS)
    ]
    (tmp_path / "data/math500").mkdir()
    (tmp_path / "data/math500/test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    keys = recipe()
    keys["ptl"]["schedule"] = [{"unit": "neuron", "amount": 8, "rounds": 1}]
    keys["ptl"]["evaluate"]["tasks"] = [
        {"evaluator": "lm_eval", "tasks": ["math500"], "data_dir": "data", "max_new_tokens": 4}
    ]
    place = Workplace(tmp_path)
    place.write("recipe.yaml", keys)
    place.run("llamafactory-cli", "train", "recipe.yaml", FORCE_TORCHRUN="1", NPROC_PER_NODE="2")
    original, first = records(tmp_path / "out")
    for result in (original["recovered"], first["pruned"], first["recovered"]):
        assert result["metrics"]["math500_num_problems"] == NUM_QUESTIONS
    assert (
        first["recovered"]["metrics"]["math500_flops"]
        < original["recovered"]["metrics"]["math500_flops"]
    )
    for step in ("evaluate_pruned", "evaluate"):
        lines = (tmp_path / "out/round_01/evaluation" / step / "math500.jsonl").read_text()
        asked = [json.loads(line)["index"] for line in lines.splitlines()]
        assert asked == list(range(NUM_QUESTIONS))
