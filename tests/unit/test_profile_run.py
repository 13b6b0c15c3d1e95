"""`ptl profile` in this process: the scores of the live model, goes on when killed, refusals."""

from __future__ import annotations

import functools
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptl_plugins import profile_journal, profile_run, second_moments, text_data
from ptl_plugins.calibration import Batches
from ptl_plugins.criteria import forward_statistics, needed_statistics
from ptl_plugins.errors import PruneError, PTLError
from ptl_plugins.families import find_family
from ptl_plugins.model_digest import model_digest
from ptl_plugins.profile_journal import FileJournal
from ptl_plugins.profile_run import ProfileRequest, run_profile
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.scores_file import read_scores, write_scores
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.tally import MomentTally, StatisticTally
from ptl_plugins.tensor_file import metadata_of
from ptl_plugins.testing import TINY, tiny_texts, write_tiny_checkpoint
from ptl_plugins.text_data import data_digest

NUMBER, TOKENS = 12, 128
BATCHES, PROTECT_BATCHES = 3, 2
"""What `NUMBER` texts, and 8 others, make of `TOKENS` tokens a batch."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Tiny checkpoints, each written once."""
    root = tmp_path_factory.mktemp("models")

    @functools.cache
    def write(model_type="llama", seed=0):
        return write_tiny_checkpoint(root / f"{model_type}{seed}", model_type, seed=seed)

    return write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two corpora; the first has its text in two columns as well."""
    folder = tmp_path_factory.mktemp("data")
    for name, number, seed in (("main", NUMBER, 0), ("other", 8, 7)):
        rows = []
        for text in tiny_texts(number, seed=seed):
            question, answer = text.split("\n", 1)
            rows.append(json.dumps({"text": text, "question": question, "answer": answer}))
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return SimpleNamespace(main=str(folder / "main.jsonl"), other=str(folder / "other.jsonl"))


@pytest.fixture
def go(checkpoint, data, registry, tmp_path):
    """Run a profile of the llama into `tmp_path / "scores"`; keys override the request."""

    def run(*, ranks=None, report=lambda *_: None, **keys):
        facts = {
            "model": str(checkpoint()),
            "data": data.main,
            "out": tmp_path / "scores",
            "batch_tokens": TOKENS,
        }
        request = ProfileRequest(**{**facts, **keys})
        return run_profile(request, registry, ranks or SingleProcess(), report)

    return run


@pytest.fixture
def ran(monkeypatch):
    """The numbers of the batches that the model is given."""
    numbers, give = [], Batches.__getitem__

    def noted(self, index):
        numbers.append(index)
        return give(self, index)

    monkeypatch.setattr(Batches, "__getitem__", noted)
    return numbers


@pytest.fixture
def no_model(monkeypatch):
    """Call it where from then on the model must not be loaded."""

    def refuse(folder):
        raise AssertionError("the model was loaded")

    def start():
        monkeypatch.setattr(profile_run, "_load", refuse)

    return start


@pytest.fixture
def one_layer(monkeypatch):
    """So little memory that second moments are gathered layer by layer."""
    monkeypatch.setattr(second_moments, "free_memory", lambda device: 1)


def texts_of(path, form="{text}"):
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        return [form.format(**json.loads(line)) for line in file]


def tokens_of(folder, texts, max_length=1024):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text)["input_ids"][:max_length] for text in texts]


def live(folder, registry, sequences, moments=None, without=()):
    """Profile the model as anybody would who has it in memory."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    family = find_family(registry, model.config.to_dict())
    statistics = forward_statistics(needed_statistics([c for _, c in registry.criteria.items()]))
    statistics = [s for s in statistics if s.site not in without]
    batches = Batches(sequences, batch_tokens=TOKENS, device=torch.device("cpu"))
    return profile(model, family, batches, statistics, SingleProcess(), moments=moments)


