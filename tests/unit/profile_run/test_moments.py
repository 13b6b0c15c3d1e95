"""`ptl profile --second-moments`: at once or later, all layers or those that are missing."""

from __future__ import annotations

import shutil

import pytest

from ptl_plugins.errors import PruneError
from ptl_plugins.scores_file import read_scores
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.tally import StatisticTally

from .conftest import BATCHES, assert_same, content, contents, live, snapshot, texts_of, tokens_of


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
