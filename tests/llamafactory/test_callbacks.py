"""The optimizer check, and third-party callbacks through the hook."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from workplace import recipe

from llamafactory_ext.callbacks import OptimizerCoversModel, RoundFacts

PLUGIN = """
from ptl_plugins import hookimpl
from transformers import TrainerCallback

class Note(TrainerCallback):
    def __init__(self, index):
        self.index = index
    def on_log(self, args, state, control, logs=None, **kwargs):
        logs["third_party"] = self.index * 10

@hookimpl
def ptl_trainer_callbacks(ctx):
    return [Note(ctx.spec.index)]

@hookimpl
def ptl_round_finished(ctx, record):
    raise RuntimeError("a reporter that breaks")
"""


def begin(model, optimizer):
    OptimizerCoversModel().on_train_begin(None, None, None, model=model, optimizer=optimizer)


def test_an_optimizer_of_all_parameters_passes():
    model = nn.Linear(2, 2)
    begin(model, torch.optim.SGD(model.parameters()))


def test_an_optimizer_that_lacks_a_parameter_is_caught():
    model = nn.Linear(2, 2)
    with pytest.raises(AssertionError, match="lacks 1 of its 2"):
        begin(model, torch.optim.SGD([model.weight]))


def test_an_optimizer_of_the_model_before_surgery_is_caught():
    model, before = nn.Linear(2, 2), nn.Linear(2, 3)
    with pytest.raises(AssertionError, match="holds 2 parameters that are not the model's"):
        begin(model, torch.optim.SGD(before.parameters()))


def test_frozen_parameters_are_not_asked_for():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    begin(model, torch.optim.SGD([model.weight]))


def test_zero_optimizers_are_read_by_their_16_bit_groups():
    model = nn.Linear(2, 2)
    zero = SimpleNamespace(bit16_groups=[[model.weight], [model.bias]], optimizer=None)
    begin(model, SimpleNamespace(optimizer=zero))


def test_facts_reach_the_entry_that_the_trainer_already_kept():
    state = SimpleNamespace(log_history=[{"loss": 2.0}, {"loss": 1.0}])
    RoundFacts({"round": 2}).on_log(None, state, None, logs={})
    assert state.log_history == [{"loss": 2.0}, {"loss": 1.0, "ptl_round": 2}]


def test_facts_are_added_under_ptls_own_names():
    logs = {"loss": 1.0}
    RoundFacts({"round": 2, "width": 32}).on_log(None, None, None, logs=logs)
    assert logs == {"loss": 1.0, "ptl_round": 2, "ptl_width": 32}


@pytest.mark.timeout(300)
def test_an_installed_plugin_adds_to_the_logs_and_its_failure_loses_nothing(workplace):
    site = workplace.folder / "site"
    info = site / "noter-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "noter.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ptl]\nnoter = noter\n")
    ptl = {"schedule": [{"unit": "neuron", "amount": 8}]}
    workplace.write("noted.yaml", recipe(output_dir="noted", ptl=ptl))
    done = workplace.run("llamafactory-cli", "train", "noted.yaml", PYTHONPATH=str(site))
    assert "'third_party': 10" in done.stdout + done.stderr
    assert "plugin 'noter' failed in ptl_round_finished" in done.stderr
    manifest = json.loads((workplace.folder / "noted" / "manifest.json").read_text())
    assert "noter" in manifest["plugins"]
    assert (workplace.folder / "noted" / "round_01" / "record.json").exists()