def assert_same(one, two):
    assert one.statistics.keys() == two.statistics.keys()
    for name, value in one.statistics.items():
        assert value.tobytes() == two.statistics[name].tobytes(), name
    sizes = [(s.num_layers, s.width, s.num_tokens, s.num_sequences) for s in (one, two)]
    assert sizes[0] == sizes[1]
    assert (one.protect is None) == (two.protect is None)
    if one.protect is not None:
        assert_same(one.protect, two.protect)


def content(path):
    """Return what a safetensors file holds; the order of its metadata is anybody's guess."""
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        return metadata_of(file), {n: (t.shape, t.tobytes()) for n, t in tensors.items()}


def contents(folder):
    return {str(p.relative_to(folder)): content(p) for p in folder.rglob("*") if p.is_file()}


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("model_type", sorted(TINY))
def test_scores_are_those_of_the_live_model(go, checkpoint, data, registry, tmp_path, model_type):
    folder = checkpoint(model_type)
    scores, was_there = go(model=str(folder))
    sequences = tokens_of(folder, texts_of(data.main))
    expected = live(folder, registry, sequences)
    read, about = read_scores(tmp_path / "scores")
    assert not was_there
    assert_same(scores, expected)
    assert_same(read, expected)
    assert read.num_sequences == NUMBER
    assert about == {
        "model_digest": model_digest(open_checkpoint(folder)),
        "data_digest": data_digest(sequences),
    }


@pytest.mark.parametrize(
    ("keys", "form"),
    [
        ({"column": "answer"}, "{answer}"),
        ({"template": "Q: {question}\nA: {answer}"}, "Q: {question}\nA: {answer}"),
    ],
)
def test_a_column_or_a_template_says_which_text(go, checkpoint, data, registry, keys, form):
    scores, _ = go(**keys)
    sequences = tokens_of(checkpoint(), texts_of(data.main, form))
    assert_same(scores, live(checkpoint(), registry, sequences))


def test_texts_are_cut_to_max_length(go, checkpoint, data, registry):
    scores, _ = go(max_length=9)
    sequences = tokens_of(checkpoint(), texts_of(data.main), max_length=9)
    assert max(map(len, sequences)) == 9
    assert_same(scores, live(checkpoint(), registry, sequences))


def test_samples_and_seed_choose_the_texts(go, checkpoint, data, tmp_path):
    everything = tokens_of(checkpoint(), texts_of(data.main))
    digests = set()
    for seed in (0, 1, 2):
        scores, _ = go(samples=4, seed=seed, out=tmp_path / str(seed))
        assert scores.num_sequences == 4
        assert scores.num_tokens < sum(map(len, everything))
        digests.add(read_scores(tmp_path / str(seed))[1]["data_digest"])
    assert len(digests) == 3


@pytest.mark.parametrize("batch_tokens", [TOKENS, 10_000])
def test_batch_tokens_bounds_the_batches_and_every_batch_is_reported(go, ran, batch_tokens):
    told = []
    go(batch_tokens=batch_tokens, report=lambda *words: told.append(words))
    number = BATCHES if batch_tokens == TOKENS else 1
    assert told == [("profile", done, number) for done in range(1, number + 1)]
    assert ran == list(range(number))


def test_the_same_request_again_finds_its_work_done(go, tmp_path, no_model, data):
    scores, _ = go(protect=data.other)
    before = snapshot(tmp_path)
    no_model()
    again, was_there = go(protect=data.other, batch_tokens=50)
    assert was_there
    assert_same(again, scores)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("other", ["data", "model", "protect"])
def test_other_scores_are_never_overwritten(go, tmp_path, no_model, checkpoint, data, other):
    go()
    before = snapshot(tmp_path)
    no_model()
    changed = {"data": data.other, "model": str(checkpoint(seed=1)), "protect": data.other}
    told = {
        "data": r"of other data \(or of other --samples",
        "model": "of another model",
        "protect": "with another --protect corpus",
    }
    with pytest.raises(PruneError, match=rf"scores: holds scores {told[other]}.* already; name an"):
        go(**{other: changed[other]})
    assert snapshot(tmp_path) == before


