"""The documentation says what the code does: hooks, keys, defaults, and examples that run."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import MISSING
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_origin

import pydantic
import pytest
import torch
import yaml
from pydantic_core import PydanticUndefined

from llamafactory_ext import recipe as llamafactory_recipe
from ptl_plugins import hookspecs, recipe, second_moments, steps
from ptl_plugins.calibration import pad
from ptl_plugins.components import CutRequest
from ptl_plugins.criteria import DEFAULT_CRITERION, Site, Statistic
from ptl_plugins.errors import PTLError
from ptl_plugins.evaluators import task
from ptl_plugins.families import Family, find_family
from ptl_plugins.geometry import geometry
from ptl_plugins.live import decoder_layers, ffn_output
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.model_config import read_config
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.recipe import RecipeSource, SectionModel
from ptl_plugins.schedule import plan_rounds
from ptl_plugins.selectors import units
from ptl_plugins.surgery import prune_live
from ptl_plugins.testing import tiny_model, tiny_tokenizer, write_tiny_corpus

DOCS = Path(__file__).parents[2] / "docs"
HOOKS = {name: value for name, value in vars(hookspecs).items() if name.startswith("ptl_")}


def read(name):
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name, language):
    """Return the code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(name), re.MULTILINE | re.DOTALL)


def section_of(hook):
    return read("hooks.md").split(f"### {hook}\n")[1].split("\n#")[0]


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_stands_with_its_exact_signature_and_kind(name):
    signature = str(inspect.signature(HOOKS[name])).replace("'", "")
    section = section_of(name)
    assert f"```python\ndef {name}{signature}\n```" in section
    kind = "First result." if HOOKS[name].ptl_spec["firstresult"] else "Collect."
    assert kind in section


def test_no_hook_is_documented_that_does_not_exist():
    assert set(re.findall(r"^### (ptl_\w+)$", read("hooks.md"), re.MULTILINE)) == set(HOOKS)


