"""What `ptl data` writes is a data set of LLaMA-Factory, by its own loader."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ptl_plugins.corpora.prepare import CorpusRequest, prepare_corpus

PROGRAM = """
import json, sys
from llamafactory.data.loader import _load_single_dataset
from llamafactory.data.parser import get_dataset_list
from llamafactory.hparams import DataArguments, ModelArguments, TrainingArguments
(found,) = get_dataset_list(["numina_metamath"], sys.argv[1])
data = DataArguments(dataset_dir=sys.argv[1], cutoff_len=64)
model = ModelArguments(model_name_or_path="none", cache_dir=sys.argv[2])
rows = _load_single_dataset(found, model, data, TrainingArguments(output_dir=sys.argv[2]))
print(json.dumps([row[0]["content"] for row in rows["_prompt"]]))
"""


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_llamafactorys_own_loader_reads_all_shards_of_the_entry(tmp_path):
    rows = {
        "numina": [{"problem": f"{i}?", "solution": str(i)} for i in range(7)],
        "metamath": [{"query": "q?", "response": "r"}] * 2,
    }
    for name, content in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    local = {name: str(tmp_path / f"{name}.jsonl") for name in rows}
    request = CorpusRequest(
        name="numina_metamath", out=tmp_path / "data", local=local, shard_rows=4
    )
    prepare_corpus(request, lambda line: None)
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "data"), str(tmp_path / "cache")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    expected = [f"Question: {i}?Answer: {i}" for i in range(7)] + ["Question: q?Answer: r"] * 2
    assert sorted(found) == sorted(expected)
