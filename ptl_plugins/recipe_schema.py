"""The JSON schema of recipe files, for editors: `python -m ptl_plugins.recipe_schema` writes it.

Draft 7 is what yaml-language-server, the engine of VS Code's YAML extension, reads. The schema
is made from the models that check a recipe and says what they say, but for two things: it takes
no quoted numbers but amounts and no other words for true and false, which the models convert;
and it cannot know the names of plugins, which files there are, or an evaluator's own keys.
"""

from __future__ import annotations

import json
from importlib.metadata import distribution
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from ptl_plugins.amounts import UNITS
from ptl_plugins.markers import PROJECT
from ptl_plugins.recipe_models import SectionModel
from ptl_plugins.registry import Registry
from ptl_plugins.run_recipe import RunModel
from ptl_plugins.shipped_recipes import SCHEMA, recipes_folder

DRAFT = "http://json-schema.org/draft-07/schema#"
REFERENCE = "#/definitions/{model}"
TITLE = "PTL recipe"
RECIPE = "A LLaMA-Factory yaml with a `ptl:` section, or a recipe of `ptl run`."
SECTION = "What PTL does in a LLaMA-Factory yaml, whose other keys are LLaMA-Factory's own."
NO_NUMBER = "Not a number such as 500, 0.1 or 5B."
NO_AMOUNT = "Unit 'none' prunes nothing: it takes no amount."
DISTRIBUTION = "ptl"

Schema = dict[str, Any]


class _Untitled(GenerateJsonSchema):
    """pydantic's generator, without titles: they repeat the keys and name our classes."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def recipe_schema(registry: Registry) -> Schema:
    """Return the schema of a recipe file of either door.

    Args:
        registry: the names in it become examples; any other stays allowed, as plugins add names.
    """
    definitions = _definitions()
    _add_examples(definitions, registry)
    _add_amount(definitions["PhaseModel"])
    _share_keys(definitions["RunModel"], definitions["SectionModel"])
    return {
        "$schema": DRAFT,
        "title": TITLE,
        "description": RECIPE,
        "type": "object",
        "properties": {
            "ptl": _beside_reference({"description": SECTION, **_refer("SectionModel")})
        },
        "if": {"required": ["ptl"]},
        "else": _refer("RunModel"),
        "definitions": definitions,
    }


def schema_text() -> str:
    """Return the text of `recipes/schema.json`; its examples are the names that PTL itself adds."""
    from ptl_plugins.manager import build_manager, build_registry

    entries = distribution(DISTRIBUTION).entry_points
    own = [entry.value for entry in entries if entry.group == PROJECT]
    registry = build_registry(build_manager(plugins=own, autoload=False))
    return json.dumps(recipe_schema(registry), indent=2) + "\n"


def _definitions() -> dict[str, Schema]:
    """Return the schemas of all models by name, as draft 7 writes them."""
    _, found = models_json_schema(
        [(RunModel, "validation"), (SectionModel, "validation")],
        ref_template=REFERENCE,
        schema_generator=_Untitled,
    )
    definitions: dict[str, Schema] = found["$defs"]
    for definition in definitions.values():
        definition.pop("title", None)
        for name, key in definition["properties"].items():
            definition["properties"][name] = _beside_reference(key)
    return definitions


def _beside_reference(key: Schema) -> Schema:
    """Return the schema of a key with its reference wrapped: draft 7 ignores what is beside one."""
    if "$ref" not in key:
        return key
    return {**{k: v for k, v in key.items() if k != "$ref"}, "allOf": [{"$ref": key["$ref"]}]}


def _refer(model: str) -> Schema:
    return {"$ref": REFERENCE.format(model=model)}


def _share_keys(run: Schema, section: Schema) -> None:
    """Let the keys of both doors stand once, in the section."""
    for key in section["properties"]:
        run["properties"][key] = _refer(f"SectionModel/properties/{key}")


def _add_examples(definitions: dict[str, Schema], registry: Registry) -> None:
    for model, key, catalogue in (
        ("SectionModel", "family", registry.families),
        ("PhaseModel", "criterion", registry.criteria),
        ("PhaseModel", "selector", registry.selectors),
        ("TaskModel", "evaluator", registry.evaluators),
        ("StageModel", "backend", registry.backends),
        ("LaunchModel", "launcher", registry.launchers),
    ):
        definitions[model]["properties"][key]["examples"] = catalogue.names()


def _add_amount(phase: Schema) -> None:
    """Say what `read_amount` reads, and which unit takes an amount."""
    amount = phase["properties"]["amount"]
    del amount["anyOf"]
    amount |= {"type": ["number", "string", "null"], "minimum": 0, "examples": [512, 0.1, "5B"]}
    amount |= {"pattern": amount_pattern("[0-9]"), "patternErrorMessage": NO_NUMBER}
    zero = {"maximum": 0, "pattern": amount_pattern("0"), "patternErrorMessage": NO_AMOUNT}
    phase["if"] = {"required": ["unit"], "properties": {"unit": {"const": "none"}}}
    phase["then"] = {"properties": {"amount": zero, "criterion": {"enum": [None, ""]}}}
    phase["else"] = {"required": ["amount"], "properties": {"amount": {"type": amount["type"][:2]}}}


def amount_pattern(digit: str) -> str:
    """Return the pattern of an amount written as text: what Python's float reads, and a unit.

    Args:
        digit: the digits it may be made of, as a pattern.
    """
    digits = f"{digit}(_?{digit})*"
    mantissa = rf"({digits}(\.({digits})?)?|\.{digits})"
    exponent = "([eE][+-]?[0-9](_?[0-9])*)?"
    space = r"[ \t\r\n\f\v]*"  # \s is more than float takes before a unit
    return rf"^{space}\+?{mantissa}{exponent}{space}[{''.join(UNITS)}]?{space}$"


if __name__ == "__main__":
    (recipes_folder() / SCHEMA).write_text(schema_text(), encoding="utf-8")
