"""What is fuzzed: each target takes an input, and raises where PTL does what it must not.

A target lets through what the code under test may do: return a value that holds together, or
raise a `PTLError` whose lines are short, printable, and name their file. Anything else that it
raises is a finding. Both the hypothesis tests and `atheris_targets.py` call them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptl_plugins.errors import PTLError

LONGEST_LINE = 2000
"""Characters of one line of an error; values are shortened in it."""
MOST_LINES = 50

CONFIG = {
    "model_type": "llama", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}  # fmt: skip

FACTS = {
    "num_layers": "2", "width": "3", "num_tokens": "4", "num_sequences": "1",
    "about": {"model_digest": "m"}, "batches": {"total": 1},
}  # fmt: skip
"""Of a file of PTL's own."""


@functools.cache
def workplace() -> Path:
    """A folder of this process alone, with the config of a tiny model in `model`."""
    folder = tempfile.TemporaryDirectory(prefix="ptl-fuzz-")
    workplace.folder = folder  # type: ignore[attr-defined]  # it goes with the process
    path = Path(folder.name)
    (path / "model").mkdir()
    (path / "model" / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return path


@functools.cache
def host() -> tuple[Any, Any]:
    """All plugins that are installed, and what they register."""
    from ptl_plugins.manager import build_manager, build_registry

    manager = build_manager()
    return manager.hook, build_registry(manager)


@contextlib.contextmanager
def refusals(path: Path, *, kind: type[PTLError] = PTLError) -> Iterator[None]:
    """Let an error of the user's pass, if that is what it looks like."""
    try:
        yield
    except PTLError as error:
        require_plain(error, path, kind)


def require_plain(error: PTLError, path: Path, kind: type[PTLError] = PTLError) -> None:
    """Check that an error is of a kind and that each of its lines can be shown to a user."""
    assert isinstance(error, kind), f"{type(error).__name__}: {error}"
    lines = str(error).split("\n")
    assert 0 < len(lines) <= MOST_LINES, f"{len(lines)} lines"
    for line in lines:
        assert str(path) in line, f"names no file: {line[:300]!r}"
        assert line.isprintable(), f"not printable: {line[:300]!r}"
        assert len(line) <= LONGEST_LINE, f"{len(line)} characters: {line[:300]!r}"


def recipe_file(data: bytes) -> None:
    """A recipe of either door as bytes: a recipe with a plan, or a `RecipeError`."""
    from ptl_plugins.errors import RecipeError
    from ptl_plugins.preflight import plan_run
    from ptl_plugins.recipe_file import read_recipe

    path = workplace() / "recipe.yaml"
    path.write_bytes(data)
    hooks, registry = host()
    with refusals(path, kind=RecipeError):
        recipe = read_recipe(path, hooks, registry, thorough=False)
        assert recipe.rounds
        assert recipe.text == data.decode("utf-8-sig")
        plan = plan_run(dataclasses.replace(recipe, model=str(workplace() / "model")), registry)
        assert len(plan.rounds) == len(recipe.rounds)


def override_words(keys: dict[str, Any], words: Sequence[str]) -> None:
    """Words of `--set`: the key is set, or a `RecipeError` names the word."""
    from ptl_plugins.errors import RecipeError
    from ptl_plugins.recipe_file import override

    for word in words:
        try:
            override(keys, word)
        except RecipeError as error:
            require_plain(error, Path("--set"), RecipeError)


def shard_file(data: bytes) -> None:
    """A safetensors file as bytes: what safetensors itself reads in it, or a `PruneError`."""
    from safetensors import deserialize

    from ptl_plugins.errors import PruneError
    from ptl_plugins.shard_header import read_header

    path = workplace() / "model.safetensors"
    path.write_bytes(data)
    with refusals(path, kind=PruneError):
        header = read_header(path)
        theirs = dict(deserialize(data))
        assert {entry.name for entry in header.tensors} == set(theirs)
        for entry in header.tensors:
            assert 0 <= entry.start <= entry.end <= len(data)
            assert math.prod(entry.shape) * entry.item_bytes == entry.end - entry.start
            assert data[entry.start : entry.end] == bytes(theirs[entry.name]["data"])
            assert list(entry.shape) == list(theirs[entry.name]["shape"])


def tensor_file(data: bytes) -> None:
    """A file of PTL's own as bytes: read as scores, a second moment and a profile's totals."""
    from ptl_plugins.errors import PruneError
    from ptl_plugins.profile_journal import FileJournal
    from ptl_plugins.scores_file import read_scores
    from ptl_plugins.second_moments import MomentFolder

    path = workplace() / "layer_000.safetensors"
    path.write_bytes(data)
    with refusals(path, kind=PruneError):
        scores, _ = read_scores(path)
        assert scores.num_layers >= 0
    with refusals(path, kind=PruneError):
        assert MomentFolder(path=path.parent).read(0, 3).shape == (3, 3)
    kept = FileJournal(path, {"model_digest": "m"})._kept({"total"})
    assert kept is None or isinstance(kept, int)


def shard_index(data: bytes) -> None:
    """An index of shards as bytes, in a folder with one good shard: a checkpoint or an error."""
    from ptl_plugins.shards import INDEX_FILE, open_checkpoint

    folder = workplace() / "sharded"
    if not folder.is_dir():
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        (folder / "a.safetensors").write_bytes(good_shard())
    (folder / INDEX_FILE).write_bytes(data)
    with refusals(folder):
        checkpoint = open_checkpoint(folder)
        assert checkpoint.files == ("a.safetensors",)  # never one outside the folder


def good_shard() -> bytes:
    """Return a small file of safetensors."""
    import numpy as np
    from safetensors.numpy import save

    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.float16)}
    return save(tensors, {"format": "pt"})


