"""The page on GRPO says what the code does: keys, defaults, fields of a step, the example."""

from __future__ import annotations

import re
from pathlib import Path

import pydantic
import pytest
import yaml
from pydantic_core import PydanticUndefined

from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe_file import read_recipe
from verl_ext.grpo_settings import EasyR1Model, GrpoStageModel, VerlModel
from verl_ext.in_verl.step_metrics import FIELDS

PAGE = (Path(__file__).parents[2] / "docs" / "grpo.md").read_text(encoding="utf-8")
TABLES = {
    GrpoStageModel: "## Settings",
    VerlModel: "Of `verl` alone:",
    EasyR1Model: "Of `easyr1` alone:",
}


def defaults_of(model, prefix=""):
    """Yield (dotted key, default) of a model and the models in it."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, pydantic.BaseModel):
            yield from defaults_of(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.default


def rows_below(heading):
    """Return key -> default as the table below a heading shows them."""
    table = PAGE.split(heading + "\n\n")[1].split("\n\n")[0]
    rows = {}
    for line in table.splitlines()[2:]:
        keys, default = (cell.strip() for cell in line.split(" | ")[:2])
        keys = re.findall(r"`([\w.]+)`", keys)
        shown = re.findall(r"`([^`]+)`", default) or [default]
        rows |= dict(zip(keys, shown * (len(keys) // len(shown)), strict=True))
    return rows


@pytest.mark.parametrize("model", TABLES, ids=lambda model: model.__name__)
def test_the_documented_settings_and_defaults_are_those_of_the_code(model):
    shared = {} if model is GrpoStageModel else dict(defaults_of(GrpoStageModel))
    own = {key: value for key, value in defaults_of(model) if key not in shared}
    rows = rows_below(TABLES[model])
    assert set(rows) == set(own)
    for key, default in own.items():
        if default is PydanticUndefined:
            assert rows[key] == "required", key
        elif default is None or default == {}:
            assert rows[key] == "none", key
        else:
            assert yaml.safe_load(rows[key]) == default, key


def test_the_documented_fields_of_a_step_are_those_of_the_code():
    table = PAGE.split("| field | meaning |\n")[1].split("\n\n")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines()[1:]]
    assert [name for cell in cells for name in re.findall(r"`(\w+)`", cell)] == list(FIELDS)


def test_the_templates_are_documented():
    folder = Path(__file__).parents[2] / "verl_ext" / "templates"
    names = [path.stem for path in folder.glob("*.jinja")]
    assert len(names) == 3
    assert all(f"`{name}`" in PAGE for name in names)


def test_the_example_is_a_recipe(tmp_path):
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    keys = yaml.safe_load(text)
    assert keys["recover"][0].pop("python")  # a file of the reader's machine
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    manager = build_manager()
    recipe = read_recipe(path, manager.hook, build_registry(manager))
    assert [stage.backend for stage in recipe.stages] == ["verl"]