def keys_of(model, prefix=""):
    """Yield (dotted key, field) of a model and all models in it; list items are `[]`."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
        outer = field.annotation
        item = "[]." if get_origin(outer) is list else "."  # else the model itself, or None
        for inner in (outer, *get_args(outer)):
            if isinstance(inner, type) and issubclass(inner, pydantic.BaseModel):
                yield from keys_of(inner, f"{prefix}{name}{item}")


KEYS = dict(keys_of(SectionModel))


def rows_of_section():
    table = read("recipes.md").split("## The `ptl:` section")[1].split("\n\n**")[0]
    rows = (line.split(" | ") for line in table.splitlines() if line.startswith("| `"))
    return {row[0].strip("| `"): row[2] for row in rows}


def test_the_walk_over_the_models_reaches_the_nested_keys():
    nested = {
        "schedule[].amount", "protect.top", "calibration.max_length", "evaluate.tasks[].evaluator",
    }  # fmt: skip
    assert nested <= set(KEYS)


def test_the_documented_keys_are_those_of_the_code():
    assert set(rows_of_section()) == set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_keys_documented_default_is_the_codes(key):
    documented, default = rows_of_section()[key], KEYS[key].default
    if default is PydanticUndefined:
        assert documented == "required"
    elif isinstance(default, pydantic.BaseModel):
        assert documented == "`{}`"
        assert type(default)() == default
    else:
        assert yaml.safe_load(documented.strip("`")) == default


def test_the_allowed_words_of_a_key_are_documented():
    for key in ("schedule[].unit", "order", "refit", "tokens", "learning_rate_schedule"):
        words = get_args(KEYS[key].annotation)
        row = next(r for r in read("recipes.md").splitlines() if r.startswith(f"| `{key}`"))
        assert words
        assert all(f"`{word}`" in row for word in words)


def test_the_documented_default_criteria_are_the_codes():
    row = next(r for r in read("recipes.md").splitlines() if "`schedule[].criterion`" in r)
    for unit, name in DEFAULT_CRITERION.items():
        assert f"`{name}` for {units(unit)}" in row


def names_of_table(heading):
    """Return the names in the first column of the table below a paragraph of recipes.md."""
    text = read("recipes.md").split(f"**{heading}.**")[1].split("\n\n")[1]
    return [
        name
        for line in text.splitlines()[2:]
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]


def test_the_tables_of_criteria_and_selectors_are_the_registry(registry):
    for heading, catalogue in (("Criteria", registry.criteria), ("Selectors", registry.selectors)):
        assert sorted(names_of_table(heading)) == catalogue.names()


def test_the_table_of_criteria_tells_neurons_from_layers(registry):
    rows = read("recipes.md").split("**Criteria.**")[1].split("\n\n")[1].splitlines()[2:]
    for row in rows:
        names, unit = row.split("|")[1:3]
        found = {units(registry.criteria.get(n).unit) for n in re.findall(r"`(\w+)`", names)}
        assert found == {unit.strip()}


def test_the_length_of_protected_texts_is_documented():
    text = read("recipes.md").split("**Protect set.**")[1].split("\n\n")[0]
    assert f"`calibration.max_length` tokens, {steps.PROTECT_MAX_LENGTH} where it is" in text


def test_the_share_of_memory_for_second_moments_is_documented():
    text = read("recipes.md").split("**Refit.**")[1].split("\n\n")[0]
    assert f"fit into {second_moments.SHARE:.0%} of what is free" in text.replace(" %", "%")
    assert f"({4 * 14336**2 / 1e6:.0f} MB at width 14336)" in text


def test_the_sites_of_a_statistic_are_documented_as_in_the_code():
    documented = [line.strip() for line in inspect.getdoc(Statistic).splitlines()]
    table = [line for line in documented if line.startswith("|")]
    assert len(table) == 2 + 5
    assert "\n".join(table) in read("hooks.md")
    assert {name for row in table[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])} == set(
        get_args(Site)
    )


def test_what_a_selector_may_look_at_is_documented():
    text = read("hooks.md").split("## A selector")[1].split("```")[0]
    assert all(f"`{name}`" in text for name in CutRequest.__dataclass_fields__)


def test_the_settings_of_the_evaluator_are_documented_with_their_defaults():
    for key, default in task.DEFAULTS.items():
        row = next(r for r in read("recipes.md").splitlines() if r.startswith(f"| `{key}` |"))
        documented = row.split(" | ")[1]
        assert documented == ("required" if default is None else documented)
        if default is not None:
            assert yaml.safe_load(documented.strip("`")) == default


def test_every_refused_key_and_every_key_free_to_change_is_documented():
    refused = read("recipes.md").split("## What is refused")[1]
    keys = {key for key, _, _ in llamafactory_recipe.RULES}
    free = llamafactory_recipe.FREE_KEYS - {"ptl"}
    assert keys
    assert not [key for key in keys if f"`{key}`" not in refused.split("\n## ")[0]]
    assert not [key for key in free if f"`{key}`" not in refused.split("## Resume")[1]]


def test_every_registered_name_is_documented(registry):
    text = read("recipes.md")
    for catalogue in (registry.criteria, registry.selectors, registry.evaluators):
        assert catalogue.names()
        assert all(f"`{name}`" in text for name in catalogue.names())


def test_the_example_recipe_is_valid(registry, tmp_path, monkeypatch):
    (example,) = [text for text in blocks("recipes.md", "yaml") if "model_name_or_path" in text]
    monkeypatch.chdir(tmp_path)
    keys = yaml.safe_load(example)
    write_tiny_corpus(tmp_path / "data")
    info = {keys["dataset"]: {"file_name": "tiny.jsonl"}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    source = RecipeSource(path=Path("x.yaml"), keys=keys, text=example, registry=registry)
    assert len(llamafactory_recipe.read_llamafactory_recipe(source).rounds) == 7


def rows_of_table(section):
    """Return the cells of each row of a section of families.md, without the head."""
    lines = read("families.md").split(f"## {section}\n")[1].split("\n#")[0].splitlines()
    table = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if line[:2] == "| "]
    assert len(table) > 2
    return table[2:]


def shown(default):
    """Return a default as the table of facts shows it."""
    if isinstance(default, tuple):
        return ", ".join(shown(part) for part in default)
    return f"`{default}`" if isinstance(default, str) else str(default).lower()


def test_the_facts_of_a_family_are_documented_with_their_defaults():
    rows = rows_of_table("How to add a family")
    assert [(fact.strip("`"), default) for fact, default, _ in rows] == [
        (field.name, "" if field.default is MISSING else shown(field.default))
        for field in Family.__dataclass_fields__.values()
    ]


def test_the_table_of_families_is_the_registry(registry):
    documented = {name.strip("`"): types for name, types, _ in rows_of_table("Supported")}
    assert documented == {
        name: ", ".join(f"`{model_type}`" for model_type in family.model_types)
        for name, family in registry.families.items()
    }


@pytest.mark.parametrize(("config", "line"), [row[:2] for row in rows_of_table("Refused")])
def test_a_refused_config_of_the_table_gets_the_line_of_the_table(registry, config, line):
    with pytest.raises(PTLError) as raised:
        find_family(registry, json.loads(config.strip("`")))
    assert str(raised.value) == line


# --- the examples of hooks.md and families.md, extracted, registered and run ---


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """The modules of both pages, by name: blocks that begin with their file's name."""
    folder, modules = tmp_path_factory.mktemp("examples"), {}
    for text in blocks("hooks.md", "python") + blocks("families.md", "python"):
        if found := re.match(r"# (\w+)\.py\n", text):
            path = folder / f"{found[1]}.py"
            path.write_text(text, encoding="utf-8")
            spec = importlib.util.spec_from_file_location(found[1], path)
            modules[found[1]] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[found[1]])
    return modules


@pytest.fixture
def manager_with(examples):
    def build(name):
        manager = build_manager(autoload=False)
        manager.register(examples[name], name)
        manager.check_pending()
        return manager

    return build


def test_the_examples_are_found(examples):
    assert set(examples) == {"act_rms", "keep", "slow_steps", "starcoder2_family", "text_model"}


