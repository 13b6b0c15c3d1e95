"""Ways in which a checkpoint folder is damaged, or made to do harm; each changes one thing."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LENGTH_BYTES = 8
Header = dict[str, Any]
Damage = Callable[[Path], object]


class Hostile:
    """A pickle that leaves a file behind when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch pwned",)


def read_file(path: Path) -> tuple[Header, bytes]:
    """Return header and data of a safetensors file."""
    raw = path.read_bytes()
    start = LENGTH_BYTES + int.from_bytes(raw[:LENGTH_BYTES], "little")
    return json.loads(raw[LENGTH_BYTES:start]), raw[start:]


def write_file(path: Path, header: object, data: bytes) -> None:
    """Write such a file; the header need not be a sane one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(LENGTH_BYTES, "little") + text + data)


def of_header(change: Callable[[Header], object]) -> Damage:
    """Return what changes the header of the weights in place."""

    def damage(model: Path) -> None:
        header, data = read_file(model / SINGLE)
        change(header)
        write_file(model / SINGLE, header, data)

    return damage


def of_bytes(change: Callable[[bytes], bytes]) -> Damage:
    """Return what replaces the bytes of the weights."""
    return lambda model: (model / SINGLE).write_bytes(change((model / SINGLE).read_bytes()))


def of_json(name: str, **keys: object) -> Damage:
    """Return what sets keys of a JSON file; `...` takes one out."""

    def damage(model: Path) -> None:
        kept = {**json.loads((model / name).read_text("utf-8")), **keys}
        kept = {key: value for key, value in kept.items() if value is not ...}
        (model / name).write_text(json.dumps(kept), encoding="utf-8")

    return damage


def of_config(**keys: object) -> Damage:
    """Return what sets keys of `config.json`; `...` takes one out."""
    return of_json("config.json", **keys)


def of_text(name: str, text: str | bytes) -> Damage:
    """Return what gives a file another text."""
    raw = text.encode() if isinstance(text, str) else text
    return lambda model: (model / name).write_bytes(raw)


def of_value(value: bytes, name: str | None = None) -> Damage:
    """Return what sets the first bf16 weight of a tensor, or the last weight of all."""

    def damage(model: Path) -> None:
        header, data = read_file(model / SINGLE)
        end = len(data) if name is None else header[name]["data_offsets"][0] + 2
        write_file(model / SINGLE, header, data[: end - 2] + value + data[end:])

    return damage


def of_link(name: str, target: str) -> Damage:
    """Return what replaces a file with a link."""

    def damage(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to(target)

    return damage


def of_two_shards(change: Callable[[Path, Header], object]) -> Damage:
    """Return what shards the weights in two and then changes folder and index."""

    def damage(model: Path) -> None:
        index = shard(model)
        change(model, index)
        (model / INDEX).write_text(json.dumps(index), encoding="utf-8")

    return damage


def shard(model: Path) -> Header:
    """Write the weights as two files and an index, and return that."""
    header, data = read_file(model / SINGLE)
    metadata = header.pop("__metadata__", None)
    names = sorted(header, key=lambda name: header[name]["data_offsets"])
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file, own, bytes_ = f"model-0000{number}-of-00002.safetensors", {}, b""
        for name in part:
            start, end = header[name]["data_offsets"]
            offsets = [len(bytes_), len(bytes_) + end - start]
            own[name] = {**header[name], "data_offsets": offsets}
            bytes_ += data[start:end]
            weight_map[name] = file
        write_file(model / file, {**own, "__metadata__": metadata or {"format": "pt"}}, bytes_)
    (model / SINGLE).unlink()
    index = {"metadata": {"total_size": len(data)}, "weight_map": weight_map}
    (model / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return index


def shift(header: Header) -> None:
    """Let the second tensor begin within the first."""
    second = sorted(map_offsets(header), key=lambda entry: entry["data_offsets"])[1]
    second["data_offsets"] = [position - 2 for position in second["data_offsets"]]


def map_offsets(header: Header) -> list[Header]:
    """Return the entries of the tensors."""
    return [entry for name, entry in header.items() if name != "__metadata__"]


def twice_the_rows(header: Header) -> None:
    """Say that the first matrix has twice the rows, without the bytes for them."""
    matrix = next(entry for entry in map_offsets(header) if len(entry["shape"]) == 2)
    matrix["shape"][0] *= 2


def transposed(name: str) -> Callable[[Header], None]:
    """Return what exchanges rows and columns of a matrix: the same bytes, another shape."""

    def change(header: Header) -> None:
        header[name]["shape"].reverse()

    return change


def a_pickle(model: Path) -> None:
    """Put a hostile pickle where the weights were."""
    (model / SINGLE).write_bytes(pickle.dumps(Hostile()))


def a_zip(model: Path) -> None:
    """Put what `torch.save` writes where the weights were."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Hostile()))
    (model / SINGLE).write_bytes(raw.getvalue())


def only_pickled(model: Path) -> None:
    """Leave a hostile `pytorch_model.bin` alone."""
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile()))
    (model / SINGLE).unlink()


def a_folder(name: str) -> Damage:
    """Return what puts a folder where a file was."""

    def damage(model: Path) -> None:
        (model / name).unlink()
        (model / name).mkdir()

    return damage


def a_pipe(name: str) -> Damage:
    """Return what puts a named pipe where a file was."""

    def damage(model: Path) -> None:
        (model / name).unlink()
        os.mkfifo(model / name)

    return damage