def good_scores() -> bytes:
    """Return a small file of scores, as PTL writes it."""
    import numpy as np
    from safetensors.numpy import save

    return save({"total": np.ones((2, 3), np.float32)}, {"ptl": json.dumps(FACTS)})


REWARD_SECONDS = 0.5
"""Of the worker, per answer."""
OVERHEAD = 5.0
"""Seconds that an answer may take beyond its limit, on a machine that does other things."""


def reward_answer(response: object, truth: object) -> None:
    """An answer and a ground truth of any kind: marks of 0 or 1, in time, and nothing raises."""
    from verl_ext.reward import _judge, score_answer

    _judge().equal("1", "x", REWARD_SECONDS)  # the worker's start is no part of the limit
    start = time.monotonic()
    marks = score_answer("data", response, truth, time_limit=REWARD_SECONDS)
    assert time.monotonic() - start < REWARD_SECONDS + OVERHEAD
    assert marks["acc"] in (0.0, 1.0)
    assert marks["format"] in (0.0, 1.0)
    assert math.isclose(marks["score"], 0.9 * marks["acc"] + 0.1 * marks["format"])


def reward_text(text: str) -> None:
    """What the reward does to a text before any library sees it: in time, and consistent."""
    from verl_ext.reward import has_format, last_boxed, plain

    start = time.monotonic()
    boxed = last_boxed(text)
    has_format(text)
    once = plain(text if boxed is None else boxed)
    assert time.monotonic() - start < OVERHEAD
    assert boxed is None or boxed in text
    assert once == once.strip()


def judged_answer(judge: Any, response: str, solution: str | None, answer: str | None) -> None:
    """A response before the mathematics judge: a verdict in one line, in time."""
    start = time.monotonic()
    verdict = judge.judge(response, solution=solution, answer=answer)
    assert time.monotonic() - start < 2 * (judge._time_limit + OVERHEAD)
    assert set(verdict.marks.values()) <= {0, 1}
    assert verdict.status != "judged" or verdict.detail == ""
    assert verdict.detail.isprintable()


def llamafactory_yaml(text: str, words: Sequence[str]) -> None:
    """A yaml with a `ptl:` section and words after it, from the text to the recipe."""
    from llamafactory_ext.launching import _has_section
    from llamafactory_ext.overrides import read_as_llamafactory
    from llamafactory_ext.recipe import read_llamafactory_recipe
    from ptl_plugins.errors import RecipeError
    from ptl_plugins.recipe import RecipeSource
    from ptl_plugins.yaml_file import read_yaml

    path = workplace() / "train.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with refusals(path, kind=RecipeError):
        if not _has_section(path):
            return
        read_yaml(path)
        keys = read_as_llamafactory(path, text, words)
        source = RecipeSource(path=path, keys=keys, text=text, registry=host()[1], thorough=False)
        if "ptl" in keys:
            read_llamafactory_recipe(source)


def stage_yaml(settings: Mapping[str, Any]) -> None:
    """The yaml that PTL writes for a stage: LLaMA-Factory reads the recipe's settings in it."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from llamafactory_ext.backend import YAML, LlamaFactory, stage_keys
    from ptl_plugins.stage_types import StageSpec

    stage = StageSpec(backend="llamafactory", settings=settings)
    if LlamaFactory().check(stage) is not None:
        return
    keys = stage_keys(stage, Path("model"), Path("folder"), seed=0)
    text = yaml.safe_dump(keys, sort_keys=False)
    try:
        read = OmegaConf.to_container(OmegaConf.create(text))
    except OmegaConfBaseException:  # LLaMA-Factory cannot have it; the thorough check asks it
        return
    assert isinstance(read, dict), YAML
    for key, value in settings.items():
        assert same(read[key], value), f"{key}: {value!r} became {read[key]!r}"


def same(read: object, given: object) -> bool:
    """Whether OmegaConf read what was given; a text such as 1e-5 is a number to it."""
    if isinstance(given, str) and isinstance(read, float):
        return math.isclose(read, float(given)) or read != read or math.isinf(read)
    if isinstance(given, Mapping) and isinstance(read, dict):
        named = {str(k) if isinstance(k, datetime.date) else k: v for k, v in given.items()}
        return named.keys() == read.keys() and all(same(read[k], named[k]) for k in named)
    if isinstance(given, list) and isinstance(read, list):
        return len(given) == len(read) and all(map(same, read, given))
    if isinstance(given, datetime.date):
        return read == str(given)
    return read == given or (read != read and given != given)
