"""`key=value` words after the yaml, merged as LLaMA-Factory merges them (OmegaConf)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ptl_plugins.errors import RecipeError


def with_overrides(keys: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `keys` with dotted `key=value` words merged in.

    Raises:
        RecipeError: a word that is no `key=value`.
    """
    if not overrides:
        return keys
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        merged = OmegaConf.merge(OmegaConf.create(keys), OmegaConf.from_cli(list(overrides)))
        return cast("dict[str, Any]", OmegaConf.to_container(merged))
    except OmegaConfBaseException as error:
        words = " ".join(overrides)
        raise RecipeError(f"{words}: not understood as key=value words ({error})") from None
