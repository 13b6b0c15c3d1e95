"""The plugin `verl`: recovery by GRPO, in verl or EasyR1, in `ptl run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptl_plugins import hookimpl

if TYPE_CHECKING:
    from ptl_plugins.registry import Registry


@hookimpl
def ptl_register(registry: Registry) -> None:
    """Add the backends."""
    from verl_ext.easyr1_backend import EasyR1
    from verl_ext.verl_backend import Verl

    registry.backends.add("easyr1", EasyR1())
    registry.backends.add("verl", Verl())
