"""The schema that editors read says what the models that check a recipe say."""

import copy
import json
import re

import jsonschema
import pydantic
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from ptl_plugins import shipped_recipes
from ptl_plugins.recipe_models import PhaseModel, SectionModel
from ptl_plugins.recipe_schema import recipe_schema, schema_text
from ptl_plugins.run_recipe import RunModel
from ptl_plugins.shipped_recipes import SCHEMA, describe_recipes, recipe_files, recipes_folder

FILE = recipes_folder() / SCHEMA
RECIPES = recipe_files()
WRITTEN = json.loads(FILE.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft7Validator(WRITTEN)

PHASE = {"unit": "neuron", "amount": 5}
NOTHING = {"unit": "none", "rounds": 2}
STAGE = {
    "backend": "llamafactory",
    "python": None,
    "rounds": [1, 2],
    "launch": {"launcher": "local", "processes": 2, "timeout": 0.5, "options": {"port": 1}},
    "settings": {"bf16": True},
}
SHARED = {
    "schedule": [{**PHASE, "criterion": "released", "selector": "fraction", "rounds": 3}, NOTHING],
    "order": "together",
    "family": "llama",
    "seed": 0,
    "multiple_of": 8,
    "refit": "none",
    "protect": {"data": "x.txt", "top": 2, "column": "c", "num_sequences": 1},
    "calibration": {"num_sequences": 1, "max_length": None, "batch_tokens": 1},
    "evaluate": {
        "tasks": [{"evaluator": "mine", "x": []}],
        "every": 2,
        "before_recovery": True,
    },
}
RUN = {
    **SHARED,
    "model": "m",
    "data": {"path": "x.txt", "column": "c", "template": "{c}", "split": "s"},
    "run_dir": "r",
    "recover": [STAGE],
    "keep": {"rounds": "last", "intermediate": True},
}
SECTION = {"stage": "pt", "model_name_or_path": 3, "anything": {"at": "all"}, "ptl": SHARED}


def section(**keys):
    return {"ptl": {"schedule": [PHASE], **keys}}


def run(**keys):
    return {"model": "m", "data": {"path": "x"}, "schedule": [PHASE], **keys}


def without(key, document):
    return {name: value for name, value in document.items() if name != key}


def phase(**keys):
    return section(schedule=[keys])


GOOD = [
    RUN, SECTION, run(), section(), run(recover=[]), run(recover=[{"backend": "mine"}]),
    run(protect=None, family=None, seed=None, run_dir=None), run(seed=2**32 - 1),
    run(data={"path": "x", "template": None}), run(model="m", ptl={"schedule": [PHASE]}),
    phase(**PHASE, criterion="mine", selector="mine"), phase(**PHASE, criterion=None),
    phase(unit="layer", amount=0), phase(unit="layer", amount=0.25), phase(unit="none"),
    phase(unit="none", amount=None, criterion=None), phase(unit="none", amount=0, criterion=""),
    phase(unit="none", amount="0.0"), phase(unit="neuron", amount="5B"),
    phase(unit="neuron", amount=" 1_000.5e-1 K "), section(evaluate={}), section(calibration={}),
    section(evaluate={"tasks": [{"evaluator": "mine", "data": {}, "n": 1}]}),
]  # fmt: skip
BAD = [
    {}, {"ptl": None}, {"ptl": []}, {"ptl": {}}, {"stage": "pt"}, run(steps=3), run(stage="pt"),
    without("model", run()), without("data", run()), without("schedule", run()),
    section(shedule=[]), section(model="m"), section(recover=[]), section(schedule=[]),
    section(schedule=PHASE), section(schedule=[3]), section(order="first"), section(family=3),
    section(seed=-1), section(seed=2**32), section(seed=1.5), section(multiple_of=0),
    section(refit="lasso"), section(refit=None), section(protect={}),
    section(protect={"data": "x", "top": 0}), section(protect={"data": "", "top": 1}),
    section(calibration=None), section(calibration={"number": 3}), section(evaluate=None),
    section(evaluate={"tasks": [{"data": "x"}]}), section(evaluate={"tasks": {}}),
    section(evaluate={"every": 0}), section(evaluate={"before_recovery": "maybe"}),
    phase(amount=5), phase(unit="neurons", amount=5), phase(unit="layer"),
    phase(unit="layer", amount=None), phase(unit="layer", amount=-1), phase(**PHASE, rounds=0),
    phase(unit="neuron", amount=[5]), phase(unit="neuron", amount=True),
    phase(unit="neuron", amount="5x"), phase(unit="neuron", amount="-5"),
    phase(unit="neuron", amount="B"), phase(unit="neuron", amount=""),
    phase(unit="neuron", amount="5\x1fB"),
    phase(unit="none", amount=3), phase(unit="none", amount="3"),
    phase(unit="none", criterion="l2"), phase(**PHASE, rounds=1001), phase(**PHASE, rate=1),
    run(recover={"backend": "llamafactory"}), run(recover=None), run(recover=["llamafactory"]),
    run(recover=[{"settings": {}}]), run(recover=[{"backend": "b", "settings": []}]),
    run(recover=[{"backend": "b", "launch": {"processes": 0}}]),
    run(recover=[{"backend": "b", "launch": {"timeout": 0}}]),
    run(recover=[{"backend": "b", "cutoff_len": 3}]), run(keep={"rounds": "first"}),
    run(keep="all"), run(model=""), run(model=3), run(run_dir=""), run(data="x.txt"), run(data={}),
]  # fmt: skip


def read(document, *, strict=False):
    """Return whether the models take a document, as `ptl run` or LLaMA-Factory's door reads it."""
    model, keys = (SectionModel, document["ptl"]) if "ptl" in document else (RunModel, document)
    try:
        model.model_validate_json(json.dumps(keys), strict=strict)
    except pydantic.ValidationError:
        return False
    return True


def test_the_file_is_what_the_code_generates():
    same = FILE.read_text(encoding="utf-8") == schema_text()
    assert same, f"{FILE} does not say what the models say; run `make schema`"


def test_the_file_is_a_schema_of_draft_7():
    jsonschema.Draft7Validator.check_schema(WRITTEN)
    assert WRITTEN["$schema"] == jsonschema.Draft7Validator.META_SCHEMA["$id"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_shipped_recipe_fits(path):
    VALIDATOR.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_first_line_of_a_shipped_recipe_leads_to_the_schema(path):
    first = path.read_text(encoding="utf-8").split("\n")[0]
    found = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert found
    assert (path.parent / found[1]).resolve() == FILE.resolve()


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (section(shedule=[]), "'shedule' was unexpected"),
        (run(steps=3), "'steps' was unexpected"),
        (without("schedule", run()), "'schedule' is a required property"),
        ({"ptl": {}}, "'schedule' is a required property"),
        (phase(unit="neuron", amount=[5]), r"\[5\] is not of type 'number', 'string', 'null'"),
        (phase(unit="neuron", amount="5x"), "'5x' does not match"),
        (phase(unit="layer"), "'amount' is a required property"),
        (run(recover={"backend": "b"}), "is not of type 'array'"),
    ],
)
def test_a_typical_mistake_is_told_where_it_is(document, told):
    assert re.search(told, "\n".join(error.message for error in VALIDATOR.iter_errors(document)))