def test_scores_that_lack_a_statistic_are_not_taken_for_done(go, tmp_path, no_model):
    scores, about = go()[0], read_scores(tmp_path / "scores")[1]
    scores.statistics.pop("neuron_abs_max")
    write_scores(tmp_path / "scores", scores, about)
    no_model()
    with pytest.raises(PruneError, match="without the statistic 'neuron_abs_max' already; name"):
        go()


def test_second_moments_are_written_layer_by_layer(go, checkpoint, data, registry, tmp_path):
    scores, _ = go(second_moments=tmp_path / "moments")
    sequences = tokens_of(checkpoint(), texts_of(data.main))
    about = read_scores(tmp_path / "scores")[1]
    expected = MomentFolder(path=tmp_path / "live", about=about)
    assert_same(scores, live(checkpoint(), registry, sequences, moments=expected))
    assert sorted(p.name for p in (tmp_path / "moments").iterdir()) == [
        f"layer_00{i}.safetensors" for i in range(5)
    ]
    assert contents(tmp_path / "moments") == contents(tmp_path / "live")
    assert content(tmp_path / "moments" / "layer_004.safetensors")[0] == about


def test_moments_can_be_made_later_and_are_the_same(
    go, tmp_path, ran, one_layer, no_model, monkeypatch
):
    go(second_moments=tmp_path / "at_once")
    shutil.move(tmp_path / "scores", tmp_path / "first")
    go()
    before, number = snapshot(tmp_path), len(ran)
    monkeypatch.setattr(StatisticTally, "see", None)  # nothing is measured again
    scores, was_there = go(second_moments=tmp_path / "later")
    assert was_there
    assert_same(scores, read_scores(tmp_path / "first")[0])
    assert len(ran) - number == 5 * BATCHES
    assert snapshot(tmp_path).items() >= before.items(), "the scores were left alone"
    assert contents(tmp_path / "later") == contents(tmp_path / "at_once")
    no_model()
    assert go(second_moments=tmp_path / "later")[1], "nothing is missing, nothing is loaded"


def test_only_the_layers_that_are_missing_are_made_again(go, tmp_path, ran):
    moments = tmp_path / "moments"
    go(second_moments=moments)
    whole = contents(moments)
    (moments / "layer_002.safetensors").unlink()
    before, number = snapshot(moments), len(ran)
    go(second_moments=moments)
    assert len(ran) - number == BATCHES
    assert snapshot(moments).items() >= before.items()
    assert contents(moments) == whole


def test_moments_of_other_data_are_refused_before_any_work(go, tmp_path, no_model, data):
    go(second_moments=tmp_path / "moments")
    before = snapshot(tmp_path)
    no_model()
    with pytest.raises(PruneError, match=r"layer_000.safetensors: was made from another data"):
        go(data=data.other, out=tmp_path / "new", second_moments=tmp_path / "moments")
    assert snapshot(tmp_path) == before


def test_a_second_corpus_is_kept_with_the_scores(go, checkpoint, data, registry, tmp_path):
    told = []
    go(protect=data.other, column="answer", report=lambda *words: told.append(words))
    sequences = tokens_of(checkpoint(), texts_of(data.other))
    read, about = read_scores(tmp_path / "scores")
    assert_same(read.protect, live(checkpoint(), registry, sequences, without=("layer",)))
    main = tokens_of(checkpoint(), texts_of(data.main, "{answer}"))
    assert read.num_tokens == sum(map(len, main)), "--column is of the main corpus"
    assert about["data_digest"] == data_digest(main)
    assert about["protect_digest"] == data_digest(sequences)
    assert [words[0] for words in told[:PROTECT_BATCHES]] == ["protect"] * PROTECT_BATCHES
    assert told[-1][0] == "profile"


