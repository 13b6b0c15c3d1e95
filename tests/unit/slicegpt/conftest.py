"""A dense tiny model in a folder, and what slicing makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ptl_plugins.ranks import SingleProcess
from ptl_plugins.round_log import RoundLog
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.slicegpt.auto_classes import register_sliced_models
from ptl_plugins.slicegpt.criterion import SLICEGPT
from ptl_plugins.slicegpt.sliced_checkpoint import SliceRequest, slice_checkpoint
from ptl_plugins.testing import tiny_model, tiny_tokenizer
from ptl_plugins.types import Recipe, RoundContext


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, 256, (rows, length), generator=generator)


SEQUENCES = [tokens(1, length, seed=length)[0].tolist() for length in (30, 20, 17, 40, 5)]


@dataclass(frozen=True)
class Pair:
    """A dense model and its sliced checkpoint."""

    dense: PreTrainedModel
    folder: Path
    request: SliceRequest

    @property
    def model(self) -> PreTrainedModel:
        register_sliced_models()
        return AutoModelForCausalLM.from_pretrained(self.folder).eval()


@pytest.fixture
def slice_tiny(tmp_path, registry) -> Callable[..., Pair]:
    """Return a function that slices a tiny model; larger weights make it far from linear.

    `change` is called with the dense model before it is saved.
    """

    def make(family: str, *, hidden: int = 24, basis=SLICEGPT.basis, change=None, **keys) -> Pair:
        dense = tiny_model(family, attn_implementation="eager", **keys)
        with torch.no_grad():
            for parameter in dense.parameters():
                parameter.mul_(3 if parameter.dim() == 2 else 1)
        if change is not None:
            change(dense)
        dense.save_pretrained(tmp_path / "dense")
        tiny_tokenizer().save_pretrained(tmp_path / "dense")
        request = SliceRequest(
            source=tmp_path / "dense",
            out=tmp_path / "sliced",
            family=registry.families.get(family),
            hidden=hidden,
            sequences=SEQUENCES,
            batch_tokens=64,
            basis=basis,
            seed=1,
            provenance={},
        )
        slice_checkpoint(request)
        return Pair(dense, tmp_path / "sliced", request)

    return make


@pytest.fixture
def make_round_context(tmp_path, manager, registry):
    """Return a function that gives the context of a recipe's first round."""

    def make(recipe: Recipe) -> RoundContext:
        run = RunFolder(tmp_path / "context", writes=True)
        return RoundContext(
            spec=recipe.rounds[0],
            recipe=recipe,
            run=run,
            registry=registry,
            corpus=None,
            ranks=SingleProcess(),
            hooks=manager.hook,
            original=None,
            log=RoundLog(run, 1),
        )

    return make
