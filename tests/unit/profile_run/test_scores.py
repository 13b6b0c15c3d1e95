"""`ptl profile` writes the scores of the live model, and never over others."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ptl_plugins.errors import PruneError
from ptl_plugins.model_digest import model_digest
from ptl_plugins.scores_file import read_scores, write_scores
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.testing import TINY
from ptl_plugins.text_data import data_digest

from .conftest import (
    BATCHES,
    NUMBER,
    PROTECT_BATCHES,
    TOKENS,
    assert_same,
    live,
    snapshot,
    texts_of,
    tokens_of,
)


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
