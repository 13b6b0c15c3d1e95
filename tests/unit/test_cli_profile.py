"""`ptl profile` as a user meets it: what it prints, what it refuses, kill -9, and torchrun."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from safetensors import safe_open

from ptl_plugins import text_data
from ptl_plugins.cli.main import build_app, main
from ptl_plugins.scores_file import read_scores
from ptl_plugins.testing import tiny_texts, write_tiny_checkpoint, write_tiny_corpus

OPTIONS = {
    "--data", "--out", "--samples", "--max-length", "--batch-tokens", "--second-moments",
    "--gradients", "--protect", "--column", "--template", "--split", "--seed", "--family", "-p",
}  # fmt: skip
"""A new option is a decision: it goes here, into docs/checkpoints.md and into the changelog."""
PROFILE = ("profile", "model", "--data", "data/tiny.jsonl", "--out", "scores")
PLUGIN = """
from ptl_plugins.criteria import Statistic, StatisticCriterion
from ptl_plugins.markers import hookimpl

LEAST = Statistic(name="least", site="neuron", merge="sum",
                  measure=lambda act: act.abs().amin(dim=0))

@hookimpl
def ptl_register(registry):
    formula = lambda scores: scores.statistics["least"]
    registry.criteria.add("least", StatisticCriterion(
        unit="neuron", statistics=(LEAST,), formula=formula))
"""
DYING = """
import os, signal, sys
from ptl_plugins import profile_journal
from ptl_plugins.tally import MomentTally, StatisticTally

profile_journal.FileJournal.__init__.__kwdefaults__["interval"] = 0.0
profile_journal.SHARE = float("inf")
last, seen = int(sys.argv.pop(1)), 0

def deadly(see):
    def dying(self, site, layer, *words):
        global seen
        see(self, site, layer, *words)
        seen += site == "neuron" and layer == 2
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
    return dying

StatisticTally.see = deadly(StatisticTally.see)

from ptl_plugins.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def place(tmp_path, model, monkeypatch):
    """The working directory: `model` and `data`."""
    (tmp_path / "model").symlink_to(model)
    write_tiny_corpus(tmp_path / "data", num_documents=12)
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


