"""What the miniature study trains on: SmolLM2-135M and nested budgets of worked problems.

Budget N is the first N documents of one order, so that a larger budget adds documents to a smaller
one. Problems are the quickstart's, generated, or those of given files, such as GSM8K's.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ptl_plugins import durable
from ptl_plugins.errors import PTLError
from ptl_plugins.quickstart.prompt import document

BUDGETS = (96, 192, 384, 768)
"""Documents of `mini_96`, `mini_192` and so on; six rounds of 32 are the second."""
NUM_HELD_OUT = 200
NUM_OTHER_TEXTS = 256
SEED = 0
Problems = list[tuple[str, str]]
"""Questions with their worked answers."""
Given = tuple[Problems, Problems] | None
"""Problems that train and that measure; None: they are generated."""
KEYS = (("question", "answer"), ("problem", "solution"))
"""Names of a problem's and its worked answer's key: GSM8K's and MATH's."""


def write_miniature(
    out: Path, *, train: Path | None = None, held_out: Path | None = None, times: int = 1
) -> None:
    """Write `out/model` and `out/data`; what is there already stays, if it is the same.

    Args:
        out: the study's folder, `mini` in the shipped recipes.
        train: a jsonl file of problems; unset, they are generated.
        held_out: one of problems that measure; goes with `train`.
        times: how many times as many documents each budget has, under the same names.

    Raises:
        PTLError: `times` is below 1, only one of both files is given, one has too few problems or a
            row that is none, or `out/data` holds other problems: finished runs have read these.
    """
    from ptl_plugins.quickstart.model import write_model

    if (train is None) != (held_out is None):
        raise PTLError("miniature: --train and --held-out go together; give both, or neither")
    if times < 1:
        raise PTLError(f"miniature: --times {times}: is no whole number of 1 or more")
    given = None
    if train is not None and held_out is not None:
        given = _problems(train, times * BUDGETS[-1]), _problems(held_out, NUM_HELD_OUT)
    data = out / "data"
    if data.exists():
        _require_same(data, given, times)
    else:
        with durable.new_folder(data) as folder:
            _write_data(folder, given, times)
    write_model(out / "model")


def _require_same(data: Path, given: Given, times: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        _write_data(Path(place), given, times)
        for path in sorted(Path(place).iterdir()):
            there = data / path.name
            if not there.is_file() or there.read_bytes() != path.read_bytes():
                raise PTLError(
                    f"miniature: {data}: holds other problems ({path.name} differs), which runs "
                    "may have read; give another --out, or delete this folder"
                )


def _write_data(folder: Path, given: Given, times: int) -> None:
    if given:
        train, held_out = given
        texts = [document(question, answer) for question, answer in train]
        _write_held_out(folder, held_out)
    else:
        texts = _generated(folder, times * BUDGETS[-1])
    _write_budgets(folder, texts, times)


def _generated(folder: Path, number: int) -> list[str]:
    from ptl_plugins.quickstart.corpus import write_corpus

    write_corpus(folder, num_training=number, num_held_out=NUM_HELD_OUT, seed=SEED)
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def _write_held_out(folder: Path, problems: Problems) -> None:
    from ptl_plugins.quickstart.other_text import write_other_text

    folder.mkdir(parents=True, exist_ok=True)
    rows = ({"question": question, "answer": answer} for question, answer in problems)
    durable.write_text(folder / "held_out.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_other_text(folder, number=NUM_OTHER_TEXTS, seed=SEED)


def _write_budgets(folder: Path, texts: list[str], times: int) -> None:
    entries = {}
    for number in BUDGETS:
        name = f"mini_{number}"
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts[: times * number])
        durable.write_text(folder / f"{name}.jsonl", rows)
        entries[name] = {"file_name": f"{name}.jsonl", "columns": {"prompt": "text"}}
    durable.write_json(folder / "dataset_info.json", entries)


def _problems(path: Path, number: int) -> Problems:
    """Return the first `number` problems of a file with their worked answers."""
    try:
        with path.open(encoding="utf-8") as lines:
            problems = list(itertools.islice(_rows(path, lines), number))
    except (OSError, UnicodeDecodeError) as error:
        raise PTLError(f"miniature: {path}: cannot be read ({error})") from None
    if len(problems) < number:
        raise PTLError(f"miniature: {path}: has {len(problems)} problems, {number} are needed")
    return problems


def _rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    for index, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PTLError(f"miniature: {path}: line {index}: is not JSON ({error})") from None
        pair = next((k for k in KEYS if isinstance(row, dict) and set(k) <= row.keys()), None)
        if pair is None:
            allowed = " or ".join(f"'{first}' and '{second}'" for first, second in KEYS)
            raise PTLError(f"miniature: {path}: line {index}: needs the keys {allowed}")
        yield str(row[pair[0]]), str(row[pair[1]])
