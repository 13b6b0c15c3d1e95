"""What holds after every fault and the same command again; each check returns what is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from pathlib import Path

from safetensors import safe_open

TIMES = {
    "seconds", "wall_seconds", "time", "started", "train_runtime", "train_samples_per_second",
    "train_steps_per_second", "eval_runtime", "pid", "tries", "devices",
}  # fmt: skip
"""Names of what differs from run to run."""
TEMPORARY = re.compile(
    r"\.ptl-tmp|\.ptl-part|\.unfinished|program\.json$|slurm_job\.json$|\.incomplete$|/\.tmp"
)
UNEQUAL = ("events.jsonl", "manifest.json", ".log", "trainer_log.jsonl", ".lock_owner.json",
           "training_args.bin", "trainer_state.json", ".png", "all_results.json",
           "train_results.json", "README.md", "recipe.yaml")  # fmt: skip
"""Ends of names of files that hold times or places."""


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files below a folder by their names in it."""
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}


def plain(value):
    """Return JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key not in TIMES}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def digests(folder: Path) -> dict[str, str]:
    """Return a digest of each file that two runs have alike; of the others, an empty one."""
    return {
        name: "" if name.endswith(UNEQUAL) else _digest(path, folder)
        for name, path in files_of(folder).items()
    }


def _digest(path: Path, folder: Path) -> str:
    data = path.read_bytes()
    if path.suffix in (".json", ".yaml"):
        data = data.replace(str(folder.parent).encode(), b"")  # each try has a place of its own
    if path.suffix == ".json":
        with contextlib.suppress(ValueError):  # which `unreadable` tells
            data = json.dumps(plain(json.loads(data)), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def finished_files(place) -> dict[str, set[tuple[int, int]]]:
    """Return, by name, inode and time of change of the files that are not to be made again."""
    found: dict[str, set[tuple[int, int]]] = {}
    for pattern in place.door.state:
        for path in place.folder.glob(pattern):
            key = re.sub(r".*(round_\d+|seed_\d+/run/round_\d+)/", r"\1/", str(path))
            key = key if "round_" in key else path.name
            found.setdefault(key, set()).add((path.stat().st_ino, path.stat().st_mtime_ns))
    return found


def problems_after(place, expected: dict[str, str], at_fault: dict) -> list[str]:
    """Return what is wrong now that the same command ended.

    Args:
        place: where it ran.
        expected: `digests` of an undisturbed run.
        at_fault: `finished_files` at the time of the fault.
    """
    return [
        *unreadable(place.out),
        *left_over(place.out),
        *other_end(place.out, expected),
        *made_again(place, at_fault),
    ]


def left_over(folder: Path) -> list[str]:
    """Return the temporary files and folders that are still there."""
    names = (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))
    return [f"left: {name}" for name in names if TEMPORARY.search(f"/{name}")]


def other_end(folder: Path, expected: dict[str, str]) -> list[str]:
    """Return the files that are more, fewer or other than those of an undisturbed run."""
    now = digests(folder)
    wrong = [
        f"{'more' if name in now else 'fewer'}: {name}" for name in now.keys() ^ expected.keys()
    ]
    same = now.keys() & expected.keys()
    return sorted(wrong) + [
        f"other: {name}" for name in sorted(same) if now[name] != expected[name]
    ]


def made_again(place, at_fault: dict) -> list[str]:
    """Return the files that were finished at the fault and were made once more."""
    now = finished_files(place)
    return [f"made again: {name}" for name in sorted(at_fault) if name in now
            and not at_fault[name] & now[name]]  # fmt: skip


def unreadable(folder: Path) -> list[str]:
    """Return the state that cannot be read: JSON, tensors, and events but for torn lines."""
    wrong = []
    for name, path in files_of(folder).items():
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="numpy") as file:
                    list(file.keys())
            elif path.name == "events.jsonl":
                _require_events(path)
        except Exception as error:  # whatever it is, it is what is wrong
            wrong.append(f"unreadable: {name}: {error}")
    return wrong


def _require_events(path: Path) -> None:
    """Every line is an event, but those that a kill tore: they end where the next one begins."""
    lines = path.read_bytes().split(b"\n")
    assert lines[-1] == b"", "the last line has no end"
    for line in lines[:-1]:
        if line.endswith(b"}"):
            json.loads(line)


def said_in_one_line(text: str) -> list[str]:
    """Return what is wrong with how a command told of its end: a traceback, or too many lines."""
    told = [line for line in text.splitlines() if line.startswith("ptl: ")]
    if "Traceback" in text:
        return [f"a traceback: {text.strip().splitlines()[-1][:300]}"]
    return [] if len(told) == 1 else [f"told {len(told)} lines: {text[-300:]}"]
