"""`ptl` as a user meets it: output, exit codes, one line for a mistake, and no heavy imports."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
import yaml
from typer.testing import CliRunner

from ptl_plugins.cli.main import build_app, main
from ptl_plugins.errors import PTLError
from ptl_plugins.geometry import geometry
from ptl_plugins.model_config import read_config
from ptl_plugins.shipped_recipes import recipes_folder
from ptl_plugins.testing import write_tiny_corpus

COMMANDS = (
    "run", "plan", "validate", "ls", "profile", "prune", "data", "report", "doctor",
    "train-llamafactory", "quickstart",
)  # fmt: skip
CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def write(tmp_path):
    """Write a recipe for a tiny model's config; keys override it, `ptl` is its section."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")

    write_tiny_corpus(tmp_path / "data", num_documents=3)

    def recipe(name="recipe.yaml", **keys):
        section = {
            "schedule": [
                {"unit": "neuron", "amount": 8, "rounds": 2},
                {"unit": "layer", "amount": 1},
                {"unit": "none"},
            ]
        }
        facts = {
            "model_name_or_path": str(model),
            "stage": "pt",
            "do_train": True,
            "finetuning_type": "full",
            "dataset_dir": str(tmp_path / "data"),
            "dataset": "tiny",
            "output_dir": str(tmp_path / "out"),
            "ptl": section,
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump({**facts, **keys}), encoding="utf-8")
        return path

    return recipe


