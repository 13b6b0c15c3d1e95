"""`ptl validate` refuses what `ptl run` refuses of a recipe with a teacher."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml

from ptl_plugins.testing import write_tiny_checkpoint

ANSWER = '{{"found": true, "problems": [], "ptl": {ptl}, "llamafactory": "0.9.5"}}'


def validate(folder, *, distill, settings=None, ptl="true"):
    """Run it on a stage whose interpreter is a program that answers every question."""
    python = folder / "python"
    answer = ANSWER.format(ptl=ptl)
    python.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{answer}'\n", encoding="utf-8")
    python.chmod(0o755)
    write_tiny_checkpoint(folder / "model")
    (folder / "x.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    keys = {
        "model": "model", "data": {"path": "x.txt"}, "distill": distill,
        "schedule": [{"unit": "neuron", "amount": 8}],
        "recover": [{"backend": "llamafactory", "python": str(python),
                     "settings": settings or {}}],
    }  # fmt: skip
    (folder / "r.yaml").write_text(yaml.safe_dump(keys), encoding="utf-8")
    words = [sys.executable, "-m", "ptl_plugins", "validate", "r.yaml"]
    return subprocess.run(
        words, cwd=folder, env=os.environ, capture_output=True, text=True, check=False
    )


ON, OFF = ({"teacher": "original", "weight": weight} for weight in (0.5, 0.0))
REFUSED = {
    "deepspeed": {"zero_optimization": {"stage": 3}},
    "fsdp": "full_shard auto_wrap",
    "label_smoothing_factor": 0.1,
    "torch_compile": True,
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_setting_that_does_not_go_with_a_teacher_is_refused_when_the_recipe_is_read(
    tmp_path, key
):
    done = validate(tmp_path, distill=ON, settings={key: REFUSED[key]})
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ptl: r.yaml: recover.0.settings.{key}: ")


def test_an_interpreter_that_cannot_distil_is_refused_by_validate(tmp_path):
    done = validate(tmp_path, distill=ON, ptl="false")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("ptl: r.yaml: recover.0.python: ")
    assert "has no PTL that can distil" in line


def test_a_stage_that_can_be_taught_is_fine(tmp_path):
    assert validate(tmp_path, distill=ON).returncode == 0


def test_without_a_teacher_that_is_on_nothing_is_asked_and_every_setting_is_fine(tmp_path):
    done = validate(tmp_path, distill=OFF, settings=REFUSED, ptl="false")
    assert done.returncode == 0