def test_the_entry_point_of_the_example_names_its_module(examples):
    (text,) = blocks("hooks.md", "toml")
    keys = tomllib.loads(text)
    assert keys["project"]["entry-points"]["ptl"] == {"act_rms": "act_rms"}
    assert keys["tool"]["setuptools"]["py-modules"] == ["act_rms"]


def test_the_examples_criterion_is_the_rms_of_act(manager_with):
    registry = build_registry(manager_with("act_rms"))
    criterion, family = registry.criteria.get("act_rms"), registry.families.get("llama")
    model, seen = tiny_model("llama"), []
    last = ffn_output(decoder_layers(model, family)[-1], family)
    handle = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batch = pad([[5, 6, 7, 8], [9, 10]], device=torch.device("cpu"))
    scores = profile(model, family, [batch], criterion.statistics, SingleProcess())
    handle.remove()
    act = seen[0][batch.attention_mask.bool()]
    assert len(act) == 6
    expected = act.square().mean(dim=0).sqrt()
    importance = criterion.importance(scores)
    assert (importance.shape, importance.dtype) == ((5, 48), "float32")
    torch.testing.assert_close(torch.from_numpy(importance[-1]), expected)


def test_the_examples_selector_leaves_what_the_recipe_asks_for(manager_with):
    registry = build_registry(manager_with("keep"))
    source = RecipeSource(path=Path("x.yaml"), keys={}, text="", registry=registry)
    phase = {"unit": "neuron", "selector": "keep", "amount": 20, "rounds": 3}
    layers = {"unit": "layer", "selector": "keep", "amount": 2}
    rounds = recipe.read_section(source, {"schedule": [phase, layers]}, prefix="ptl").rounds
    start = geometry(tiny_model("llama").config.to_dict(), registry.families.get("llama"))
    shapes = [p.geometry for p in plan_rounds(rounds, start, registry)]
    assert [(s.width, s.num_layers) for s in shapes] == [(38, 5), (29, 5), (20, 5), (20, 2)]
    with pytest.raises(PTLError, match=r"ptl.schedule.0.amount: 2.5 is not a whole number of 1"):
        recipe.read_section(source, {"schedule": [{**phase, "amount": 2.5}]}, prefix="ptl")


def test_the_examples_callback_adds_to_the_logs(manager_with):
    ((callback,),) = manager_with("act_rms").hook.ptl_trainer_callbacks(ctx=SimpleNamespace())
    logs = {"loss": 1.0}
    callback.on_log(None, None, None, logs=logs)
    assert set(logs) == {"loss", "peak_memory_gb"}
    assert 0 < logs["peak_memory_gb"] < 1000


@pytest.mark.parametrize(("seconds", "warnings"), [(1, 0), (61, 1)])
def test_the_examples_wrapper_passes_the_answer_on(
    manager_with, examples, monkeypatch, caplog, seconds, warnings
):
    class Answers:
        from ptl_plugins import hookimpl

        @hookimpl
        def ptl_profile(self, ctx, subject):
            return "scores"

    manager = manager_with("slow_steps")
    manager.register(Answers(), "answers")
    clock = iter([0, seconds])
    monkeypatch.setattr(examples["slow_steps"], "time", SimpleNamespace(monotonic=clock.__next__))
    assert manager.hook.ptl_profile(ctx="a round", subject=None) == "scores"
    assert len(caplog.records) == warnings


def test_the_examples_family_fits_the_real_architecture(manager_with, make_plan):
    registry = build_registry(manager_with("starcoder2_family"))
    model = tiny_model("starcoder2")
    family = find_family(registry, model.config.to_dict())
    assert family.name == "starcoder2"
    prune_live(model, family, make_plan(model, family, (0, 7), (2,)))
    number = geometry(model.config.to_dict(), family).num_parameters
    assert number == sum(parameter.numel() for parameter in model.parameters())
    assert model(torch.tensor([[5, 6, 7]])).logits.isfinite().all()


def test_the_documented_command_runs_the_contract_on_the_examples_family(examples):
    (line,) = (text for text in read("families.md").splitlines() if text.startswith("PTL_PLUGINS="))
    variable, command = line.split(" pytest ")
    name, value = variable.split("=")
    paths = [str(Path(examples[value].__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, name: value, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *command.split()]
    result = subprocess.run(
        words, cwd=DOCS.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) > 20


def test_the_example_saves_the_text_model_of_a_multimodal_one(examples, registry, tmp_path):
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Gemma3Config

    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    text = tiny_model("gemma3_text").config.to_dict()
    source, folder, tokens = tmp_path / "whole", tmp_path / "text", torch.tensor([[5, 6, 7, 9]])
    config = Gemma3Config(text_config=text, vision_config=vision)
    AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).save_pretrained(source)
    tiny_tokenizer().save_pretrained(source)
    examples["text_model"].save_text_model(source, folder)
    assert find_family(registry, read_config(str(folder))).name == "gemma3"
    assert (folder / "tokenizer.json").is_file()
    whole = AutoModelForImageTextToText.from_pretrained(source).eval()
    saved = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert torch.equal(saved(tokens).logits, whole(tokens).logits)


def test_links_between_pages_lead_somewhere():
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([\w./-]+\.md)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
