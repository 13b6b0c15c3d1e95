"""What the tests of the shipped recipes share."""

from __future__ import annotations

import pytest
from shipped import ALL, plan_of

from ptl_plugins.manager import build_manager, build_registry


@pytest.fixture(scope="session")
def plugins():
    """Every plugin that PTL ships, and what they register."""
    manager = build_manager()
    return manager, build_registry(manager)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what the recipes name beside their models: EasyR1, the quickstart's data."""
    files = {
        "EasyR1/verl/__init__.py": '__version__ = "0.3.3.dev0"\n',
        "EasyR1/verl/trainer/main.py": "",
        "quickstart/data/train.jsonl": '{"text": "1 + 1 = 2"}\n',
        "quickstart/data/held_out.jsonl": '{"question": "1 + 1?", "answer": "2"}\n',
        "mini/data/mini_192.jsonl": '{"text": "1 + 1 = 2"}\n',
        "mini/data/held_out.jsonl": '{"question": "1 + 1?", "answer": "2"}\n',
        "mini/data/other_text.jsonl": '{"text": "The while statement."}\n',
        "mini/data/dataset_info.json": '{"mini_192": {"file_name": "mini_192.jsonl"}}',
        "quickstart/data/dataset_info.json": '{"gsm_symbolic": {"file_name": "train.jsonl"}}',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def planned(workplace, plugins):
    """Plan a recipe by its name below `recipes/`."""
    return lambda name: plan_of(ALL[name], workplace, *plugins)
