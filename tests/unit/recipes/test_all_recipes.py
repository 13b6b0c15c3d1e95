"""Every recipe under `recipes/`: found, valid, planned; what the full-size ones cost."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from shipped import (
    A100_FLOPS,
    ALL,
    CONFIGS,
    DOCUMENTS,
    FLOPS_PER_WEIGHT_AND_TOKEN,
    FOLDER,
    FULL_SIZE,
    GRPO_STEP_SECONDS,
    MATH12K,
    TOKENS_PER_DOCUMENT,
    UTILISATION,
    expected_disk,
    expected_hours,
    header,
    keys_of,
)

from ptl_plugins import preflight
from ptl_plugins.cli.main import main
from ptl_plugins.corpora.catalogue import CORPORA
from ptl_plugins.corpora.prepare import CorpusRequest, prepare_corpus
from ptl_plugins.shipped_recipes import STUDY
from ptl_plugins.testing import tiny_model, tiny_tokenizer

COUNTS = {"ablation": 5, "code": 3, "mini": 5, "paper": 22, "quickstart": 6}
"""Recipes below each folder: whoever adds one says so here and in recipes/README.md."""
SOURCED = re.compile(r"# (paper|released script|PTL: |likewise)")
COST = re.compile(
    r"Expected: about (\d+) hours of recovery \(PTL(?:; the paper: \d+)?\), "
    r"(\d+) GB of disk, (\d+) GB at the end \(docs/reproduce\.md\)\."
)
ENDS = re.compile(
    r"The end: (\d+) layers of width (\d+)(?: and hidden size \d+)?, ([\d.]+) B parameters"
)
PAGE = FOLDER.parent / "docs" / "reproduce.md"


# --- all of them ---


def test_all_recipes_are_found():
    paths = (path for path in FOLDER.rglob("*.yaml") if path.name != STUDY)
    found = [path.relative_to(FOLDER).parts[0] for path in paths]
    assert {folder: found.count(folder) for folder in found} == COUNTS


def test_the_catalogue_has_a_row_for_each_recipe():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in ALL if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_is_valid_and_every_round_of_it_is_planned(planned, name):
    plan = planned(name)
    assert len(plan.rounds) == plan.rounds[-1].spec.index > 0
    assert all(each.geometry for each in plan.rounds)
    first, last = plan.original, plan.rounds[-1].geometry
    assert (last.num_parameters < first.num_parameters) is not name.endswith("control.yaml")


def validated_copy(name, folder):
    """Return the recipe, or a copy with a rollout that needs no vLLM: only GPU machines have it."""
    text = ALL[name].read_text(encoding="utf-8")
    if "      rollout: vllm" not in text:
        return ALL[name]
    copy = folder / name.replace("/", "_")
    copy.write_text(text.replace("      rollout: vllm", "      rollout: hf_cpu"), encoding="utf-8")
    return copy


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ptl_validate_takes_them_all_with_the_frameworks_own_parsers(
    workplace, monkeypatch, capsys
):
    """But for EasyR1's, whose own config needs its clone: tests/verl/test_paper_recipes.py."""
    for model, config in CONFIGS.items():
        (workplace / "models" / model).mkdir(parents=True)
        path = workplace / "models" / model / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
    for name in ("read_config", "config_path"):  # of a local folder in place of the hub
        real = getattr(preflight, name)
        monkeypatch.setattr(
            preflight, name, lambda model, real=real: real(str(workplace / "models" / model))
        )
    names = [name for name in ALL if "easyr1" not in name]
    paths = [validated_copy(name, workplace) for name in names]
    monkeypatch.setattr(sys, "argv", ["ptl", "validate", *map(str, paths)])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.err) == (0, "")
    told = re.findall(r": ok, \d+ rounds(.*)$", printed.out, re.MULTILINE)
    assert told == [""] * len(names), "a note in brackets says that something was not checked"
    assert len(names) == len(ALL) - 2


# --- the full-size ones ---


