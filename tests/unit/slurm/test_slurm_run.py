"""`ptl run` whose stages are jobs of Slurm, and a job that an earlier try left behind."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from ptl_plugins.errors import StageError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.run import run_recipe
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus


@pytest.fixture
def run(cluster, tmp_path, monkeypatch):
    """Run a recipe of two rounds whose stages are jobs; return the last model."""
    monkeypatch.chdir(tmp_path)
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data", num_documents=20)

    def start(**settings):
        manager = build_manager(plugins=["ptl_plugins.testing.fake_backend"], autoload=False)
        launch = {"launcher": "slurm", "options": {"partition": "gpu"}}
        keys = {
            "model": "model", "run_dir": "out", "data": {"path": "data/tiny.jsonl"},
            "calibration": {"num_sequences": 4, "max_length": 16},
            "schedule": [{"unit": "neuron", "amount": 8, "rounds": 2}],
            "recover": [{"backend": "fake", "settings": settings, "launch": launch}],
        }  # fmt: skip
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(keys), encoding="utf-8")
        registry = build_registry(manager)
        recipe = read_recipe(tmp_path / "r.yaml", manager.hook, registry)
        return run_recipe(recipe, manager, registry)

    return start


def test_a_whole_run_recovers_in_jobs(run, cluster, tmp_path, calls):
    assert (run() / "config.json").is_file()
    assert len(calls("sbatch")) == 2
    for name in ("round_01", "round_02"):
        assert "fake training done" in (tmp_path / f"out/{name}/stage_0/train.log").read_text()
        assert not (tmp_path / f"out/{name}/slurm_job.json").exists()


def test_a_failed_job_ends_the_run_with_its_state(run, cluster):
    with pytest.raises(StageError, match=r"(?s)ended with 3 .*out of memory.*ended as FAILED\|3:0"):
        run(does="fail", rounds=[2])


def test_a_left_job_is_ended_before_its_stages_files_are_replaced(
    run, cluster, tmp_path, calls, wait_for, change
):
    """The old job still looks at its file when it is told to stop."""
    stage = tmp_path / "out" / "round_01" / "stage_0"
    stage.mkdir(parents=True)
    (stage / "old").touch()
    program = (
        "import os, signal, sys, time\n"
        "def stop(*_): open('seen', 'w').write(str(os.path.exists(sys.argv[1]))); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, stop)\nopen('up', 'w').write('x')\ntime.sleep(50)\n"
    )
    old = subprocess.Popen([sys.executable, "-c", program, str(stage / "old")], cwd=tmp_path)
    wait_for(tmp_path / "up")
    entry = {"state": "RUNNING", "pid": old.pid}
    (cluster / "job_900.json").write_text(json.dumps(entry))
    (tmp_path / "out" / "round_01" / "slurm_job.json").write_text('{"job": "900"}')
    change("scancel", after='job(sys.argv[1], state="CANCELLED")\n')
    run()
    old.wait(10)
    assert wait_for(tmp_path / "seen") == "True"
    assert calls("scancel") == ["scancel 900"]
