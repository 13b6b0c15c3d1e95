"""`tokens` in `ptl run`, `ptl plan` and a dry run: every round's part has its share."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from typer.testing import CliRunner

from ptl_plugins.cli.main import build_app
from ptl_plugins.dry_run import dry_run_lines
from ptl_plugins.errors import PTLError, RecipeError, RunFolderError, StageError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.run import prepare_run, run_recipe
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

KEYS = {
    "model": "model",
    "run_dir": "out",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 4, "max_length": 32},
    "schedule": [
        {"unit": "neuron", "amount": 16},
        {"unit": "neuron", "amount": 8},
        {"unit": "none"},
    ],
    "recover": [{"backend": "fake"}],
}
SIZES = {"equal": [10, 10, 10], "proportional": [13, 6, 10], "final": [7, 7, 15]}
"""Of 30 texts; the shares of `proportional` are 4/9, 2/9 and, as their mean, 3/9."""
ALL = pytest.mark.parametrize("tokens", SIZES)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the recipe with other keys beside a tiny model and 30 texts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data", num_documents=30)

    def write(**keys):
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**KEYS, **keys}), encoding="utf-8")
        return tmp_path / "r.yaml"

    return write


@pytest.fixture
def prepared(write):
    """Return what a run of the recipe needs: recipe, manager, registry."""

    def prepare(**keys):
        manager = build_manager(plugins=["ptl_plugins.testing.fake_backend"], autoload=False)
        registry = build_registry(manager)
        return read_recipe(write(**keys), manager.hook, registry), manager, registry

    return prepare


def parts(folder):
    """Return the texts that each round's stage was given."""
    paths = sorted(folder.glob("out/round_*/stage_0/texts.txt"))
    return [path.read_text(encoding="utf-8").split("Question: ")[1:] for path in paths]


@ALL
def test_the_stages_get_the_shares_and_no_text_twice(prepared, tmp_path, tokens):
    run_recipe(*prepared(tokens=tokens))
    found = parts(tmp_path)
    assert [len(part) for part in found] == SIZES[tokens]
    assert len({text.strip() for part in found for text in part}) == sum(SIZES[tokens])


@ALL
def test_a_resumed_run_has_the_same_parts(prepared, tmp_path, tokens):
    run_recipe(*prepared(tokens=tokens))
    whole = parts(tmp_path)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "cause").touch()
    settings = {"does": "fail", "rounds": [2], "while_exists": str(tmp_path / "cause")}
    keys = {"tokens": tokens, "recover": [{"backend": "fake", "settings": settings}]}
    with pytest.raises(StageError, match="round_02"):
        run_recipe(*prepared(**keys))
    (tmp_path / "cause").unlink()
    run_recipe(*prepared(**keys))
    assert parts(tmp_path) == whole


def test_unset_is_equal_to_the_byte(prepared, tmp_path):
    recipe, manager, registry = prepared()
    equal, _, _ = prepared(tokens="equal")
    corpora = [
        prepare_run(each, manager, registry, writes=False).corpus for each in (recipe, equal)
    ]
    assert corpora[0].digest() == corpora[1].digest()


def test_a_begun_run_folder_refuses_another_value(prepared, tmp_path):
    run_recipe(*prepared(tokens="final"))
    with pytest.raises(RunFolderError, match=r"another recipe \(tokens: 'final' -> 'equal'\)"):
        run_recipe(*prepared())


def test_a_part_without_texts_is_one_line_with_key_and_numbers(prepared, tmp_path):
    write_tiny_corpus(tmp_path / "data", num_documents=5)
    with pytest.raises(PTLError) as raised:
        run_recipe(*prepared(tokens="final", schedule=[{"unit": "neuron", "amount": 8},
                                                       {"unit": "none", "rounds": 4}]))  # fmt: skip
    (line,) = str(raised.value).splitlines()
    assert "r.yaml: data 'data/tiny.jsonl': tokens: part 1 of 5 would have none of 5" in line
    assert not (tmp_path / "out").exists()


def test_where_only_the_scores_can_tell_proportional_is_refused(prepared, tmp_path):
    recipe, manager, registry = prepared(
        tokens="proportional",
        schedule=[{"unit": "neuron", "selector": "threshold", "amount": 0.1}],
    )
    with pytest.raises(RecipeError, match=r"r\.yaml: tokens: 'proportional' shares by .*threshold"):
        run_recipe(recipe, manager, registry)
    assert not (tmp_path / "out").exists()


def test_one_schedule_over_all_rounds_is_refused_with_the_reason(prepared):
    with pytest.raises(RecipeError) as raised:
        prepared(learning_rate_schedule="run")
    (line,) = str(raised.value).splitlines()
    assert "r.yaml: learning_rate_schedule: 'run': each stage of ptl run is a process of" in line
    assert "llamafactory-cli train with a ptl: section" in line


@pytest.mark.parametrize(
    ("tokens", "line"),
    [
        ("equal", "data/tiny.jsonl: 10 texts in each of 3 parts"),
        ("final", "data/tiny.jsonl: 7, 7 and 15 texts in 3 parts"),
    ],
)
def test_a_dry_run_tells_how_many_texts_each_part_has(prepared, tokens, line):
    lines = list(dry_run_lines(prepare_run(*prepared(tokens=tokens), writes=False)))
    assert f"  data       {line}" in lines


def plan(*words):
    return CliRunner().invoke(build_app(), ["plan", *map(str, words)], catch_exceptions=False)


@ALL
def test_the_plan_shows_the_shares_that_the_parts_have(write, tokens):
    path = write(tokens=tokens, recover=[], schedule=KEYS["schedule"][:2])
    rows = json.loads(plan(path, "--json").stdout)
    shares = {"equal": [1 / 2, 1 / 2], "proportional": [2 / 3, 1 / 3], "final": [1 / 2, 1 / 2]}
    assert [row["data_part"] for row in rows] == [None, "1/2", "2/2"]
    assert rows[0]["data_share"] is None
    assert [row["data_share"] for row in rows[1:]] == pytest.approx(shares[tokens])


def test_the_table_shows_a_share_where_they_differ(write):
    cuts = KEYS["schedule"][:2]
    told = plan(write(tokens="proportional", recover=[], schedule=cuts)).stdout
    assert "1/2: 66.7%" in told
    assert "2/2: 33.3%" in told
    told = plan(write(recover=[], schedule=cuts)).stdout
    assert "1/2" in told
    assert "1/2:" not in told
