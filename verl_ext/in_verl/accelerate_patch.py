"""Lets accelerate before 1.13 hold the weights that transformers 5 loads without memory.

verl 0.9.1 loads a model in rank 0 alone, and in the other ranks under `init_empty_weights`, if
its embeddings are not tied. transformers 5 marks each weight by an attribute, and accelerate
before 1.13 makes the empty weight with every attribute as an argument of its class: a TypeError.
LLaMA-Factory 0.9.5 holds accelerate at 1.11 or older, so that both in one environment meet it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import accelerate  # type: ignore[import-untyped]
from torch import zeros
from torch.nn import Module, Parameter

MARK = "_is_hf_initialized"


def apply() -> None:
    """Patch `accelerate.init_empty_weights` in this process, once, and only if it fails."""
    if _fails(accelerate.init_empty_weights):
        accelerate.init_empty_weights = _tolerant(accelerate.init_empty_weights)


def _fails(init_empty_weights: Any) -> bool:
    marked = Parameter(zeros(1))
    setattr(marked, MARK, True)
    try:
        with init_empty_weights():
            Module().register_parameter("weight", marked)
    except TypeError:
        return True
    return False


def _tolerant(init_empty_weights: Any) -> Any:
    """Return the same without the mark, which the empty weight gets afterwards."""

    @contextmanager
    def tolerant(*args: Any, **keys: Any) -> Iterator[None]:
        with init_empty_weights(*args, **keys):
            modules: Any = Module  # a class, whose method is replaced
            inner = modules.register_parameter

            def register(module: Module, name: str, weight: Any) -> None:
                mark = None if weight is None else weight.__dict__.pop(MARK, None)
                inner(module, name, weight)
                if mark is not None:
                    setattr(module._parameters[name], MARK, mark)

            modules.register_parameter = register
            try:
                yield
            finally:
                modules.register_parameter = inner

    return tolerant
