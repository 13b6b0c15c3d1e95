"""pydantic's errors as single lines: key, value, what is allowed."""

from __future__ import annotations

from typing import Any, get_args

import pydantic
from pydantic_core import ErrorDetails

from ptl_plugins.errors import did_you_mean


def explain(
    error: pydantic.ValidationError, model: type[pydantic.BaseModel], *, prefix: str
) -> list[str]:
    """Return one line per problem, `prefix.key: 'value' ...`, in the file's order."""
    return [_line(detail, model, prefix) for detail in error.errors(include_url=False)]


def _line(detail: ErrorDetails, model: type[pydantic.BaseModel], prefix: str) -> str:
    location = [part for part in detail["loc"] if not str(part).startswith("function-")]
    key = ".".join([prefix, *(str(part) for part in location)])
    if detail["type"] == "extra_forbidden":
        known = list(_model_at(model, location[:-1]).model_fields)
        name = str(location[-1])
        return f"{key}: unknown key{did_you_mean(name, known)}; allowed: {', '.join(known)}"
    if detail["type"] == "missing":
        return f"{key}: is missing and has no default"
    if detail["type"] == "model_type":  # pydantic would name our class
        known = list(_model_at(model, location).model_fields)
        return f"{key}: {detail['input']!r} is not a mapping of keys; allowed: {', '.join(known)}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    value = "" if isinstance(detail["input"], dict) else f"{detail['input']!r} "
    return f"{key}: {value}{message}"


def _model_at(model: type[pydantic.BaseModel], location: list[Any]) -> type[pydantic.BaseModel]:
    """Follow a location through fields and list items to the model that owns the last key."""
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _inner(model.model_fields[part].annotation) or model
    return model


def _inner(annotation: Any) -> type[pydantic.BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation
    found = (_inner(argument) for argument in get_args(annotation))
    return next((model for model in found if model is not None), None)
