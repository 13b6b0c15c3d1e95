"""`ptl prune` as a user meets it: options, one line for a mistake, and no torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ptl_plugins.cli.main import build_app, main
from ptl_plugins.profile_run import ProfileRequest, run_profile
from ptl_plugins.prune_run import PruneRequest
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.scores_file import read_scores, write_scores
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

OPTIONS = {
    "--out", "--scores", "--criterion", "--neurons", "--neuron-fraction", "--neuron-threshold",
    "--target-parameters", "--target-flops", "--layers", "--drop-layers", "--layer-threshold",
    "--layer-criterion", "--multiple-of", "--protect-top", "--refit", "--family", "-p",
}  # fmt: skip
"""A new option is a decision: it goes here, into docs/checkpoints.md and into the changelog."""
PRUNE = ("prune", "model", "--scores", "scores", "--out", "out")
HEAVY = """
import atexit, sys
heavy = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "deepspeed")
atexit.register(lambda: print("HEAVY", sorted(set(heavy) & set(sys.modules))))
from ptl_plugins.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def ready(tmp_path_factory, registry):
    """A model with scores (with a protect set) and second moments."""
    folder = tmp_path_factory.mktemp("ready")
    write_tiny_checkpoint(folder / "model", "qwen2")
    write_tiny_corpus(folder / "data", num_documents=12)
    request = ProfileRequest(
        model=str(folder / "model"),
        data=str(folder / "data" / "tiny.jsonl"),
        out=folder / "scores",
        second_moments=folder / "moments",
        protect=str(folder / "data" / "tiny.jsonl"),
    )
    run_profile(request, registry, SingleProcess(), lambda *_: None)
    return folder


