"""The keys of a study file, as pydantic checks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic

from ptl_plugins.given_path import PathText

STRICT = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

Text = Annotated[str, pydantic.Field(min_length=1)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
Seeds = Annotated[list[Seed], pydantic.Field(min_length=1)]
Changes = Mapping[str, Any]
Keep = Literal["last", "none"]
Axis = Literal["documents", "tokens", "final_tokens", "steps", "parameters", "rounds", "round"]


class RunModel(pydantic.BaseModel):
    """One entry of `runs`: a recipe, with other keys, for some seeds."""

    model_config = STRICT

    recipe: PathText
    """A recipe file of either door; a relative path is relative to the study file."""
    seeds: Seeds | None = None
    """Unset, those of the study."""
    set: Changes = {}
    """Keys of the recipe in other values, `ptl.refit: none`."""
    after: list[Text] = []
    """Runs that have to be finished first; one that `set` names need not be here."""
    keep: Keep | None = None
    """Unset, that of the study."""


class TableModel(pydantic.BaseModel):
    """One entry of `tables`: a row for each of `runs`, or `lines` over `x`."""

    model_config = STRICT

    title: Text
    """The heading of its section."""
    runs: Annotated[list[Text], pydantic.Field(min_length=1)] | None = None
    """The rows."""
    lines: Mapping[str, Annotated[list[Text], pydantic.Field(min_length=1)]] | None = None
    """Instead of `runs`: by the name of a line, the runs that are its points."""
    x: Axis | None = None
    """What the lines go over. With `round` a line is the rounds of its only run."""
    metrics: Annotated[list[Text], pydantic.Field(min_length=1)] | None = None
    """Which results are shown, in this order; unset, all."""
    notes: list[Text] = []
    """Remarks below it."""

    @pydantic.model_validator(mode="after")
    def _is_one_form(self) -> TableModel:
        if (self.runs is None) == (self.lines is None):
            raise ValueError("needs either 'runs' (a table) or 'lines' with 'x' (a plot)")
        if (self.lines is None) != (self.x is None):
            raise ValueError("'x' and 'lines' go together")
        several = [name for name, runs in (self.lines or {}).items() if len(runs) > 1]
        if self.x == "round" and several:
            raise ValueError(f"x 'round' needs one run for a line; '{several[0]}' has several")
        return self


class StudyModel(pydantic.BaseModel):
    """A study file."""

    model_config = STRICT

    title: Text
    """The heading of the page."""
    notes: list[Text] = []
    """What a reader has to know first."""
    seeds: Seeds = [1]
    """Of the runs that have none of their own."""
    set: Changes = {}
    """Keys of every recipe in other values; a run's own `set` comes after it."""
    keep: Keep = "last"
    """Of a finished run: its last model, or no model as soon as no other run needs it."""
    runs: Annotated[Mapping[str, RunModel], pydantic.Field(min_length=1)]
    """The runs by name."""
    controls: list[Text] | None = None
    """The runs that the others are held against, each against the first that trained on as many
    documents; unset, the one called `control`, if there is."""
    pairs: list[Annotated[list[Text], pydantic.Field(min_length=2, max_length=2)]] = []
    """Claims: two runs whose difference over equal seeds is tested."""
    primary: list[Text] = []
    """The results by which the pairs are judged in words, at the top of the page."""
    tables: list[TableModel] = []
    """What the page shows, in this order."""
