"""The program of `FakeBackend`, of the standard library alone: MODEL OUT DEED SECONDS.

It copies a checkpoint as trainers save it, bf16 widened to fp32, and changes the lowest bit that
bf16 keeps of every weight, so that a stage that ran is told from one that did not.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Header = dict[str, Any]
NAN = b"\x00\x00\xc0\x7f"
FLIP = bytes(value ^ 1 for value in range(256))


def success(header: Header, data: bytearray) -> None:
    """Change nothing further."""


def fail(header: Header, data: bytearray) -> None:
    """End with code 3, as a trainer does that ran out of memory."""
    print("RuntimeError: out of memory", file=sys.stderr)
    sys.exit(3)


def nan(header: Header, data: bytearray) -> None:
    """Make the first weight of all not a number."""
    data[:4] = NAN


def reshape(header: Header, data: bytearray) -> None:
    """Flatten the first matrix."""
    matrix = next(entry for entry in header.values() if len(entry["shape"]) == 2)
    matrix["shape"] = [matrix["shape"][0] * matrix["shape"][1]]


def lose(header: Header, data: bytearray) -> None:
    """Forget the last tensor."""
    name = max(header, key=lambda name: header[name]["data_offsets"][1])
    del data[header.pop(name)["data_offsets"][0] :]


def hang(header: Header, data: bytearray) -> None:
    """Go on for ever."""
    while True:
        time.sleep(60)


def killed(header: Header, data: bytearray) -> None:
    """Die as the system's memory killer would have it."""
    os.kill(os.getpid(), signal.SIGKILL)


DEEDS: dict[str, Callable[[Header, bytearray], None]] = {
    deed.__name__: deed for deed in (success, fail, nan, reshape, lose, hang, killed)
}


def main(model: Path, out: Path, deed: str, seconds: float) -> None:
    """Write the "trained" checkpoint; the deed is done to its first file."""
    _say(f"fake training of {model}")
    time.sleep(seconds)
    out.mkdir(parents=True)
    for number, path in enumerate(sorted(model.glob("*.safetensors"))):
        header, data = _widened(path.read_bytes())
        if number == 0:
            DEEDS[deed](header, data)
        text = json.dumps(header).encode()
        (out / path.name).write_bytes(len(text).to_bytes(8, "little") + text + data)
    index = model / "model.safetensors.index.json"
    if index.exists():
        (out / index.name).write_bytes(index.read_bytes())
    (out / "config.json").write_bytes((model / "config.json").read_bytes())
    _say("fake training done")


def _say(line: str) -> None:
    """Print a line; a killed run no longer reads it, which does not end this program."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


def _widened(file: bytes) -> tuple[Header, bytearray]:
    """Return header and data of a safetensors file with bf16 as changed fp32."""
    size = int.from_bytes(file[:8], "little")
    before = json.loads(file[8 : 8 + size])
    before.pop("__metadata__", None)
    header, data = {}, bytearray()
    for name, entry in sorted(before.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = entry["data_offsets"]
        values = file[8 + size + start : 8 + size + end]
        wide = bytearray(2 * len(values)) if entry["dtype"] == "BF16" else bytearray(values)
        if entry["dtype"] == "BF16":
            wide[2::4], wide[3::4] = values[0::2].translate(FLIP), values[1::2]
        offsets = [len(data), len(data) + len(wide)]
        dtype = "F32" if entry["dtype"] == "BF16" else entry["dtype"]
        header[name] = {"dtype": dtype, "shape": entry["shape"], "data_offsets": offsets}
        data += wide
    return header, data


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