@pytest.mark.parametrize("document", GOOD, ids=json.dumps)
def test_what_the_models_take_fits(document):
    assert (read(document), VALIDATOR.is_valid(document)) == (True, True)


@pytest.mark.parametrize("document", BAD, ids=json.dumps)
def test_what_the_models_refuse_does_not_fit(document):
    assert (read(document), VALIDATOR.is_valid(document)) == (False, False)


@pytest.mark.parametrize(
    "document",
    [
        section(multiple_of="8"),
        section(multiple_of=True),
        section(evaluate={"before_recovery": "yes"}),
        run(recover=[{"backend": "b", "launch": {"timeout": "5"}}]),
    ],
    ids=json.dumps,
)
def test_what_the_models_convert_is_shown_as_a_mistake(document):
    assert (read(document), read(document, strict=True)) == (True, False)
    assert not VALIDATOR.is_valid(document)


def places(value, path=()):
    """Yield the path of every key and list item below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


VALUES = [
    None, True, False, 0, 1, -1, 3, 0.5, -0.5, 1001, 2**32, "", "x", "5B", "0", "none", "neuron",
    "layer", "all", [], {}, [{}], {"x": 1}, [PHASE], {"unit": "none"}, [{"backend": "b"}],
]  # fmt: skip


@st.composite
def changed(draw):
    """Draw a good document with one or two places set, deleted, or given a neighbour."""
    document = copy.deepcopy(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 2))):
        *path, last = draw(st.sampled_from(list(places(document)) or [("model",)]))
        place = document
        for key in path:
            place = place[key]
        if draw(st.booleans()):
            place[last] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif draw(st.booleans()):
            place.pop(last, None) if isinstance(place, dict) else place.pop(last)
        elif isinstance(place, dict):
            place["neighbour"] = 1
    return document


@given(changed())
def test_a_changed_recipe_fits_where_the_models_take_it_unconverted(document):
    assert VALIDATOR.is_valid(document) == read(document, strict=True)


AMOUNTS = st.from_regex(
    r"[ \t\n]?[+]?[0-9_]{0,4}\.?[0-9_]{0,3}([eE][+-]?[0-9_]{1,2})?[ \n]?[KMBTk]?[ \t]?",
    fullmatch=True,
)


@given(AMOUNTS | st.text("019_.eE+KMBT \tinfa", max_size=6))
def test_an_amount_as_text_fits_where_it_is_read(text):
    try:
        amount = PhaseModel.model_validate({"unit": "layer", "amount": text}).amount
    except pydantic.ValidationError as error:
        too_large = "finite" in str(error) and any(letter.isdigit() for letter in text)
        assume(not too_large)  # which no pattern tells
        amount = None
    fits = VALIDATOR.is_valid(phase(unit="layer", amount=text))
    assert fits == (amount is not None)


def resolved(key):
    reference = key.get("$ref", "").removeprefix("#/")
    found = WRITTEN if reference else key
    for part in filter(None, reference.split("/")):
        found = found[part]
    return found


@pytest.mark.parametrize("model", WRITTEN["definitions"])
def test_every_key_has_a_description_and_a_default_unless_it_is_required(model):
    definition = WRITTEN["definitions"][model]
    for name, key in definition["properties"].items():
        assert resolved(key).get("description"), f"{model}.{name}"
        assert ("default" in resolved(key)) != (name in definition.get("required", ())), name


def test_both_doors_share_one_definition_of_their_keys():
    keys = WRITTEN["definitions"]["RunModel"]["properties"]
    for name in SectionModel.model_fields:
        assert keys[name] == {"$ref": f"#/definitions/SectionModel/properties/{name}"}
    assert set(keys) == set(RunModel.model_fields)


def test_registered_names_are_examples(registry):
    definitions = recipe_schema(registry)["definitions"]
    for model, key, catalogue in (
        ("SectionModel", "family", registry.families),
        ("PhaseModel", "criterion", registry.criteria),
        ("PhaseModel", "selector", registry.selectors),
        ("TaskModel", "evaluator", registry.evaluators),
        ("LaunchModel", "launcher", registry.launchers),
    ):
        assert catalogue.names()
        assert definitions[model]["properties"][key]["examples"] == catalogue.names()


def test_the_backends_of_ptls_own_extensions_are_examples():
    stage = WRITTEN["definitions"]["StageModel"]["properties"]
    assert "llamafactory" in stage["backend"]["examples"]


def test_the_list_of_recipes_shows_the_line_below_the_editors(tmp_path, monkeypatch):
    for name, text in (
        ("a", "# yaml-language-server: $schema=schema.json\n# What it is.\n# More.\nx: 1\n"),
        ("b", "# What it is.\n# More.\n"),
        ("c", "# yaml-language-server: $schema=schema.json\nx: 1\n"),
        ("d", "# yaml-language-server: $schema=schema.json"),
        ("e", ""),
    ):
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(shipped_recipes, "recipes_folder", lambda: tmp_path)
    told = ["What it is.", "What it is.", "", "", ""]
    assert describe_recipes() == [(f"{n}.yaml", t) for n, t in zip("abcde", told, strict=True)]


def test_every_shipped_recipe_says_what_it_is():
    assert all(told and "yaml-language-server" not in told for _, told in describe_recipes())