def listing(folder):
    """Return every file with its time and size, and every folder."""
    return {p: (p.is_dir(), p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def start(*command):
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )


def test_every_option_is_known():
    command = typer.main.get_command(build_app()).commands["profile"]
    named = {name for option in command.params for name in option.opts if name.startswith("-")}
    assert named == OPTIONS
    assert [p.name for p in command.params if p.required] == ["model", "data", "out"]


def test_every_option_is_in_the_docs():
    page = Path(__file__).parents[2] / "docs" / "checkpoints.md"
    text = page.read_text(encoding="utf-8").split("## ptl profile")[1].split("## ptl prune")[0]
    assert {name for name in OPTIONS - {"-p"} if f"`{name}" not in text} == set()


def test_the_defaults_are_those_of_the_library():
    from ptl_plugins.profile_run import ProfileRequest

    for parameter in typer.main.get_command(build_app()).commands["profile"].params:
        if parameter.name in ProfileRequest.__dataclass_fields__ and not parameter.required:
            field = ProfileRequest.__dataclass_fields__[parameter.name]
            assert parameter.default == field.default, parameter.name


def test_it_prints_one_line_and_the_progress_apart(place, ptl):
    tokens = read_tokens(place)
    code, out, err = ptl(*PROFILE)
    assert code == 0
    assert out == f"scores: scores written: {tokens} tokens of 12 texts, 13 statistics\n"
    assert "profile" in err
    assert "1/1" in err
    assert sorted(p.name for p in place.iterdir()) == ["data", "model", "scores"]


def read_tokens(place):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    lines = (place / "data" / "tiny.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(len(tokenizer(json.loads(line)["text"])["input_ids"]) for line in lines)


def test_again_it_says_that_the_scores_are_there_already(place, ptl):
    ptl(*PROFILE)
    before = listing(place)
    code, out, err = ptl(*PROFILE)
    assert (code, err.strip()) == (0, "")
    assert out.startswith("scores: scores were there already: ")
    assert listing(place) == before


def test_every_option_reaches_the_profile(place, ptl):
    rows = [{"q": text, "a": "yes"} for text in tiny_texts(20, seed=3)]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = [
        "profile", "model", "--data", "rows.jsonl", "--out", "new/scores", "--samples", "7",
        "--max-length", "10", "--batch-tokens", "20", "--template", "{q} {a}", "--seed", "4",
        "--protect", "data/tiny.jsonl", "--second-moments", "new/moments",
    ]  # fmt: skip
    code, out, err = ptl(*words)
    assert (code, out) == (0, "new/scores: scores written: 70 tokens of 7 texts, 13 statistics\n")
    assert "4/4" in err, "batches of two"
    scores, about = read_scores(place / "new" / "scores")
    assert (scores.num_sequences, scores.protect.num_sequences) == (7, 7)
    assert set(about) == {"model_digest", "data_digest", "protect_digest"}
    assert len(list((place / "new" / "moments").iterdir())) == 5
    for other in (["--seed", "5"], ["--template", "{a} {q}"]):
        ptl(*words[:5], "again", *words[6:-4], *other)
        assert read_scores(place / "again")[1]["data_digest"] != about["data_digest"]
        (place / "again").unlink()


def test_split_column_and_template_are_of_the_main_corpus(place, ptl, monkeypatch):
    asked = []

    def read(data, **keys):
        asked.append((data, keys["split"], keys["column"], keys["template"]))
        return ["1 + 1 = 2."]

    monkeypatch.setattr(text_data, "read_texts", read)
    words = [
        "--data", "owner/name:config", "--split", "test", "--column", "c", "--template", "{c}",
        "--protect", "owner/other",
    ]  # fmt: skip
    assert ptl(*PROFILE, *words)[0] == 0
    assert asked == [
        ("owner/name:config", "test", "c", "{c}"),
        ("owner/other", "train", "text", None),
    ]


def test_backslash_n_and_t_in_a_template_are_new_line_and_tab(place, ptl, monkeypatch):
    asked = []
    monkeypatch.setattr(
        text_data, "read_texts", lambda data, **keys: asked.append(keys["template"]) or ["1 + 1"]
    )
    words = shlex.split(r"--template 'Q: {q}\nA:\t{a} \\neq \boxed{}'")
    assert ptl(*PROFILE, *words)[0] == 0
    assert asked == ["Q: {q}\nA:\t{a} \\neq \\boxed{}"]


def test_a_family_is_named_for_a_model_type_of_ones_own(place, ptl):
    code, _, err = ptl(*PROFILE, "--family", "phi3")
    assert (code, "family 'phi3' does not fit model_type 'llama'" in err) == (2, True)
    assert ptl(*PROFILE, "--family", "llama")[0] == 0


def test_a_column_is_named(place, ptl):
    rows = [{"q": text} for text in tiny_texts(5)]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    code, _, err = ptl(*PROFILE, "--data", "rows.jsonl")
    assert code == 2
    assert err.startswith("ptl: data 'rows.jsonl': has no column 'text'; it has q; ")
    assert ptl(*PROFILE, "--data", "rows.jsonl", "--column", "q")[0] == 0


def test_gradients_are_gathered_where_they_are_asked_for(place, ptl):
    code, out, _ = ptl(*PROFILE)
    assert (code, out.split(", ")[-1]) == (0, "13 statistics\n")
    code, out, err = ptl(*PROFILE, "--gradients")
    told = "scores: holds scores without the statistic 'neuron_taylor_sum' already; name another"
    assert (code, out) == (2, "")
    assert told in err
    more = [*PROFILE[:5], "more"]
    code, out, _ = ptl(*more, "--gradients", "--protect", "data/tiny.jsonl")
    assert (code, out.split(", ")[-1]) == (0, "14 statistics\n")
    found, plain = (read_scores(place / name)[0] for name in ("more", "scores"))
    assert found.statistics.keys() - plain.statistics.keys() == {"neuron_taylor_sum"}
    assert "neuron_taylor_sum" in found.protect.statistics
    code, out, _ = ptl(*more, "--protect", "data/tiny.jsonl")
    assert (code, out[:32]) == (0, "more: scores were there already:")


def test_scores_with_gradients_serve_the_criterion_taylor(place, ptl):
    ptl(*PROFILE, "--gradients")
    words = ["prune", "model", "--scores", "scores", "--out", "out", "--neurons", "8"]
    code, _, err = ptl(*words, "--criterion", "taylor")
    assert (code, err) == (0, "")
    about = json.loads((place / "out" / "ptl_pruning.json").read_text(encoding="utf-8"))
    assert "taylor" in json.dumps(about)


def test_a_plugins_criterion_is_profiled_too(place, ptl, monkeypatch):
    (place / "my_criterion.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(place)
    code, out, _ = ptl(*PROFILE, "-p", "my_criterion")
    assert code == 0
    assert out.endswith("14 statistics\n")
    assert "least" in read_scores(place / "scores")[0].statistics


REFUSED = {
    "no such model": (["--out", "s"], ["nowhere/at/all"], "model 'nowhere/at/all': no such folder"),
    "no such data": (["--data", "no.jsonl"], [], "data 'no.jsonl': no such file"),
    "data of another kind": (["--data", "model/LICENSE"], [], "data 'model/LICENSE': not one of"),
    "no such column": (["--column", "body"], [], "has no column 'body'; it has text; name one"),
    "template without a column": (["--template", "x"], [], "template 'x' names no column in bra"),
    "no such protect corpus": (["--protect", "no.txt"], [], "--protect (whose column has to be"),
    "out is a folder": (
        ["--out", "data"],
        [],
        "--out data: is there already, and is no scores file; name ano",
    ),
    "out holds something else": (
        ["--out", "data/tiny.jsonl"],
        [],
        "--out data/tiny.jsonl: is there al",
    ),
    "out under a file": (["--out", "data/tiny.jsonl/s"], [], "--out: the folder data/tiny.jsonl c"),
    "moments in a file": (["--second-moments", "data/tiny.jsonl"], [], "--second-moments: the fol"),
    "no such plugin": (["-p", "not_there"], [], "-p not_there: no module named 'not_there'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_line_with_exit_code_2_and_nothing_is_written(place, ptl, case):
    words, other_model, told = REFUSED[case]
    before = listing(place)
    code, out, err = ptl("profile", *(other_model or ["model"]), *PROFILE[2:], *words)
    assert (code, out) == (2, "")
    assert err.startswith("ptl: ")
    assert told in err
    assert err.count("\n") == 1
    assert listing(place) == before


def test_other_scores_are_refused_and_left_alone(place, ptl):
    ptl(*PROFILE)
    before = listing(place)
    code, out, err = ptl(*PROFILE, "--samples", "5")
    assert (code, out) == (2, "")
    assert err == (
        "ptl: scores: holds scores of other data (or of other --samples, --max-length, --seed) "
        "already; name another file with --out, or remove it\n"
    )
    assert listing(place) == before


@pytest.mark.parametrize(
    "words",
    [
        ["--samples", "0"], ["--max-length", "0"], ["--batch-tokens", "-1"], ["--seed", "-1"],
        ["--samples", "many"], ["--protect-top", "3"],
    ],
)  # fmt: skip
def test_a_wrong_number_or_option_is_exit_code_2(place, ptl, words):
    before = listing(place)
    code, out, err = ptl(*PROFILE, *words)
    assert (code, out) == (2, "")
    assert words[0] in err
    assert "Traceback" not in err
    assert listing(place) == before


@pytest.mark.parametrize("missing", ["--data", "--out"])
def test_data_and_out_are_needed(place, ptl, missing):
    at = PROFILE.index(missing)
    code, _, err = ptl(*PROFILE[:at], *PROFILE[at + 2 :])
    assert code == 2
    assert f"Missing option '{missing}'" in err


@pytest.mark.parametrize("more", [[], ["--gradients"]])
def test_after_kill_9_the_same_command_goes_on(place, ptl, more):
    words = [*PROFILE, *more, "--batch-tokens", "128", "--second-moments", "moments"]
    killed = start(sys.executable, "-c", DYING, "2", *words)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = sorted(path.name for path in place.glob("scores*"))
    assert left == ["scores.0.ptl-part", "scores.lock.ptl-part"]
    code, out, err = ptl(*words)
    assert (code, out[:23]) == (0, "scores: scores written:")
    assert "3/3" in err
    assert not list(place.glob("*ptl-*"))
    ptl(*[*words[:5], "whole", *words[6:-1], "moments2"])
    assert (place / "scores").read_bytes() == (place / "whole").read_bytes()
    for layer in (place / "moments").iterdir():
        assert layer.read_bytes() == (place / "moments2" / layer.name).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_torchrun_gives_what_one_process_gives(place, ptl):
    more = ["--batch-tokens", "128", "--second-moments", "moments", "--protect", "data/prot.jsonl",
            "--gradients"]  # fmt: skip
    rows = [json.dumps({"text": text}) for text in tiny_texts(8, seed=7)]
    (place / "data" / "prot.jsonl").write_text("\n".join(rows), encoding="utf-8")
    torchrun = Path(sys.executable).with_name("torchrun")
    done = start(torchrun, "--nproc-per-node", 2, "-m", "ptl_plugins", *PROFILE, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("scores written") == 1, "only the main rank prints"
    assert done.stderr.count("protect") == 1
    assert not list(place.glob("*ptl-*"))
    one = [*PROFILE[:5], "one", *more[:3], "moments1", *more[4:]]
    code, out, _ = ptl(*one)
    assert (code, out.split(": ", 1)[1]) == (0, done.stdout.split(": ", 1)[1])
    (two, about), (alone, same) = read_scores(place / "scores"), read_scores(place / "one")
    assert about == same
    for ours, theirs in ((two, alone), (two.protect, alone.protect)):
        assert ours.statistics.keys() == theirs.statistics.keys()
        assert (ours.num_tokens, ours.num_sequences) == (theirs.num_tokens, theirs.num_sequences)
        for name, value in theirs.statistics.items():
            close = {"rtol": 1e-4, "atol": 1e-4}
            torch.testing.assert_close(
                torch.tensor(ours.statistics[name]), torch.tensor(value), **close, msg=name
            )
    for layer in sorted((place / "moments1").iterdir()):
        with safe_open(layer, "pt") as first, safe_open(place / "moments" / layer.name, "pt") as b:
            assert first.metadata() == b.metadata()
            first_moment, second_moment = (f.get_tensor("second_moment") for f in (first, b))
            torch.testing.assert_close(first_moment, second_moment, rtol=1e-4, atol=1e-5)
