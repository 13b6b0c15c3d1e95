"""Writes a package `vllm` that answers without a GPU, so that lm-eval's VLLM class is the real one.

vLLM itself runs in no test.
"""

from __future__ import annotations

from pathlib import Path

VERSION = "0.11.0"
INIT = """
import types

class SamplingParams:
    def __init__(self, **keys):
        self.__dict__.update(keys)

def TokensPrompt(*, prompt_token_ids):
    return prompt_token_ids

class LLM:
    def __init__(self, *, model, max_model_len=None, **keys):
        self.name = model
        config = types.SimpleNamespace(max_model_len=max_model_len or 16384)
        self.llm_engine = types.SimpleNamespace(model_config=config)

    def generate(self, prompts, *, sampling_params, use_tqdm, lora_request):
        answers = []
        for number, (ids, params) in enumerate(zip(prompts, sampling_params, strict=True)):
            assert params.temperature == 0.0
            tokens = list(range(5 + number))[: params.max_tokens]
            reason = "length" if len(tokens) == params.max_tokens else "stop"
            text = " so the answer is right. The answer is 3."
            answer = types.SimpleNamespace(text=text, token_ids=tokens, finish_reason=reason)
            answers.append(types.SimpleNamespace(outputs=[answer]))
        return answers
"""
MODULES = {
    "vllm/__init__.py": INIT,
    "vllm/lora/__init__.py": "",
    "vllm/lora/request.py": "class LoRARequest: pass\n",
    "vllm/renderers/__init__.py": "",
    "vllm/renderers/hf.py": "def resolve_chat_template(**keys):\n    return None\n",
    "vllm/tokenizers.py": (
        "from transformers import AutoTokenizer\n"
        "def get_tokenizer(name, *, tokenizer_mode, **keys):\n"
        "    return AutoTokenizer.from_pretrained(name, **keys)\n"
    ),
    f"vllm-{VERSION}.dist-info/METADATA": (
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n"
    ),
}


def write_stand_in(folder: Path) -> Path:
    """Write the package below `folder`, which goes on the path of modules."""
    for name, text in MODULES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