class Killed(BaseException):
    """As sudden as a signal: nothing catches it."""


@pytest.fixture
def deadly(monkeypatch, ran):
    """Keep the totals after every batch, and die in the middle of a batch."""
    monkeypatch.setitem(FileJournal.__init__.__kwdefaults__, "interval", 0.0)
    monkeypatch.setattr(profile_journal, "SHARE", math.inf)
    state = SimpleNamespace(batch=None)

    def dying(see):
        def seen(self, site, layer, *words):
            see(self, site, layer, *words)
            if len(ran) == state.batch and layer == self.layers[len(self.layers) // 2]:
                raise Killed

        return seen

    for tally in (StatisticTally, MomentTally):
        monkeypatch.setattr(tally, "see", dying(tally.see))

    def run(batch, action):
        """Run `action` until it has begun its batch number `batch`, from 1."""
        ran.clear()
        state.batch = batch
        with pytest.raises(Killed):
            action()
        state.batch = None
        ran.clear()

    return run


@pytest.fixture
def undisturbed(go, tmp_path, ran, data):
    """Return what a run that nobody kills leaves, and the batches it runs."""

    def run(**keys):
        folder = tmp_path / "undisturbed"
        ran.clear()
        go(**{**keys, "out": folder / "scores", "second_moments": folder / "moments"})
        return contents(folder), list(ran)

    return run


FULL = PROTECT_BATCHES + 5 * BATCHES


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(1, id="in the protect pass, nothing kept"),
        pytest.param(2, id="in the protect pass"),
        pytest.param(3, id="after the protect pass"),
        pytest.param(5, id="in the first pass"),
        pytest.param(6, id="between two groups"),
        pytest.param(10, id="in a later group"),
        pytest.param(FULL, id="in the last batch"),
    ],
)
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    go, tmp_path, data, ran, one_layer, deadly, undisturbed, batch
):
    expected, order = undisturbed(protect=data.other)
    assert len(order) == FULL
    folder = tmp_path / "killed"
    keys = {
        "out": folder / "scores",
        "second_moments": folder / "moments",
        "protect": data.other,
    }
    deadly(batch, lambda: go(**keys))
    left = [p.name for p in folder.iterdir() if p.name.endswith(".ptl-part")]
    assert bool(left) is (batch > 1)
    go(**keys)
    assert ran == order[batch - 1 :]
    assert contents(folder) == expected
    assert not list(folder.rglob("*.ptl-*"))


def test_a_run_can_be_killed_many_times(go, tmp_path, data, ran, one_layer, deadly, undisturbed):
    expected, order = undisturbed(protect=data.other)
    folder = tmp_path / "killed"
    keys = {
        "out": folder / "scores",
        "second_moments": folder / "moments",
        "protect": data.other,
    }
    for _ in range(FULL - 1):
        deadly(2, lambda: go(**keys))  # each try gets one batch further
    go(**keys)
    assert ran == order[-1:]
    assert contents(folder) == expected


@pytest.mark.parametrize("where", ["write_scores", "moments"])
def test_a_run_that_is_killed_while_it_writes_runs_no_batch_twice(
    go, tmp_path, ran, one_layer, deadly, undisturbed, monkeypatch, where
):
    expected, order = undisturbed()
    folder = tmp_path / "killed"
    keys = {"out": folder / "scores", "second_moments": folder / "moments"}

    def die(*words):
        raise Killed

    ran.clear()
    with monkeypatch.context() as patch:
        if where == "moments":
            patch.setattr(MomentFolder, "write", die)
        else:
            patch.setattr("ptl_plugins.scores_file.write_scores", die)
        with pytest.raises(Killed):
            go(**keys)
    done = list(ran)
    go(**keys)
    assert ran == order
    assert done == order[: len(done)]
    assert contents(folder) == expected