@pytest.fixture
def ptl(monkeypatch, capsys):
    """Run `ptl` in this process; return exit code, stdout and stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ptl", *map(str, words)])
        with pytest.raises(SystemExit) as raised:
            main()
        out, err = capsys.readouterr()
        return raised.value.code or 0, out, err

    return run


def invoke(*words):
    return CliRunner().invoke(build_app(), [str(word) for word in words], catch_exceptions=False)


def process(*words):
    """Run `ptl` as a process of its own and list the heavy modules it imported."""
    heavy = ("torch", "transformers", "llamafactory", "verl", "datasets", "matplotlib", "numpy")
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('HEAVY', sorted(set({heavy}) & set(sys.modules))))\n"
        "from ptl_plugins.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    out, _, imported = done.stdout.rpartition("HEAVY ")
    return done.returncode, out, done.stderr, imported.strip()


def test_plan_prints_every_round_of_the_recipe(write):
    rows = json.loads(invoke("plan", write(), "--json").stdout)
    assert [(r["round"], r["layers"], r["width"]) for r in rows] == [
        (0, 5, 48), (1, 5, 40), (2, 5, 32), (3, 4, 32), (4, 4, 32),
    ]  # fmt: skip
    assert [r["data_part"] for r in rows] == [None, "1/4", "2/4", "3/4", "4/4"]
    assert rows[1]["cut"] == "8 (count) neuron by output_change"
    assert rows[4]["cut"] == "none"
    assert rows[0]["flops_ratio"] == 1.0
    assert rows[4]["flops_ratio"] < rows[1]["flops_ratio"] < 1


def test_plan_counts_parameters_as_geometry_does(write, registry):
    path = write()
    rows = json.loads(invoke("plan", path, "--json").stdout)
    model = yaml.safe_load(path.read_text(encoding="utf-8"))["model_name_or_path"]
    start = geometry(read_config(model), registry.families.get("qwen2"))
    for row in rows:
        shape = start.after(width=row["width"], num_layers=row["layers"])
        assert row["parameters"] == shape.num_parameters
        assert row["non_embedding"] == shape.non_embedding


def test_plan_prints_a_table_with_the_same_numbers(write, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    result = invoke("plan", write())
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if "neuron by" in line]
    assert [("40" in line, "1/4" in line) for line in lines] == [(True, True), (False, False)]


def schedule(*phases, **keys):
    """Return the keys of a recipe with another schedule."""
    return {"ptl": {"schedule": list(phases), **keys}}


def test_plan_says_where_only_the_scores_will_tell(write, monkeypatch):
    """From a threshold on no shape is known; the rounds before it have theirs."""
    monkeypatch.setenv("COLUMNS", "160")
    keys = schedule(
        {"unit": "neuron", "amount": 8},
        {"unit": "neuron", "selector": "threshold", "amount": 0.25, "rounds": 2},
        {"unit": "layer", "amount": 1},
    )
    path = write(**keys)
    rows = json.loads(invoke("plan", path, "--json").stdout)
    unknown = ("layers", "width", "parameters", "non_embedding", "flops_ratio")
    assert [[row[key] is None for key in unknown] for row in rows] == [
        [False] * 5, [False] * 5, [True] * 5, [True] * 5, [True] * 5,
    ]  # fmt: skip
    assert rows[2]["cut"] == "0.25 (threshold) neuron by output_change"
    lines = [line for line in invoke("plan", path).stdout.splitlines() if " by " in line]
    assert ["by scores" in line for line in lines] == [False, True, True, True]
    assert invoke("validate", path).stdout == f"{path}: ok, 4 rounds\n"


def test_plan_meets_a_target_in_its_last_round(write):
    phase = {"unit": "neuron", "selector": "parameters", "amount": 0.8, "rounds": 3}
    rows = json.loads(invoke("plan", write(**schedule(phase)), "--json").stdout)
    counts = [row["parameters"] for row in rows]
    per_neuron = (counts[0] - counts[1]) / (rows[0]["width"] - rows[1]["width"])
    assert counts[2] > 0.8 * counts[0] >= counts[3] > 0.8 * counts[0] - per_neuron


def test_plan_shows_a_large_amount_as_it_was_written(write, ptl):
    phase = {"unit": "neuron", "selector": "parameters", "amount": "1.5B"}
    code, _, err = ptl("plan", write(**schedule(phase)))
    assert code == 2
    assert "round 1 would remove nothing: parameters 1.5B comes to none" in err
    assert err.count("\n") == 1


def test_validate_names_every_good_recipe(write):
    one, two = write("one.yaml"), write("two.yaml")
    result = invoke("validate", one, two)
    assert result.exit_code == 0
    assert result.stdout == f"{one}: ok, 4 rounds\n{two}: ok, 4 rounds\n"


def test_validate_tells_the_bad_ones_and_goes_on(write, ptl):
    bad, good = write("bad.yaml", ptl={"schedule": [], "order": "x"}), write("good.yaml")
    code, out, err = ptl("validate", bad, good)
    assert (code, out) == (2, f"{good}: ok, 4 rounds\n")
    assert f"{bad}: ptl.schedule: " in err
    assert f"{bad}: ptl.order: 'x' " in err


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"ptl": {"schedule": [{"unit": "neuron", "amount": 48}]}}, "ptl.schedule: round 1 rem"),
        ({"ptl": None}, "ptl: None is not a mapping of keys"),
        ({"model_name_or_path": "/not/there"}, "model_name_or_path: model '/not/there': no such"),
        (
            {
                "ptl": {
                    "schedule": [{"unit": "neuron", "amount": 40}],
                    "protect": {"data": "a/corpus", "top": 9},
                }
            },
            "ptl.schedule: round 1 removes 40 neurons per layer of 48, but protect.top keeps 9",
        ),
        (
            {"ptl": {"schedule": [{"unit": "neuron", "selector": "flops", "amount": 0.01}]}},
            "ptl.schedule: flops 0.01 cannot be reached by cutting neurons alone: width 1 still",
        ),
        (
            {"ptl": {"schedule": [{"unit": "neuron", "amount": "5X"}]}},
            "ptl.schedule.0.amount: '5X' is not a number such as 500, 0.1 or 5B",
        ),
        ({"finetuning_type": "lora"}, "finetuning_type: 'lora': adapters"),
        (
            {"ptl": {"schedule": [{"unit": "neuron", "amount": 1, "criterion": "lst"}]}},
            "ptl.schedule.0.criterion: unknown criterion 'lst' (did you mean 'last'?)",
        ),
    ],
)
@pytest.mark.parametrize("command", ["plan", "validate"])
def test_a_wrong_recipe_is_one_line_with_file_and_key_and_exit_code_2(
    write, ptl, command, keys, told
):
    path = write(**keys)
    code, out, err = ptl(command, path)
    assert (code, out) == (2, "")
    assert err.startswith(f"ptl: {path}: {told}")
    assert err.count("\n") == 1


def test_a_file_without_a_section_is_told_what_it_lacks(tmp_path, ptl):
    path = tmp_path / "other.yaml"
    path.write_text("stage: pt\n", encoding="utf-8")
    code, _, err = ptl("plan", path)
    assert code == 2
    assert err.startswith(f"ptl: {path}: ")
    assert "needs a 'ptl:' section" in err


def test_a_model_that_is_quantised_or_of_no_known_family_is_refused(write, tmp_path, ptl):
    config = tmp_path / "model" / "config.json"
    for change, told in (
        ({"quantization_config": {"bits": 4}}, "is quantised"),
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported; supported: gemma2, "),
        ({"hidden_size": "wide"}, "hidden_size: 'wide' is not a positive whole number"),
    ):
        path = write()
        config.write_text(json.dumps({**CONFIG, **change}), encoding="utf-8")
        code, _, err = ptl("validate", path)
        assert code == 2
        assert told in err


def test_ls_lists_every_kind_with_where_it_comes_from():
    result = invoke("ls")
    assert result.exit_code == 0
    for line in (
        "baselines:",
        "families:",
        "criteria:",
        "selectors:",
        "evaluators:",
        "recipes:",
        "plugins:",
    ):
        assert line in result.stdout.splitlines()
    assert "activation_max" in result.stdout


def test_ls_of_one_kind_lists_that_alone(registry):
    names = [line.split()[0] for line in invoke("ls", "families").stdout.splitlines()]
    assert names == registry.families.names()
    assert {"gemma2", "llama", "phi3"} <= set(names)


def test_ls_criteria_shows_what_each_scores(registry):
    listed = [line.split()[:2] for line in invoke("ls", "criteria").stdout.splitlines()]
    assert listed == [[name, criterion.unit] for name, criterion in registry.criteria.items()]
    assert {unit for _, unit in listed} >= {"neuron", "layer"}


def test_ls_recipes_lists_every_shipped_yaml():
    shipped = sorted(str(p.relative_to(recipes_folder())) for p in recipes_folder().rglob("*.yaml"))
    listed = [line.split()[0] for line in invoke("ls", "recipes").stdout.splitlines()]
    assert listed == (shipped or ["(none)"])


def test_ls_baselines_lists_every_baseline_with_its_recipe_or_its_criterion(registry):
    listed = [line.split() for line in invoke("ls", "baselines").stdout.splitlines()]
    folder, files = recipes_folder(), {name: path for name, path, *_ in listed if "/" in path}
    assert set(files) == {"shortgpt", "slicegpt", "prune_once", "control"}
    by_file = {path for _, path, *_ in listed if (folder / path).is_file()}
    endings = tuple(f"{name}.yaml" for name in files)
    assert by_file == {
        str(p.relative_to(folder)) for p in folder.rglob("*.yaml") if p.name.endswith(endings)
    }
    assert all(path.endswith(f"{name}.yaml") for name, path, *_ in listed if "/" in path)
    by_words = {row[0]: row[1:3] for row in listed if "/" not in row[1]}
    assert by_words.pop("distillation") == ["distill:", "{teacher:"]
    assert by_words == {name: ["criterion:", name] for name in ("wanda_structured", "taylor")}
    assert all(registry.criteria.get(name).unit == "neuron" for name in by_words)
    assert all(len(row) > 5 for row in listed), "each says what it is"


def test_ls_shows_a_blocked_plugin_and_not_its_names():
    listed = invoke("ls", "plugins", "-p", "no:builtin").stdout
    assert ["builtin", "blocked"] in [line.split() for line in listed.splitlines()]
    assert invoke("ls", "families", "-p", "no:builtin").stdout == "(none)\n"


def test_ls_of_an_unknown_kind_suggests_one():
    with pytest.raises(PTLError, match=r"unknown kind 'critera' \(did you mean 'criteria'\?\)"):
        invoke("ls", "critera")


def test_a_plugin_that_is_not_there_is_the_users_mistake(ptl):
    code, out, err = ptl("ls", "-p", "not_there_at_all")
    assert (code, out) == (2, "")
    assert err == "ptl: -p not_there_at_all: no module named 'not_there_at_all'\n"


def test_help_names_every_command(ptl):
    code, out, _ = ptl("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plann"], "plann"),
        (["plan"], "RECIPE"),
        (["plan", "x.yaml", "--nope"], "--nope"),
        (["prune", "model"], "--out"),
        (["prune", "m", "--out", "o", "--multiple-of", "abc"], "--multiple-of"),
        (["prune", "m", "--layers", "1", "--out", "o" * 300], "o" * 300),
        (["prune", "m" * 300, "--layers", "1", "--out", "o"], "m" * 300),
    ],
)
def test_a_wrong_command_line_is_one_line_with_exit_code_2(ptl, words, told):
    code, out, err = ptl(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("ptl: ")
    assert told in err


def test_no_words_at_all_show_the_help(ptl):
    code, out, err = ptl()
    assert code == 2
    assert "Usage: " in out + err


@pytest.mark.parametrize(
    ("error", "expected"),
    [(KeyboardInterrupt(), 130), (typer.Abort(), 130), (typer.Exit(3), 3)],
    ids=["interrupt", "abort", "exit"],
)
def test_what_ends_a_command_gives_the_exit_code(ptl, monkeypatch, error, expected):
    def fail(*args, **keys):
        raise error

    monkeypatch.setattr("ptl_plugins.manager.build_manager", fail)
    code, out, err = ptl("ls")
    assert (code, out) == (expected, "")
    assert "Traceback" not in err


def test_as_processes_the_light_commands_import_no_framework(write):
    path = write()
    bad = write("bad.yaml", ptl={"schedule": [{"unit": "neuron", "amount": 48}]})
    for words, code in (
        (["--help"], 0),
        (["ls"], 0),
        (["plan", path], 0),
        (["validate", path], 0),
        (["plan", bad], 2),
        (["validate", bad], 2),
    ):
        returned, out, err, imported = process(*words)
        assert (returned, imported) == (code, "[]"), (words, err)
        assert bool(out) is (code == 0)
        assert err.count("\n") == (1 if code else 0)
        assert "Traceback" not in err


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "ptl_plugins", "ls", "selectors"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    listed = [line.split()[0] for line in done.stdout.splitlines()]
    assert listed == ["count", "flops", "fraction", "parameters", "threshold"]


def test_validate_knows_the_data_sets_and_plan_needs_none(ptl, write):
    path = write(dataset="tini")
    code, _, err = ptl("validate", path)
    assert code == 2
    assert "(did you mean 'tiny'?)" in err
    assert ptl("plan", path)[0] == 0
