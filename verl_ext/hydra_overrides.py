"""Values as Hydra's command line reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.-]*")
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""Hydra's grammar has no other keys inside a value."""
WORDS = {"true", "false", "null", "inf", "nan", "none"}
"""What Hydra reads as something else than text, or some readers do."""

Value = None | bool | int | float | str | Sequence["Value"] | Mapping[str, "Value"]


def override(key: str, value: Value) -> str:
    """Return `key=value`; a key that the framework's config lacks begins with a plus sign."""
    return f"{key}={hydra_value(value)}"


def hydra_value(value: Value) -> str:
    """Return a value in Hydra's grammar; text is quoted where it could be read otherwise.

    Raises:
        TypeError: it is nothing that yaml could hold.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case str():
            return _text(value)
        case Mapping():
            return "{" + ",".join(f"{_key(k)}:{hydra_value(v)}" for k, v in value.items()) + "}"
        case Sequence():
            return "[" + ",".join(map(hydra_value, value)) + "]"
    raise TypeError(f"{value!r} cannot be an override")


def _key(key: object) -> str:
    if isinstance(key, str) and KEY.fullmatch(key) and key.lower() not in WORDS:
        return key
    raise TypeError(f"{key!r} cannot be a key inside an override")


def _text(text: str) -> str:
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    # a backslash means something only before a quote, and is doubled there
    escaped = re.sub(r"(\\*)'", lambda found: 2 * found[1] + r"\'", text)
    escaped = re.sub(r"(\\+)$", lambda found: 2 * found[1], escaped)
    return f"'{escaped}'"
