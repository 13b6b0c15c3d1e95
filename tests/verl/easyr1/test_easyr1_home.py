"""Which folders are a clone of EasyR1."""

from __future__ import annotations

import pytest

from verl_ext.easyr1_home import easyr1_version, home_problem


@pytest.fixture
def clone(tmp_path):
    """Write a folder with a package verl."""

    def write(version='"0.3.3.dev0"', modules=("main.py",)):
        trainer = tmp_path / "verl" / "trainer"
        trainer.mkdir(parents=True)
        text = f"import os\n\n\n__version__ = {version}\n"
        (trainer.parent / "__init__.py").write_text(text, encoding="utf-8")
        for name in modules:
            (trainer / name).touch()
        return tmp_path

    return write


@pytest.mark.parametrize("version", ["0.3.3.dev0", "0.3.2"])
def test_a_clone_of_a_supported_version_passes(version, clone):
    home = clone(f"'{version}'")
    assert home_problem(home) is None
    assert easyr1_version(home) == version


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"modules": ("main.py", "main_ppo.py")}, "is verl, not EasyR1: use backend verl"),
        ({"modules": ("main_ppo.py",)}, "is verl, not EasyR1: use backend verl"),
        ({"modules": ()}, "has no verl/trainer/main.py; give a clone of EasyR1"),
        ({"version": '"0.3.1"'}, "is EasyR1 0.3.1; supported: 0.3.2, 0.3.3.dev0"),
        ({"version": "read()"}, "is EasyR1 of no known version; supported: 0.3.2, 0.3.3.dev0"),
    ],
)
def test_another_folder_is_refused_in_one_line(keys, line, clone):
    home = clone(**keys)
    assert home_problem(home) == f"settings.home: '{home}' {line}"


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    found = home_problem(tmp_path / "none")
    assert found == f"settings.home: '{tmp_path / 'none'}' is no folder; give a clone of EasyR1"
