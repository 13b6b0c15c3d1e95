"""The manifest names the commit of the code that ran."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess

import pytest

import ptl_plugins
from ptl_plugins.source_commit import source_commit


def git(folder, *words):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """PTL as if it lay in another folder."""
    (tmp_path / "ptl_plugins").mkdir()
    file = tmp_path / "ptl_plugins" / "__init__.py"
    file.write_text("")
    monkeypatch.setattr(ptl_plugins, "__file__", str(file))
    return file


@pytest.fixture
def checkout(package):
    root = package.parent.parent
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return package


def test_a_checkout_names_its_commit_and_whether_it_was_changed(checkout):
    commit = git(checkout.parent.parent, "rev-parse", "HEAD")
    assert source_commit() == commit
    (checkout.parent / "notes.txt").write_text("not of the sources\n")
    assert source_commit() == commit
    checkout.write_text("x = 1\n")
    assert source_commit() == f"{commit}+changes"


class Distribution:
    def __init__(self, text):
        self.text = text

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.text


@pytest.mark.parametrize(
    ("noted", "commit"),
    [
        (json.dumps({"url": "x", "vcs_info": {"vcs": "git", "commit_id": "abc"}}), "abc"),
        (json.dumps({"url": "file:///x", "dir_info": {}}), None),
        (None, None),
    ],
)
def test_an_installation_tells_what_pip_noted(package, monkeypatch, noted, commit):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution(noted))
    assert source_commit() == commit
