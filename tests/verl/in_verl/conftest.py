"""What the tests of this folder share: a model whose answers depend on their prompts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ptl_plugins.testing import tiny_model

PEAKED = {"initializer_range": 0.4, "tie_word_embeddings": False}
"""Weights so large that the tokens' probabilities differ."""


@pytest.fixture(scope="session")
def model():
    """A llama in fp32, as small as they come."""
    return tiny_model("llama", **PEAKED).eval()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, model) -> Path:
    """The same, with sampling settings of its own that bend every distribution."""
    folder = tmp_path_factory.mktemp("checkpoint")
    own = model.generation_config
    kept = own.to_dict()
    own.update(do_sample=True, top_k=1, temperature=0.01, repetition_penalty=3.0)
    own.update(eos_token_id=[250, 251], max_length=None)
    model.save_pretrained(folder)
    own.update(**kept)
    return folder


@pytest.fixture(scope="session")
def prompts():
    """Token ids of several lengths."""
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randint(4, 256, (length,), generator=generator).tolist() for length in (3, 9, 1, 5)
    ]


@pytest.fixture(scope="session")
def run_python(tmp_path_factory):
    """Run a program in a process of its own, away from the checkout; return what it prints."""
    place = tmp_path_factory.mktemp("elsewhere")

    def run(program: str, *words: str, **environment: str) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("VERL_", "PYTHONPATH"))}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, *words],
            env={**kept, "VERL_LOGGING_LEVEL": "ERROR", **environment},
            cwd=place,
            capture_output=True,
            text=True,
            timeout=55,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
