"""`ptl validate` and `ptl run` on a GRPO stage in verl that cannot be trained."""

from __future__ import annotations

import json
import sys

import pytest
import yaml

from ptl_plugins.cli.main import main
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus
from verl_ext import verl_backend, verl_check

SETTINGS = {
    "rollout": "hf_cpu",
    "problems": {"path": "problems.jsonl"},
    "prompt": "prompt.jinja",
    "chat_template": "plain_chat",
}
RECIPE = {
    "model": "model",
    "run_dir": "out",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 8, "max_length": 32},
    "schedule": [{"unit": "neuron", "amount": 8, "rounds": 2}],
}
INPUTS = {"model", "data", "problems.jsonl", "prompt.jinja", "r.yaml"}
PLACE = "ptl: r.yaml: recover.0.settings."


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with all that the recipe names; no Ray cluster runs, and answers are judged."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "no_ray"))
    monkeypatch.setattr(verl_backend, "reward_problem", lambda python, reward: None)
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data")
    row = json.dumps({"problem": "What is 1 + 1?", "answer": 2}) + "\n"
    (tmp_path / "problems.jsonl").write_text(40 * row, encoding="utf-8")
    (tmp_path / "prompt.jinja").write_text("Q: {{ content }}\n", encoding="utf-8")
    yield tmp_path
    verl_check._ask.cache_clear()


@pytest.fixture
def ptl(place, monkeypatch, capsys):
    """Run `ptl` on a recipe in this process; return exit code, stdout and stderr."""

    def run(command, *, launch=None, recipe=(), **settings):
        entry = {"backend": "verl", "settings": {**SETTINGS, **settings}}
        entry |= {"launch": launch} if launch else {}
        text = yaml.safe_dump({**RECIPE, **dict(recipe), "recover": [entry]})
        (place / "r.yaml").write_text(text, encoding="utf-8")
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ptl", command, "r.yaml"])
        with pytest.raises(SystemExit) as raised:
            main()
        assert {path.name for path in place.iterdir()} - {"clone"} == INPUTS
        return raised.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"launch": {"processes": 8}, "tensor_parallel": 8},
         "tensor_parallel: 8 does not divide the model's 4 attention heads; give a divisor of it"),
        ({"launch": {"processes": 4}, "tensor_parallel": 4,
          "recipe": {"schedule": [{"unit": "neuron", "amount": 3}]}},
         "tensor_parallel: 4 does not divide the width 45 that a round leaves; set multiple_of to "
         "a multiple of 4"),
        ({"chat_template": None}, "chat_template: the model has no chat template of its own; "
         "give one, such as plain_chat"),
        ({"prompt": "none.jinja"}, "prompt: 'none.jinja' is no file; give a jinja file, or "
         "think_boxed or boxed"),
    ],
)  # fmt: skip
def test_a_stage_that_cannot_be_trained_is_one_line_and_nothing_is_written(
    ptl, command, keys, line
):
    assert ptl(command, **keys) == (2, "", f"{PLACE}{line}\n")


@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_running_cluster_is_one_line_and_nothing_is_written(ptl, command, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    code, out, err = ptl(command)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"{PLACE}ray_address: a Ray cluster runs at '10.0.0.1:6379'")


@pytest.mark.parametrize("command", ["validate", "run"])
def test_easyr1_where_verl_was_meant_is_one_line_and_nothing_is_written(
    ptl, place, command, monkeypatch
):
    package = place / "clone" / "verl"
    (package / "trainer").mkdir(parents=True)
    for name in ("__init__", "trainer/__init__", "trainer/main"):
        (package / f"{name}.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    verl_check._ask.cache_clear()
    code, out, err = ptl(command)
    assert (code, out) == (2, "")
    assert err == (
        f"ptl: r.yaml: recover.0.python: what is called verl in {sys.executable} is EasyR1; "
        "use backend easyr1\n"
    )


@pytest.mark.parametrize("command", ["validate", "run"])
def test_problems_that_are_not_there_are_one_line_before_the_first_round(ptl, command, monkeypatch):
    monkeypatch.setattr(verl_backend, "check_in_verl", lambda *words, **keys: None)
    expected = f"{PLACE}problems: data 'none.jsonl': no such file\n"
    assert ptl(command, problems={"path": "none.jsonl"}) == (2, "", expected)
