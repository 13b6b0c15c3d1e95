"""A folder with all that commands need, and the one thing that every bad input ends in.

That is exit code 2, one line on stderr that names what is wrong, no traceback, and a folder that
is as it was before.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from folder_tree import folder_tree
from good_recipes import write_good_recipes

from ptl_plugins.cli.main import main
from ptl_plugins.profile_run import ProfileRequest, run_profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

LONGEST_LINE = 2000
"""Characters; a line that repeats an input at length tells nobody anything."""


@pytest.fixture(scope="session")
def ready(tmp_path_factory, registry) -> Path:
    """A model, a corpus, scores, and recipes of both doors, all of them good."""
    folder = tmp_path_factory.mktemp("ready")
    write_tiny_checkpoint(folder / "model")
    write_tiny_corpus(folder / "data", num_documents=24)
    write_good_recipes(folder)
    request = ProfileRequest(
        model=str(folder / "model"), data=str(folder / "data/tiny.jsonl"), out=folder / "scores"
    )
    run_profile(request, registry, SingleProcess(), lambda *_: None)
    return folder


@pytest.fixture
def place(ready, tmp_path, monkeypatch) -> Path:
    """The working directory, a copy of `ready` of the test's own."""
    folder = tmp_path / "place"
    shutil.copytree(ready, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def answer(place, monkeypatch, capfd):
    """Call a command's own function in this process; return exit code, stdout and stderr."""

    def call(function: Callable[[], object], *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as raised:
            function()
        out, err = capfd.readouterr()
        return int(raised.value.code or 0), out, err

    return call


@pytest.fixture
def ptl(answer):
    """Call `ptl` with words, as the console script does."""

    def call(*words: object) -> tuple[int, str, str]:
        return answer(main, "ptl", *words)

    return call


@pytest.fixture
def refused(place, ptl):
    """Call `ptl` with words that have to be refused; return the line, without `ptl: `."""

    def call(*words: object, names: str | tuple[str, ...]) -> str:
        before = folder_tree(place)
        code, out, err = ptl(*words)
        line = the_one_line(code, out, err, names)
        assert folder_tree(place) == before
        return line

    return call


@pytest.fixture
def refused_by_llamafactory(place, answer):
    """Call `llamafactory-cli train` with words that have to be refused; return PTL's line."""

    def call(*words: object, names: str | tuple[str, ...]) -> str:
        from llamafactory.cli import main as llamafactory_main

        before = folder_tree(place)
        code, out, err = answer(llamafactory_main, "llamafactory-cli", "train", *words)
        line = the_one_line(code, out, err, names)
        assert folder_tree(place) == before
        return line

    return call


def the_one_line(code: int, out: str, err: str, names: str | tuple[str, ...]) -> str:
    """Return the line of a command that refused its input, or say what else it did."""
    told = f"exit {code}\n{out[-1000:]}\n{err[-3000:]}"
    assert "Traceback" not in err, told
    assert code == 2, told
    assert out == "", told
    assert err.startswith("ptl: "), told
    assert err.count("\n") == 1, told
    assert err.endswith("\n"), told
    assert len(err) < LONGEST_LINE, told
    for name in (names,) if isinstance(names, str) else names:
        assert name in err, told
    return err.removeprefix("ptl: ").rstrip("\n")