@pytest.mark.parametrize("name", FULL_SIZE)
def test_every_number_names_its_source(name):
    body = FULL_SIZE[name].read_text(encoding="utf-8").split("\n\n", maxsplit=1)[1]
    lines = [line for line in body.splitlines() if re.search(r"[:\[ ]\d", line.split(" # ")[0])]
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    assert len(lines) > 6
    assert [line for line in lines if not SOURCED.search(line)] == []


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_head_tells_the_hardware_the_end_the_hours_and_the_disk(planned, name):
    plan, head = planned(name), header(FULL_SIZE[name])
    assert re.search(r"Hardware: (pre-training )?[48] x (A100 80|H200 140) GB", head)
    end, told = plan.rounds[-1].geometry, ENDS.search(head)
    assert (str(end.num_layers), str(end.width)) == told.groups()[:2]
    assert f"{end.num_parameters / 1e9:.2f}" == told[3]
    cost = COST.search(head)
    assert cost, head
    assert int(cost[1]) == round(expected_hours(plan))
    assert (int(cost[2]), int(cost[3])) == expected_disk(plan)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_its_corpora_are_those_of_ptl_data(name):
    keys = keys_of(FULL_SIZE[name])
    paths = [keys["data"]["path"]]
    paths += [s["settings"]["problems"]["path"] for s in keys["recover"] if "grpo" in s["settings"]]
    paths += [keys["protect"]["data"]] if "protect" in keys else []
    assert {Path(path).name for path in paths} <= set(CORPORA)
    assert all(CORPORA[Path(path).name].text for path in paths if "math12k" not in path)


def test_the_documents_that_are_counted_are_those_of_the_corpora():
    sources = CORPORA["numina_metamath"].sources.values()
    assert DOCUMENTS["data/numina_metamath"] == sum(source.expected for source in sources)
    files = CORPORA["opc_starcoder"].sources["starcoder_python"].limit
    told = f"about {DOCUMENTS['data/opc_starcoder'] - files:,} + {files:,}"
    assert told in PAGE.read_text(encoding="utf-8")
    assert CORPORA["math12k"].sources["math12k"].expected == MATH12K


def test_a_released_variant_asks_for_100_000_rows_a_round():
    for name, path in FULL_SIZE.items():
        if "data/released" in keys_of(path)["data"]["path"]:
            rounds = sum(phase["rounds"] for phase in keys_of(path)["schedule"])
            text = path.read_text(encoding="utf-8")
            assert f"--rows {rounds}00000 --out data/released`" in text, name


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_original_and_the_end_are_measured_and_in_fig_3_every_round(planned, name):
    plan, keys = planned(name), keys_of(FULL_SIZE[name])
    every = plan.recipe.evaluation.every
    measured = [n for n in range(1, len(plan.rounds)) if n % every == 0]
    if name.endswith("fig3_every_round.yaml"):
        assert measured == list(range(1, 11))
    else:
        assert measured == ([12] if name.endswith("cpt_then_grpo.yaml") else [])
    tasks = keys["evaluate"]["tasks"]
    assert tasks[0]["evaluator"] == "lm_eval"
    assert tasks[1:] == [{"evaluator": "speed"}, {"evaluator": "speed", "protocol": "paper"}]
    asked = {
        "code": ["mbpp"],
        "qwen": ["gsm8k_chat", "minerva_ocw_chat", "math500_chat"],
        "": ["gsm8k_cot", "minerva_math", "math500"],
    }
    of = "code" if name.startswith("code/") else "qwen" if "qwen" in name else ""
    assert tasks[0]["tasks"] == asked[of]


# --- the corpora that they read are those that ptl data writes ---


