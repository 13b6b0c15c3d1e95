"""Makes a model ready to be asked: live in transformers, or served by vLLM."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptl_plugins.errors import PTLError
from ptl_plugins.evaluation.harness import Examinee, quiet
from ptl_plugins.evaluation.upstream_tasks import INSTALL
from ptl_plugins.evaluation.values import EvaluationError, Settings
from ptl_plugins.families import Family, find_family
from ptl_plugins.geometry import Geometry, geometry
from ptl_plugins.model_config import read_config
from ptl_plugins.registry import Registry

MODULES = {"lm_eval": "lm-eval", "scipy": "scipy", "math_verify": "math-verify"}
"""What the extra [eval] brings, by the name it is imported by."""


def require_packages(backend: str = "hf") -> None:
    """Refuse to start without what an evaluation needs.

    Raises:
        EvaluationError: a package is missing; the text holds the command that mends it.
    """
    missing = [name for module, name in MODULES.items() if not importlib.util.find_spec(module)]
    if missing:
        raise EvaluationError(f"evaluation needs {', '.join(missing)}: {INSTALL}")
    if backend == "vllm" and not importlib.util.find_spec("vllm"):
        raise EvaluationError("backend vllm: vLLM is not installed here; install it, or take hf")


def known_family(model: str, registry: Registry) -> tuple[Family, Geometry] | None:
    """Return family and sizes of a model, or None where no family knows it.

    Such a model is evaluated all the same; its FLOPs stay out.
    """
    config = read_config(model)
    try:
        family = find_family(registry, config)
        return family, geometry(config, family)
    except PTLError:
        return None


def live_examinee(
    model: Any, tokenizer: Any, family: Family | None, sizes: Geometry | None, settings: Settings
) -> Examinee:
    """Return a live model, asked through transformers' `generate`."""
    from ptl_plugins.evaluation.counting_lm import CountingLM

    needs_bos = family is not None and family.needs_bos
    with quiet():
        lm = CountingLM(model, tokenizer, batch_size=settings.batch_size, needs_bos=needs_bos)
    return Examinee(lm=lm, geometry=sizes)


@contextmanager
def loaded_examinee(model: Path, registry: Registry, settings: Settings) -> Iterator[Examinee]:
    """Load a checkpoint, yield it ready to be asked, and let it go."""
    known = known_family(str(model), registry)
    family, sizes = known or (None, None)
    if settings.backend == "vllm":
        with _served(model, family, sizes) as examinee:
            yield examinee
        return
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ptl_plugins.live import accelerator

    live: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    live.to(accelerator())
    tokenizer = AutoTokenizer.from_pretrained(model)
    yield live_examinee(live.eval(), tokenizer, family, sizes, settings)
    del live
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _served(model: Path, family: Family | None, sizes: Geometry | None) -> Iterator[Examinee]:
    import gc

    from ptl_plugins.evaluation.counting_vllm import CountingVLLM

    with quiet():
        lm = CountingVLLM(str(model), needs_bos=family is not None and family.needs_bos)
    yield Examinee(lm=lm, geometry=sizes)
    del lm.model  # the GPU's memory is needed for the next model
    gc.collect()
