"""Makes a model ready to be asked: live in transformers, or served by vLLM."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptl_plugins.errors import PTLError
from ptl_plugins.evaluation.asking import Examinee, quiet
from ptl_plugins.evaluation.upstream_tasks import INSTALL
from ptl_plugins.evaluation.values import EvaluationError, Settings
from ptl_plugins.families import Family, find_family
from ptl_plugins.geometry import Geometry, geometry
from ptl_plugins.model_config import read_config
from ptl_plugins.registry import Registry
from ptl_plugins.speed.weights import one_line

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
    """Return a live model, asked through transformers' `generate`.

    Raises:
        EvaluationError: lm-eval cannot use the tokenizer.
    """
    from ptl_plugins.evaluation.counting_lm import CountingLM

    needs_bos = family is not None and family.needs_bos
    name = str(model.config.name_or_path or "the model")
    _require_tokens(name, tokenizer)
    with quiet(), unusable(name):
        lm = CountingLM(model, tokenizer, batch_size=settings.batch_size, needs_bos=needs_bos)
    return Examinee(lm=lm, geometry=sizes)


def _require_tokens(model: str, tokenizer: Any) -> None:
    """Refuse a tokenizer of no words, which transformers makes up where the files are missing."""
    ids = tokenizer("What is 1 + 1?", add_special_tokens=False)["input_ids"]
    if set(ids) <= {tokenizer.unk_token_id}:
        raise EvaluationError(
            f"model '{model}': its tokenizer knows no word of a plain sentence; its files are "
            "missing or those of another model"
        )


def outlined_examinee(model: Path, registry: Registry, settings: Settings) -> Examinee:
    """Return a checkpoint without its weights: it tells the lengths of prompts, and answers none.

    Raises:
        EvaluationError: its config or its tokenizer cannot be used.
    """
    from transformers import AutoTokenizer

    from ptl_plugins.speed.weights import without_weights

    known = known_family(str(model), registry)
    family, sizes = known or (None, None)
    with unusable(str(model)):
        outline = without_weights(model, None)
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    return live_examinee(outline, tokenizer, family, sizes, settings)


@contextmanager
def loaded_examinee(model: Path, registry: Registry, settings: Settings) -> Iterator[Examinee]:
    """Load a checkpoint, yield it ready to be asked, and let it go.

    Raises:
        EvaluationError: it cannot be loaded.
    """
    known = known_family(str(model), registry)
    family, sizes = known or (None, None)
    if settings.backend == "vllm":
        if sizes is not None and sizes.sliced_from is not None:
            raise EvaluationError(
                f"{model}: backend vllm: vLLM does not know sliced models (model_type ptl_sliced); "
                "take hf"
            )
        with _served(model, family, sizes) as examinee:
            yield examinee
        return
    import torch

    live, tokenizer = load(model)
    yield live_examinee(live, tokenizer, family, sizes, settings)
    del live
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load(model: Path) -> tuple[Any, Any]:
    """Return a checkpoint's model, in its own dtype on this rank's device, and its tokenizer.

    Raises:
        EvaluationError: either cannot be loaded.
    """
    from ptl_plugins.live import load_checkpoint

    with unusable(str(model)):
        return load_checkpoint(model)


@contextmanager
def unusable(model: str) -> Iterator[None]:
    """Turn whatever a library says of a broken checkpoint into one line that names it."""
    try:
        yield
    except PTLError:
        raise
    except Exception as error:  # each library fails in its own ways, and all mean the same
        raise EvaluationError(
            f"model '{model}': cannot be loaded ({type(error).__name__}: {one_line(error)}); its "
            "weights, config.json and tokenizer have to be whole and belong together"
        ) from error


@contextmanager
def _served(model: Path, family: Family | None, sizes: Geometry | None) -> Iterator[Examinee]:
    import gc

    from ptl_plugins.evaluation.counting_vllm import CountingVLLM

    with quiet(), unusable(str(model)):
        lm = CountingVLLM(str(model), needs_bos=family is not None and family.needs_bos)
    yield Examinee(lm=lm, geometry=sizes)
    del lm.model  # the GPU's memory is needed for the next model
    gc.collect()