def test_it_goes_on_where_the_memory_is_another(
    go, tmp_path, ran, deadly, undisturbed, monkeypatch
):
    expected, order = undisturbed()
    assert len(order) == BATCHES, "all layers in one group"
    folder = tmp_path / "killed"
    keys = {"out": folder / "scores", "second_moments": folder / "moments"}
    deadly(3, lambda: go(**keys))
    monkeypatch.setattr(second_moments, "free_memory", lambda device: 1)
    go(**keys)
    assert ran == [2, *[0, 1, 2] * 4], "the first layer's moments were kept as well"
    assert contents(folder) == expected


@pytest.mark.parametrize("other", ["data", "batch_tokens", "ranks"])
def test_what_is_kept_of_other_work_is_ignored(go, tmp_path, data, ran, deadly, undisturbed, other):
    changed = {"data": data.other, "batch_tokens": 2 * TOKENS}
    changed["ranks"] = SimpleNamespace(
        rank=0, size=2, gather=lambda value: [value] * 2, barrier=lambda: None
    )
    expected, order = undisturbed()
    folder = tmp_path / "killed"
    keys = {"out": folder / "scores", "second_moments": folder / "moments"}
    deadly(2, lambda: go(**keys, **{other: changed[other]}))
    assert [p.name for p in folder.glob("*.ptl-part")] == ["scores.0.ptl-part"]
    go(**keys)
    assert ran == order
    assert contents(folder) == expected


@pytest.mark.parametrize("part", ["0", "protect0", "protect"])
def test_what_is_kept_but_damaged_is_ignored(go, tmp_path, data, ran, deadly, undisturbed, part):
    expected, order = undisturbed(protect=data.other)
    folder = tmp_path / "killed"
    keys = {
        "out": folder / "scores",
        "second_moments": folder / "moments",
        "protect": data.other,
    }
    deadly(PROTECT_BATCHES + 2, lambda: go(**keys))
    path = folder / f"scores.{part}.ptl-part"
    path.write_bytes(path.read_bytes()[:-3])
    go(**keys)
    # of the protect pass either file is enough
    again = {"0": order[PROTECT_BATCHES:], "protect0": [1, 2], "protect": [1, 2]}[part]
    assert ran == again
    assert contents(folder) == expected


def test_what_is_kept_of_another_protect_corpus_is_ignored(go, tmp_path, data, ran, deadly):
    deadly(PROTECT_BATCHES + 1, lambda: go(protect=data.other))
    assert (tmp_path / "scores.protect.ptl-part").exists()
    scores, _ = go(protect=data.main)
    assert ran == [0, 1, 2, 0, 1, 2]
    assert scores.protect.num_sequences == NUMBER


def test_a_protect_pass_that_lacks_a_new_statistic_is_made_again(
    go, tmp_path, data, ran, deadly, registry, monkeypatch
):
    whole = needed_statistics([c for _, c in registry.criteria.items()])
    with monkeypatch.context() as patch:
        fewer = tuple(s for s in whole if s.name != "neuron_abs_max")
        patch.setattr("ptl_plugins.criteria.needed_statistics", lambda criteria: fewer)
        deadly(PROTECT_BATCHES + 1, lambda: go(protect=data.other))
    scores, _ = go(protect=data.other)
    assert ran == [0, 1, 0, 1, 2]
    assert "neuron_abs_max" in scores.protect.statistics


def test_what_tries_with_more_ranks_left_goes_too(go, tmp_path):
    mine = ["scores.7.ptl-part", "scores.protect1.ptl-part", "scores.0.ptl-part.ptl-tmp"]
    others = ["scores.b.0.ptl-part", "another.0.ptl-part", "scores.json", "scores.x.ptl-part"]
    for name in mine + others:
        (tmp_path / name).write_text("x", encoding="utf-8")
    go()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["scores", *others])