@pytest.fixture
def small_corpora(workplace):
    """What `ptl data` makes of small local copies, where the recipes look for it."""
    lines = {
        "numina": ("problem", "solution"), "metamath": ("query", "response"), "wikitext": ("text",),
    }  # fmt: skip
    for name, columns in lines.items():
        rows = ({column: f"{column} {n} of {name}" for column in columns} for n in range(40))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (workplace / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for corpus, out in {
        "numina_metamath": ("data", "data/released"), "english": ("data",),
    }.items():  # fmt: skip
        local = {name: f"{name}.jsonl" for name in CORPORA[corpus].sources}
        for folder in out:
            request = CorpusRequest(name=corpus, out=Path(folder), local=local)
            prepare_corpus(request, lambda line: None)


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", ["ptl_cpt", "ptl_cpt_released"])
def test_a_dry_run_of_a_tiny_model_reads_the_corpora(
    small_corpora, workplace, monkeypatch, capsys, name
):
    """Everything as shipped, but for the model and the amounts that it can lose."""
    tiny_model("llama").save_pretrained(workplace / "tiny")
    tiny_tokenizer().save_pretrained(workplace / "tiny")
    words = ["model=tiny", "schedule.0.amount=2"]
    words += ["protect.top=8"] if "released" in name else []
    path = str(FOLDER / "paper" / "llama3_8b" / f"{name}.yaml")
    options = [word for each in words for word in ("--set", each)]
    monkeypatch.setattr(sys, "argv", ["ptl", "run", path, "--dry-run", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    rounds = 6 if "released" in name else 9
    assert f"{80 // rounds} texts in each of {rounds} parts" in printed.out
    assert ("sequences of data/english" in printed.out) is ("released" in name)


# --- the page ---


def test_the_page_tells_the_assumptions_of_the_hours():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    for told in (
        f"{FLOPS_PER_WEIGHT_AND_TOKEN} FLOPs for each weight and token",
        f"{A100_FLOPS / 1e12:.0f} TFLOP/s",
        f"{100 * UTILISATION:.0f} %",
        f"{TOKENS_PER_DOCUMENT['numina_metamath']} tokens",
        f"{TOKENS_PER_DOCUMENT['opc_starcoder']} tokens",
        f"{GRPO_STEP_SECONDS:.0f} seconds a step",
    ):
        assert told in text, told


def test_every_recipe_and_corpus_that_the_page_names_is_there_and_each_is_named():
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"recipes/((?:paper|ablation|code)/[\w/]+\.yaml)", text)
    assert [name for name in named if name not in FULL_SIZE] == []
    assert [name for name in FULL_SIZE if name not in named] == []
    assert {n for n in re.findall(r"ptl data (\w+)", text)} >= set(CORPORA)


TOKENS_ON_GSM8K = {"llama3_8b": 605, "gemma2_9b": 622, "qwen2_5_7b": 636}
MBPP_TOKENS = 186


def rows_of_the_page():
    """Return recipe, hours and FLOPs of each row of the page's tables that names a recipe."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "yaml`" in line]
    return [
        (name, row[2].split(" / ")[0], row[3].split(" / ")[0])
        for row in rows
        if len(row) == 5
        for name in re.findall(r"recipes/([\w/]+\.yaml)", row[1])
    ]


@pytest.mark.parametrize(("name", "hours", "flops"), rows_of_the_page())
def test_the_tables_of_the_page_have_the_hours_and_flops_of_the_recipes(
    planned, name, hours, flops
):
    plan = planned(name)
    model = name.split("/")[1]
    tokens = MBPP_TOKENS if name.startswith("code/") else TOKENS_ON_GSM8K[model]
    assert int(hours) == round(expected_hours(plan))
    end = plan.rounds[-1].geometry
    assert float(flops.removesuffix(" T")) == round(end.flops_per_token * tokens / 1e12, 1)


def test_the_page_has_a_row_for_each_recipe_of_tables_1_and_4():
    told = {name for name, _, _ in rows_of_the_page()}
    apart = ("released", "algorithm1", "cpt_then_grpo")  # no row of Tables 1 and 4
    rows = {n for n in FULL_SIZE if n.startswith(("paper/", "code/"))}
    assert told == {n for n in rows if not any(word in n for word in apart)}


def test_the_catalogue_tells_the_hours_of_the_recipes():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, path in FULL_SIZE.items():
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        cost = COST.search(header(path))
        assert cost
        assert f"| {cost[1]} hours" in row
