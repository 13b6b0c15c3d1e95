"""Questions of PTL's own wording, tiny models with room for few-shot prompts, a cache apart."""

import json
from pathlib import Path

import pytest

from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.registry import Registry
from ptl_plugins.testing.tiny import write_tiny_checkpoint

GSM8K = [
    {"question": f"Ann has {n} pears and buys {n + 1} more. How many has she?",
     "answer": f"She has {n} + {n + 1} = {2 * n + 1}.\n#### {2 * n + 1}"}
    for n in range(1, 11)
]  # fmt: skip
MATH = [
    {"problem": f"What is ${n} \\cdot 2$?", "solution": f"It is $\\boxed{{{2 * n}}}$.",
     "answer": str(2 * n)}
    for n in range(1, 7)
]  # fmt: skip
MBPP = [
    {"text": f"Write a function to add {n}.", "code": f"def f(x):\n  return x + {n}",
     "task_id": 10 + n, "test_setup_code": "",
     "test_list": [f"assert f({i}) == {i + n}" for i in range(3)]}
    for n in range(1, 4)
]  # fmt: skip
FILES = {
    "gsm8k/test.jsonl": GSM8K,
    "MATH/test.jsonl": MATH,
    "math500/test.jsonl": MATH,
    "minerva_math/test.jsonl": MATH,
    "mbpp/mbpp.jsonl": MBPP,
}


def write_rows(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(name="write_rows")
def write_rows_fixture():
    """What writes rows as jsonl."""
    return write_rows


@pytest.fixture
def pears() -> list[dict[str, str]]:
    """Questions in GSM8K's form."""
    return GSM8K


@pytest.fixture
def additions() -> list[dict]:
    """Tasks in MBPP's form."""
    return MBPP


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A folder with a few questions of every data set."""
    for name, rows in FILES.items():
        write_rows(tmp_path / "data" / name, rows)
    return tmp_path / "data"


@pytest.fixture(scope="session")
def roomy(tmp_path_factory) -> Path:
    """A tiny model with room for every few-shot prompt."""
    folder = tmp_path_factory.mktemp("roomy") / "model"
    return write_tiny_checkpoint(folder, max_position_embeddings=16384)


@pytest.fixture(scope="session")
def other(tmp_path_factory) -> Path:
    """Another one."""
    folder = tmp_path_factory.mktemp("other") / "model"
    return write_tiny_checkpoint(folder, max_position_embeddings=16384, intermediate_size=24)


@pytest.fixture(scope="session")
def registry() -> Registry:
    """PTL's own names."""
    return build_registry(build_manager())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("PTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
