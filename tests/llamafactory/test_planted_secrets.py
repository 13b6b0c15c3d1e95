"""LLaMA-Factory's door with secrets in the environment: in no file of the run, in no output."""

from __future__ import annotations

import json

import pytest
from leaky_plugin import ADDRESS, PLANTED
from workplace import recipe

ONE_ROUND = {
    "calibration": {"num_sequences": 4},
    "schedule": [{"unit": "neuron", "amount": 8, "rounds": 1}],
}
SECURITY = __file__.replace("llamafactory/test_planted_secrets.py", "security")
ENVIRONMENT = {**PLANTED, "PTL_PLUGINS": "leaky_plugin", "PYTHONPATH": SECURITY}
HIDDEN = [*PLANTED.values(), "planted-word"]


def found_in(text: str) -> list[str]:
    return [secret for secret in HIDDEN if secret in text]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_file_of_a_run_and_nothing_that_is_said_holds_one(workplace):
    keys = recipe(output_dir="secrets", max_steps=1, ptl=ONE_ROUND, trust_remote_code=True)
    path = workplace.write("secrets.yaml", keys)
    path.write_text(f"# of {ADDRESS}\n{path.read_text()}", encoding="utf-8")
    done = workplace.run("llamafactory-cli", "train", "secrets.yaml", **ENVIRONMENT)
    folder = workplace.folder / "secrets"
    assert "plugin 'leaky_plugin' failed in ptl_round_finished" in done.stderr
    assert json.loads((folder / "leak.json").read_text())["deep"][0].count("[redacted]") == 5
    assert "secrets.yaml: trust_remote_code: true: Python code that lies in the" in done.stderr
    assert found_in(done.stdout + done.stderr) == []
    for file in (path for path in folder.rglob("*") if path.is_file()):
        assert found_in(file.read_bytes().decode(errors="replace")) == [], file
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["recipe_text"].startswith("# of https://[redacted]@host.invalid/data\n")


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"hf_hub_token": "planted-word"}, "hf_hub_token"),
        ({"run_name": ADDRESS}, "run_name"),
        ({"ptl": {**ONE_ROUND, "protect": {"data": ADDRESS, "top": 1}}}, "ptl.protect.data"),
        ({"run_name": PLANTED["WANDB_API_KEY"]}, "run_name"),
    ],
)
def test_a_yaml_with_one_is_refused_by_its_key(tmp_path, monkeypatch, registry, keys, key):
    from llamafactory_ext.recipe import read_llamafactory_recipe
    from ptl_plugins.errors import RecipeError
    from ptl_plugins.recipe import RecipeSource

    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    source = RecipeSource(
        path=tmp_path / "x.yaml", keys=recipe(**keys), text="", registry=registry, thorough=False
    )
    with pytest.raises(RecipeError, match=rf"x\.yaml: {key}: ") as refused:
        read_llamafactory_recipe(source)
    assert found_in(str(refused.value)) == []
    assert len(str(refused.value).splitlines()) == 1


def test_pickled_weights_are_refused(workplace, monkeypatch):
    """Before anything is started: transformers would unpickle them."""
    import shutil
    import sys

    from llamafactory_ext.preflight import preflight
    from ptl_plugins.errors import RecipeError

    folder = workplace.folder / "pickled"
    shutil.copytree(workplace.folder / "model", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.chdir(workplace.folder)
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli"])
    path = workplace.folder / "x.yaml"
    keys = recipe(model_name_or_path="pickled", output_dir="never")
    with pytest.raises(RecipeError, match=r"model_name_or_path: pickled: has its weights in"):
        preflight(path, keys, "")
    assert not (workplace.folder / "never").exists()
