"""A Ray cluster that runs already is noticed, and only one that runs."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import psutil
import pytest

from verl_ext.ray_cluster import ray_environment, running_cluster_problem


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Let Ray's own note of its cluster and its processes be these."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))

    def set_up(note=None, names=("bash", None), address=None):
        if note is not None:
            (tmp_path / "ray").mkdir(exist_ok=True)
            (tmp_path / "ray" / "ray_current_cluster").write_text(note, encoding="utf-8")
        processes = [SimpleNamespace(info={"name": name}) for name in names]
        monkeypatch.setattr(psutil, "process_iter", lambda attrs: iter(processes))
        if address is not None:
            monkeypatch.setenv("RAY_ADDRESS", address)

    return set_up


def test_nothing_runs(cluster):
    cluster()
    assert running_cluster_problem(None) is None


@pytest.mark.parametrize(
    "facts",
    [
        {"note": "10.0.0.1:6379\n", "names": ("gcs_server",)},
        {"address": "10.0.0.1:6379"},
        {"note": "10.0.0.9:1\n", "names": ("gcs_server",), "address": "10.0.0.1:6379"},
    ],
)
def test_a_running_cluster_is_one_line_with_its_address(cluster, facts):
    cluster(**facts)
    found = running_cluster_problem(None)
    assert found.startswith("settings.ray_address: a Ray cluster runs at '10.0.0.1:6379', ")
    assert "ray stop" in found
    assert "'local'" in found
    assert "\n" not in found


def test_the_note_of_a_dead_cluster_does_not_count(cluster):
    cluster(note="10.0.0.1:6379\n")
    assert running_cluster_problem(None) is None


def test_a_head_without_a_note_is_not_ours_to_join(cluster):
    cluster(names=("gcs_server",))
    assert running_cluster_problem(None) is None


@pytest.mark.parametrize("address", ["local", "10.0.0.1:6379"])
def test_what_the_stage_says_is_the_users_decision(cluster, address):
    cluster(note="10.0.0.1:6379\n", names=("gcs_server",), address="10.0.0.1:6379")
    assert running_cluster_problem(address) is None


def test_a_cluster_of_its_own_asked_for_by_the_variable_is_no_running_one(cluster):
    cluster(address="local")
    assert running_cluster_problem(None) is None


def test_a_stage_gets_a_cluster_of_its_own_unless_it_joins_one():
    assert ray_environment(None) == ray_environment("local") == {"RAY_ADDRESS": "local"}
    assert ray_environment("10.0.0.1:6379") == {"RAY_ADDRESS": "10.0.0.1:6379"}


def test_the_head_is_found_by_its_process_name(tmp_path, monkeypatch):
    # the name that the system knows: a copy of a program under the name of Ray's
    program = tmp_path / "gcs_server"
    program.symlink_to("/bin/sleep")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("1.2.3.4:5", encoding="utf-8")
    head = subprocess.Popen([str(program), "60"])
    try:
        assert "1.2.3.4:5" in running_cluster_problem(None)
    finally:
        head.kill()
        head.wait()