@pytest.fixture
def place(tmp_path, ready, monkeypatch):
    """The working directory: `model`, `scores`, `moments`."""
    for name in ("model", "scores", "moments"):
        (tmp_path / name).symlink_to(ready / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ptl(monkeypatch, capfd):
    """Run `ptl` in this process; return exit code, stdout and stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ptl", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as raised:
            main()
        out, err = capfd.readouterr()
        return raised.value.code or 0, out, err

    return run


@pytest.fixture
def requested(monkeypatch, ptl, place):
    """Return the request that words of the command line become."""
    seen = []

    class Seen(Exception):
        pass

    def run(request, registry):
        seen.append(request)
        raise Seen

    def ask(*words):
        monkeypatch.setattr("ptl_plugins.prune_run.run_prune", run)
        monkeypatch.setattr(sys, "argv", ["ptl", *PRUNE, *map(str, words)])
        with pytest.raises(Seen):
            main()
        return seen.pop()

    return ask


def sizes(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config["intermediate_size"], config["num_hidden_layers"]


def listing(folder):
    return {p: (p.is_dir(), p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def process(*words):
    """Run `ptl` as a process of its own; also return the heavy modules that it imported."""
    command = [sys.executable, "-c", HEAVY, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    out, _, imported = done.stdout.rpartition("HEAVY ")
    return done.returncode, out, done.stderr, imported.strip()


def test_every_option_is_known():
    command = typer.main.get_command(build_app()).commands["prune"]
    named = {name for option in command.params for name in option.opts if name.startswith("-")}
    assert named == OPTIONS
    assert [p.name for p in command.params if p.required] == ["model", "out"]


def test_every_option_is_in_the_docs():
    page = Path(__file__).parents[2] / "docs" / "checkpoints.md"
    text = page.read_text(encoding="utf-8").split("## ptl prune")[1].split("## The refit")[0]
    assert {name for name in OPTIONS - {"-p"} if f"`{name} " not in text} == set()


def test_it_prints_one_line_with_the_sizes(place, ptl):
    assert ptl(*PRUNE, "--neurons", "8", "--layers", "1") == (
        0,
        "out: width 48 -> 40, layers 5 -> 4, parameters 55,456 -> 44,576 (80.4%)\n",
        "",
    )
    assert sizes(place / "out") == (40, 4)
    assert sorted(p.name for p in place.iterdir()) == ["model", "moments", "out", "scores"]


def test_a_refit_is_told_at_the_end_of_the_line(place, ptl):
    code, out, err = ptl(*PRUNE, "--neuron-fraction", "0.25", "--refit", "moments")
    assert (code, err) == (0, "")
    assert out.startswith("out: width 48 -> 36, layers 5 -> 5, ")
    assert out.endswith("%), refitted\n")


@pytest.mark.parametrize(
    ("words", "unit", "selector", "amount"),
    [
        (["--neurons", "8"], "neuron", "count", 8.0),
        (["--neuron-fraction", "0.25"], "neuron", "fraction", 0.25),
        (["--neuron-threshold", "1e-3"], "neuron", "threshold", 0.001),
        (["--target-parameters", "0.8"], "neuron", "parameters", 0.8),
        (["--target-parameters", "40K"], "neuron", "parameters", 40_000.0),
        (["--target-parameters", "5B"], "neuron", "parameters", 5e9),
        (["--target-flops", "0.5"], "neuron", "flops", 0.5),
        (["--layers", "2"], "layer", "count", 2.0),
        (["--layer-threshold", "0.5"], "layer", "threshold", 0.5),
    ],
)
def test_each_amount_becomes_its_cut(requested, words, unit, selector, amount):
    (cut,) = requested(*words).cuts
    criterion = {"neuron": "output_change", "layer": "l2"}[unit]
    assert (cut.unit, cut.selector, cut.amount, cut.criterion) == (
        unit, selector, amount, criterion,
    )  # fmt: skip


def test_every_other_option_reaches_the_request(requested):
    request = requested(
        "--neurons", "8", "--criterion", "released", "--layers", "1", "--layer-criterion",
        "last", "--multiple-of", "4", "--protect-top", "0", "--refit", "moments",
    )  # fmt: skip
    assert [(c.unit, c.criterion) for c in request.cuts] == [
        ("layer", "last"),
        ("neuron", "released"),
    ]
    assert (request.model, request.out, request.scores) == ("model", Path("out"), Path("scores"))
    assert (request.multiple_of, request.protect_top) == (4, 0)
    assert (request.refit, request.drop_layers) == (Path("moments"), ())


def test_what_is_left_out_is_the_librarys_default(requested):
    request = requested("--drop-layers", "3, 1")
    assert request == PruneRequest(
        model="model", out=Path("out"), scores=Path("scores"), cuts=(), drop_layers=(3, 1)
    )


def test_layers_and_neurons_go_together_and_a_target_counts_the_layers(place, ptl):
    ptl(*PRUNE, "--target-parameters", "0.7")
    ptl(*PRUNE[:-1], "both", "--target-parameters", "0.7", "--drop-layers", "1")
    assert sizes(place / "both")[0] > sizes(place / "out")[0]
    assert sizes(place / "both")[1] == 4


def test_a_model_type_that_no_family_lists_needs_one_named(place, ptl):
    copy = shutil.copytree(place / "model", place / "own")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**config, "model_type": "own_qwen"})
    (copy / "config.json").write_text(text, encoding="utf-8")
    words = ["prune", "own", "--out", "out", "--drop-layers", "0"]
    assert ptl(*words)[0] == 2
    assert ptl(*words, "--family", "qwen2")[0] == 0
    assert sizes(place / "out") == (48, 4)


def test_scores_are_not_needed_where_none_decides(place, ptl):
    words = ["prune", "model", "--out"]
    assert ptl(*words, "one", "--drop-layers", "0")[0] == 0
    assert ptl(*words, "two", "--layers", "2", "--layer-criterion", "last")[0] == 0


MISTAKES = {
    "nothing asked for": ([], "prune: nothing to cut; give one of --neurons, "),
    "no such model": (["no/such/model"], "model 'no/such/model': no such folder"),
    "target is there": (["--out", "model", "--layers", "1"], "model: is there already; remove it"),
    "target under a file": (["--out", "scores/x", "--layers", "1"], "scores/x: not written"),
    "no such scores": (["--scores", "no", "--layers", "1"], "no: cannot be read as scores ("),
    "no scores file": (["--scores", "model/LICENSE", "--layers", "1"], "cannot be read as scores"),
    "no such moments": (["--neurons", "1", "--refit", "no"], "layer_000.safetensors: no such seco"),
    "two of neurons": (
        ["--neurons", "1", "--target-flops", "0.5"],
        "prune: --neurons and --target-flops exclude each other; give one",
    ),
    "two of layers": (["--layers", "1", "--drop-layers", "2"], "--layers and --drop-layers exclud"),
    "no number": (["--neurons", "many"], "--neurons: 'many' is not a number of 0 or more"),
    "no text": (["--neurons", ""], "prune: --neurons: '' is not a number of 0 or more"),
    "no such family": (["--layers", "1", "--family", "lama"], "(did you mean 'llama'?)"),
    "not finite": (["--neuron-threshold", "inf"], "'inf' is not a number of 0 or more"),
    "no whole number": (["--neurons", "1.5"], "--neurons: 1.5 is not a whole number"),
    "below 0": (["--layers", "-1"], "--layers: '-1' is not a number of 0 or more"),
    "fraction of 1": (["--neuron-fraction", "1"], "--neuron-fraction: 1.0 is not below 1"),
    "target of 1": (["--target-flops", "1"], "--target-flops: 1 is not a ratio of the original"),
    "target of few": (["--target-parameters", "30"], "30 is not a ratio of the original between"),
    "no list": (["--drop-layers", "1-3"], "--drop-layers: '1-3' is not a list of layers such as"),
    "empty list": (["--drop-layers", ""], "--drop-layers: '' is not a list of layers such as 3,7"),
    "no such layer": (["--drop-layers", "5"], "--drop-layers 5: is not allowed; give each layer "),
    "unknown criterion": (
        ["--neurons", "1", "--criterion", "output_chagne"],
        "unknown criterion 'output_chagne' (did you mean 'output_change'?)",
    ),
    "criterion of layers": (
        ["--neurons", "1", "--criterion", "l2"],
        "prune: criterion 'l2' scores layers, not neurons; 'ptl ls criteria' lists them",
    ),
    "criterion of neurons": (
        ["--layers", "1", "--layer-criterion", "released"],
        "prune: criterion 'released' scores neurons, not layers",
    ),
    "criterion without a cut": (
        ["--layers", "1", "--criterion", "released"],
        "prune: --criterion is of no use without one of --neurons, --neuron-fraction, ",
    ),
    "layer criterion without a cut": (
        ["--drop-layers", "1", "--layer-criterion", "l2"],
        "prune: --layer-criterion is of no use without one of --layers, --layer-threshold",
    ),
    "multiple without a cut": (["--layers", "1", "--multiple-of", "8"], "--multiple-of is of no "),
    "protect without a cut": (["--layers", "1", "--protect-top", "8"], "--protect-top is of no u"),
    "refit without a cut": (["--layers", "1", "--refit", "moments"], "--refit is of no use witho"),
    "nothing left": (["--neurons", "48"], "only 48 and one has to stay: 1 too many"),
    "nothing goes": (["--neurons", "0"], "no neuron would be removed: count 0 comes to none"),
    "rounded away": (["--neurons", "3", "--multiple-of", "8"], "or --multiple-of 8 rounds it awa"),
    "no such plugin": (["--layers", "1", "-p", "not_there"], "-p not_there: no module named"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_with_exit_code_2_and_nothing_is_written(place, ptl, case):
    words, told = MISTAKES[case]
    command = list(PRUNE)
    if words and not words[0].startswith("-"):
        command[1], words = words[0], ["--layers", "1"]
    before = listing(place)
    code, out, err = ptl(*command, *words)
    assert (code, out) == (2, "")
    assert err.startswith("ptl: ")
    assert told in err
    assert err.count("\n") == 1
    assert listing(place) == before


@pytest.mark.parametrize(
    "words",
    [
        ["--multiple-of", "0"], ["--multiple-of", "x"], ["--protect-top", "-1"],
        ["--neuron-number", "3"], ["--samples", "3"],
    ],
)  # fmt: skip
def test_a_wrong_option_is_exit_code_2_without_a_traceback(place, ptl, words):
    before = listing(place)
    code, out, err = ptl(*PRUNE, "--neurons", "8", *words)
    assert (code, out) == (2, "")
    assert words[0] in err
    assert "Traceback" not in err
    assert listing(place) == before


def test_without_scores_the_command_that_makes_them_is_told(place, ptl):
    code, _, err = ptl("prune", "model", "--out", "out", "--neurons", "8")
    assert code == 2
    assert err == (
        "ptl: criterion 'output_change' needs --scores; make them with: ptl profile model "
        "--data ... --out scores.safetensors\n"
    )


def test_scores_of_a_runs_round_are_refused_by_what_they_lack(place, ptl):
    write_scores(place / "round", read_scores(place / "scores")[0])
    code, _, err = ptl(*PRUNE, "--scores", "round", "--neurons", "8")
    assert code == 2
    assert "round: the scores do not say which model they are of" in err


def test_the_default_protects_what_the_protect_set_of_the_scores_needs(place, ptl):
    code, _, err = ptl(*PRUNE, "--neurons", "47")
    assert code == 2
    assert "only 46 of 48 are not protected: 1 too many; protect fewer" in err
    assert ptl(*PRUNE, "--neurons", "47", "--protect-top", "0")[0] == 0


def test_neither_torch_nor_transformers_is_imported_without_a_refit(place):
    for words, code in (
        ([*PRUNE, "--neurons", "8", "--layers", "1"], 0),
        ([*PRUNE, "--neurons", "8"], 2),
        ([*PRUNE[:-1], "new", "--neurons", "8", "--criterion", "no"], 2),
        ([*PRUNE[:-1], "third", "--target-parameters", "0.8", "--drop-layers", "0,2"], 0),
    ):
        returned, out, err, imported = process(*words)
        assert (returned, imported) == (code, "[]"), err
        assert bool(out) is (code == 0)
        assert err.count("\n") == (1 if code else 0)
        assert "Traceback" not in err
    assert sizes(place / "out") == (40, 4)


def test_with_a_refit_torch_is(place):
    returned, _, err, imported = process(*PRUNE, "--neurons", "8", "--refit", "moments")
    assert returned == 0, err
    assert "torch" in imported, "else the test before this one shows nothing"
