"""What EasyR1's own config is asked about a yaml, and what becomes of its answer.

`CLONE` is a package of EasyR1's name with a config of its kind; the real one is asked in
`test_easyr1_run.py`.
"""

from __future__ import annotations

import sys

import pytest

from ptl_plugins.stage_check import NotCheckedError
from verl_ext.easyr1_check import check_in_easyr1, easyr1_environment

CONFIG = """
import os
from dataclasses import asdict, dataclass, field
from typing import Optional

@dataclass
class DataConfig:
    format_prompt: Optional[str] = None
    seed: int = 1

@dataclass
class PPOConfig:
    data: DataConfig = field(default_factory=DataConfig)

    def deep_post_init(self):
        print("noise on stdout")
        if self.data.seed == 13:
            raise ValueError("an unlucky\\n  seed")
        path = self.data.format_prompt
        self.data.format_prompt = path if path and os.path.exists(path) else None

    def to_dict(self):
        return asdict(self)
"""


@pytest.fixture
def clone(tmp_path):
    """Write a clone; the text of `main` may be another."""

    def write(main="", name="clone"):
        trainer = tmp_path / name / "verl" / "trainer"
        trainer.mkdir(parents=True)
        for path in (trainer.parent / "__init__.py", trainer / "__init__.py"):
            path.touch()
        (trainer / "main.py").write_text(main, encoding="utf-8")
        (trainer / "config.py").write_text(CONFIG, encoding="utf-8")
        return tmp_path / name

    return write


def check(home, **data):
    return check_in_easyr1(sys.executable, home, {"data": data})


def test_keys_that_it_takes_are_no_problem(clone):
    assert check(clone(), seed=3, format_prompt=__file__) is None


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"sed": 1}, "settings.config.data.sed: Key 'sed' not in 'DataConfig'"),
        ({"seed": "x"}, "settings.config.data.seed: Value 'x' of type 'str' could not be"),
        ({"seed": 13}, "settings.home: ValueError: an unlucky; seed"),
        (
            {"format_prompt": "/none.jinja"},
            "settings.prompt: EasyR1 finds no '/none.jinja' and would go on without",
        ),
    ],
)
def test_what_it_refuses_or_drops_in_silence_is_one_line(data, line, clone):
    found = check(clone(), **data)
    assert found.startswith(line)
    assert "\n" not in found


def test_a_missing_dependency_leaves_the_settings_unchecked(clone):
    with pytest.raises(NotCheckedError, match=r"No module named 'no_such_engine'.*not checked"):
        check(clone("import no_such_engine"))


def test_a_clone_that_cannot_be_imported_is_told(clone):
    assert check(clone("raise KeyError('x')")) == (
        "settings.home: cannot be imported: KeyError: 'x'"
    )


def test_another_verl_that_python_finds_first_is_told(clone, tmp_path):
    clone(name="inner/first")
    second = clone(name="inner/second")
    program = tmp_path / "python"
    line = f'PYTHONPATH={tmp_path}/inner/first exec {sys.executable} "$@"'
    program.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    program.chmod(0o755)
    found = check_in_easyr1(str(program), second, {})
    assert found == f"settings.home: verl is imported from {tmp_path}/inner/first/verl"


def test_an_interpreter_that_is_not_there_is_told(tmp_path):
    found = check_in_easyr1(str(tmp_path / "python"), tmp_path, {})
    assert found.startswith("settings: EasyR1 could not check them: ")
    assert "\n" not in found


def test_the_clone_comes_before_what_is_on_the_path_already(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    assert easyr1_environment(tmp_path) == {"PYTHONPATH": f"{tmp_path}:/mine"}
    monkeypatch.delenv("PYTHONPATH")
    assert easyr1_environment(tmp_path) == {"PYTHONPATH": str(tmp_path)}