def test_without_anything_to_write_to_nothing_is_loaded(go, tmp_path, no_model, monkeypatch):
    no_model()
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(PTLError, match=r"--out: the folder .*file cannot be made \(.*\); name an"):
        go(out=tmp_path / "file" / "scores")
    with pytest.raises(PTLError, match=r"--second-moments: the folder .*file cannot be made"):
        go(second_moments=tmp_path / "file")
    monkeypatch.setattr(profile_run.os, "access", lambda *_: False)
    with pytest.raises(PTLError, match=r"--out: the folder .* cannot be written to; name another"):
        go()


def test_second_moments_that_do_not_fit_the_disk_are_refused_beforehand(
    go, tmp_path, no_model, monkeypatch
):
    needed, no_room = 5 * 4 * 48 * 48, SimpleNamespace(free=5 * 4 * 48 * 48 - 1)
    no_model()
    monkeypatch.setattr(profile_run.shutil, "disk_usage", lambda folder: no_room)
    with pytest.raises(PTLError, match=rf"need {needed} bytes, {needed - 1} are free; make room"):
        go(second_moments=tmp_path / "moments")


def test_texts_without_a_token_are_refused(go, no_model, monkeypatch, tmp_path):
    no_model()
    monkeypatch.setattr(text_data, "encode_texts", lambda texts, *_, **__: [[] for _ in texts])
    with pytest.raises(PTLError, match="makes no token of its texts; give other data"):
        go(out=tmp_path / "new" / "scores")
    assert list(tmp_path.iterdir()) == []


def test_a_protect_corpus_without_a_column_text_is_named(go, tmp_path, no_model, data):
    no_model()
    path = tmp_path / "other.jsonl"
    path.write_text('{"content": "x"}\n', encoding="utf-8")
    told = (
        r"^--protect \(whose column has to be 'text'\): data '.*': has no column 'text'; it has con"
    )
    with pytest.raises(PTLError, match=told):
        go(protect=str(path))


def test_a_tokenizer_that_cannot_be_loaded_is_the_users_to_mend(go, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint(), tmp_path / "model")
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(PTLError, match=r"its tokenizer cannot be loaded \(\w+: ") as raised:
        go(model=str(folder))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"quantization_config": {"bits": 4}}, "is quantised"),
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported"),
        ({"intermediate_size": None}, "intermediate_size: None is not a positive whole number"),
    ],
)
def test_a_model_that_cannot_be_pruned_is_not_profiled(
    go, checkpoint, tmp_path, no_model, change, told
):
    no_model()
    folder = shutil.copytree(checkpoint(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(PTLError, match=told):
        go(model=str(folder), out=tmp_path / "new" / "scores")
    assert not (tmp_path / "new").exists()


def test_ranks_that_see_another_model_are_a_fault(go):
    ranks = SimpleNamespace(rank=0, size=2, gather=lambda value: [value, "another"])
    with pytest.raises(AssertionError, match="ranks disagree on model and data"):
        go(ranks=ranks)


def test_ranks_share_the_texts(go, ran, data, checkpoint, tmp_path):
    """Two ranks run one after the other see every text once."""
    seen = []
    for rank in (0, 1):
        ranks = SimpleNamespace(
            rank=rank, size=2, gather=lambda value: [value], barrier=lambda: None,
            merge=lambda tensor, how: None,
        )  # fmt: skip
        scores, _ = go(ranks=ranks, out=tmp_path / str(rank))
        seen.append(scores)
    everything = tokens_of(checkpoint(), texts_of(data.main))
    assert [s.num_sequences for s in seen] == [NUMBER // 2] * 2
    assert sum(s.num_tokens for s in seen) == sum(map(len, everything))
    most = np.maximum(*(s.statistics["neuron_abs_max"] for s in seen))
    np.testing.assert_allclose(most, go()[0].statistics["neuron_abs_max"], rtol=1e-2)
    assert (tmp_path / "0").exists()
    assert not (tmp_path / "1").exists(), "the main rank writes"
