"""The keys of EasyR1's yaml and their types, from a snapshot: known without EasyR1."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ptl_plugins.errors import did_you_mean

SNAPSHOT = Path(__file__).with_name("easyr1_schema.json")
NEWEST = "0.3.3.dev0"
"""The version of the snapshot (commit b44b311)."""
SUPPORTED = ("0.3.2", NEWEST)

ADDED = re.compile(r"\.lora\.|\.lr_scheduler_type$|actor\.(loss_type|tau_positive|tau_negative)$")
"""Keys that 0.3.2 does not have."""
DROPPED = {
    "worker.reward.reward_type": "str",
    "worker.actor.optim.warmup_style": "str",
    "worker.critic.optim.warmup_style": "str",
}
"""Keys that only 0.3.2 has."""
COMPUTED = "computed"
OPTIONAL = re.compile(r"typing\.Optional\[(.*)\]")


def key_types(version: str) -> Mapping[str, str]:
    """Return the type of each key; `COMPUTED`: EasyR1 sets it, and takes it from no yaml."""
    types = _newest()
    if version != "0.3.2":
        return types
    return {key: kind for key, kind in types.items() if not ADDED.search(key)} | DROPPED


def key_problem(key: str, value: Any, version: str) -> str | None:
    """Return why EasyR1 would refuse a dotted key or its value, without the key, or None.

    Args:
        key: as `flatten` gives it; keys of a free mapping, such as `override_config`, included.
        value: as YAML gave it.
        version: of EasyR1.
    """
    types = key_types(version)
    if key in types:
        return _value_problem(value, types[key])
    if any(_is_free(types[known]) for known in types if key.startswith(f"{known}.")):
        return None
    if any(known.startswith(f"{key}.") for known in types):
        return "is a group of keys; give one of them"
    settable = [known for known, kind in types.items() if kind != COMPUTED]
    return f"is no key of EasyR1 {version}{_meant(key, settable)}"


@functools.cache
def _newest() -> Mapping[str, str]:
    keys = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    return {key: facts["type"] if facts["user"] else COMPUTED for key, facts in keys.items()}


def _meant(key: str, known: Iterable[str]) -> str:
    """Suggest a key that ends alike, which a key without its groups is far from otherwise."""
    same = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    if same and "." not in key:
        return f" (did you mean '{same[0]}'?)"
    return did_you_mean(key, known)


def _is_free(kind: str) -> bool:
    return kind.startswith("dict")


def _value_problem(value: Any, kind: str) -> str | None:
    if kind == COMPUTED:
        return "is worked out by EasyR1; remove it"
    optional = OPTIONAL.fullmatch(kind)
    bare = optional[1] if optional else kind
    if (optional and value is None) or _fits(value, bare):
        return None
    return f"{value!r} is not {_words(bare)}{' or null' if optional else ''}"


def _fits(value: Any, kind: str) -> bool:
    return KINDS[kind.split("[")[0]][1](value)


def _words(kind: str) -> str:
    return KINDS[kind.split("[")[0]][0]


def _is_number(value: Any) -> bool:
    if isinstance(value, str):  # YAML reads 1e-6 as text, and OmegaConf as a number
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    "float": ("a number", _is_number),
    "str": ("text", lambda value: isinstance(value, str)),
    "dict": ("a mapping", lambda value: isinstance(value, Mapping)),
    "tuple": ("a list of two numbers", _is_pair),
    "typing.Tuple": ("a list of texts", _is_texts),
}
"""By the name of a type: what a message calls it, and what YAML gives for it."""
