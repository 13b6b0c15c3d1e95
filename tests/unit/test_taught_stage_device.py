"""`distill.device` is a device of torch, which is found out when the recipe is read."""

from __future__ import annotations

import pydantic
import pytest
import torch
import yaml

from ptl_plugins.errors import RecipeError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.recipe_models import DEVICE_TYPES, DistillModel


def read(folder, device):
    keys = {
        "model": "model", "data": {"path": "x.txt"},
        "distill": {"teacher": "original", "weight": 0.5, "device": device},
        "schedule": [{"unit": "neuron", "amount": 8}], "recover": [{"backend": "llamafactory"}],
    }  # fmt: skip
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    manager = build_manager()
    return read_recipe(path, manager.hook, build_registry(manager))


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:01", "cuda:-1", "cuda:300", "CUDA", ""])
def test_a_device_that_torch_does_not_have_is_refused_in_one_line(tmp_path, device):
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, device)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path}/r.yaml: distill.device: {device!r} is no device of torch")
    assert "allowed: cpu, cuda, mps, " in line


@pytest.mark.parametrize("device", [*DEVICE_TYPES, "cuda:0", "cuda:15", "npu:1"])
def test_every_device_of_torch_is_taken(device):
    spec = DistillModel(teacher="original", weight=0.5, device=device)
    assert spec.device == device
    if not device.startswith("npu"):  # torch knows Ascend's name once torch_npu is imported
        assert torch.device(device).type == device.partition(":")[0]


def test_the_schema_has_the_pattern_of_a_device():
    keys = DistillModel.model_json_schema()["properties"]["device"]["anyOf"]
    pattern = next(each["pattern"] for each in keys if "pattern" in each)
    with pytest.raises(pydantic.ValidationError):
        pydantic.TypeAdapter(pydantic.constr(pattern=pattern)).validate_python("gpu")
