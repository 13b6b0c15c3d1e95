"""PTL: gradual pruning of reasoning models inside the trainers people already use.

A plugin is any importable module with functions marked by `hookimpl`, published under the
entry-point group `ptl`::

    from ptl_plugins import hookimpl

    @hookimpl
    def ptl_register(registry):
        registry.criteria.add("mine", MyCriterion())

The hooks stand in `ptl_plugins.hookspecs`.
"""

from ptl_plugins.markers import hookimpl

__version__ = "0.1.0"
__all__ = ["__version__", "hookimpl"]
