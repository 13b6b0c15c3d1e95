"""The yaml and the `key=value` words after it, read as LLaMA-Factory reads them (OmegaConf)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from ptl_plugins.errors import RecipeError
from ptl_plugins.yaml_loader import BoundedLoader


def read_as_llamafactory(path: Path, text: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the keys that LLaMA-Factory sees: `1e-3` is a number, words are merged in.

    Raises:
        RecipeError: OmegaConf cannot read the text, or a word is no `key=value`.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        for word in overrides:  # OmegaConf knows no limits
            yaml.load(word.partition("=")[2], Loader=BoundedLoader)  # a SafeLoader
        merged = OmegaConf.merge(OmegaConf.create(text), OmegaConf.from_cli(list(overrides)))
        return cast("dict[str, Any]", OmegaConf.to_container(merged))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        words = f" with {' '.join(overrides)}" if overrides else ""
        reason = str(error).splitlines()[0]
        raise RecipeError(f"{path}{words}: LLaMA-Factory cannot read it ({reason})") from None
