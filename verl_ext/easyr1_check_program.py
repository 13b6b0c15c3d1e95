"""Lets EasyR1's own config read a yaml; a program for the interpreter that has its dependencies.

`easyr1_check` passes this file's text to that interpreter by `-c`, with the clone on PYTHONPATH:
PTL need not be installed there, so only the standard library and what EasyR1 itself depends on is
imported. It reads {"home": FOLDER, "keys": {GROUP: ...}} from stdin and prints one JSON object:
`missing`, why EasyR1 could not be imported, or null, and `problems`, rows of a dotted key and a
text.

EasyR1 puts None where a path that it was given leads nowhere, and goes on without: each such key
is a problem here.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Problem = tuple[str, str]


def main() -> None:
    """Answer; whatever EasyR1 prints goes to stderr."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    question = json.load(sys.stdin)
    sys.path[:] = [path for path in sys.path if path]  # a `verl` where it runs is not meant
    json.dump(find_problems(question["home"], question["keys"]), answer)
    answer.close()


def find_problems(home: str, keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the answer to one question."""
    try:
        import verl

        place = Path(str(verl.__file__)).resolve()
        if Path(home).resolve() not in place.parents:
            return {"missing": None, "problems": [("", f"verl is imported from {place.parent}")]}
        import verl.trainer.main  # everything that a run imports
    except (ImportError, OSError) as error:  # OSError: a library of CUDA
        return {"missing": one_line(error), "problems": []}
    except Exception as error:
        return {"missing": None, "problems": [("", f"cannot be imported: {one_line(error)}")]}
    return {"missing": None, "problems": list(config_problems(keys))}


def config_problems(keys: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with the keys, as `verl.trainer.main.main` reads them."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from verl.trainer.config import PPOConfig

    try:
        merged = OmegaConf.merge(OmegaConf.structured(PPOConfig()), OmegaConf.create(dict(keys)))
        config: Any = OmegaConf.to_object(merged)
        config.deep_post_init()
    except OmegaConfBaseException as error:
        yield (error.full_key or "", str(error.msg or error).splitlines()[0])
    except Exception as error:
        yield ("", one_line(error))
    else:
        yield from lost_keys(keys, config.to_dict())


def lost_keys(
    asked: Mapping[str, Any], taken: Mapping[str, Any], above: str = ""
) -> Iterator[Problem]:
    """Yield each key that was given a value and is None now."""
    for name, value in asked.items():
        if isinstance(value, Mapping):
            yield from lost_keys(value, taken[name] or {}, f"{above}{name}.")
        elif value is not None and taken.get(name) is None:
            yield (f"{above}{name}", f"EasyR1 finds no '{value}' and would go on without")


def one_line(error: Exception) -> str:
    """Return an exception as one line."""
    text = re.sub(r"\s*\n\s*", "; ", str(error).strip())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


if __name__ == "__main__":
    main()
