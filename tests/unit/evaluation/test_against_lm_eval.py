"""`ptl eval` and lm-eval called directly on its own task: the same answers, the same marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptl_plugins.evaluation.comparison import compare
from ptl_plugins.evaluation.values import Settings

pytestmark = pytest.mark.timeout(180)
TASK = """include: {upstream}
task: direct
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{test: {data}}}}}
"""


@pytest.mark.filterwarnings("ignore")  # lm-eval's own
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_prompts_responses_and_marks_are_lm_evals(family, data_dir, tmp_path, registry):
    from ptl_plugins.testing import write_tiny_checkpoint

    # a window as long as the prompts: of a batch, transformers cuts the padding into it
    keys = {"max_position_embeddings": 16384, "sliding_window": 16384} if family == "gemma2" else {
        "max_position_embeddings": 16384
    }  # fmt: skip
    model = write_tiny_checkpoint(tmp_path / "model", family, **keys)
    direct = _directly(model, data_dir / "gsm8k/test.jsonl", tmp_path)
    settings = Settings(data_dir=str(data_dir), batch_size=4, max_new_tokens=16)
    ours = compare(str(model), None, ["gsm8k_cot"], settings, registry)[0].answers.results
    by_filter = {(s["doc_id"], s["filter"].replace("-", "_")): s for s in direct}
    assert len(by_filter) == 20
    for (index, mark), sample in by_filter.items():
        assert ours[index].prompt == sample["arguments"][0][0]
        assert ours[index].response == sample["resps"][0][0]
        assert ours[index].marks[mark] == sample["exact_match"]
    assert any(result.response.strip() for result in ours)


def _directly(model: Path, data: Path, folder: Path) -> list[dict]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    upstream = Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k-cot.yaml"
    (folder / "tasks").mkdir()
    text = TASK.format(upstream=upstream, data=data)
    (folder / "tasks/direct.yaml").write_text(text, encoding="utf-8")
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model)},
        tasks=["direct"],
        batch_size=4,
        device="cpu",
        gen_kwargs={"max_gen_toks": 16},
        task_manager=TaskManager(include_path=str(folder / "tasks"), include_defaults=False),
        bootstrap_iters=0,
    )
    return found["samples"]["direct"]
