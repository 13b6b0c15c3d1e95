"""Which texts are secrets, and how they are kept out of what PTL writes and prints.

Two rules. A recipe holds none: its text is kept in the run folder and its settings go into files
of the frameworks, so one that does is refused by the key's name. And whatever leaves PTL, such as
the manifest, events, records, errors and the programs' output, passes `redacted`, because texts of
frameworks and plugins may quote the environment.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from ptl_plugins.dotted_keys import dotted

MARK = "[redacted]"
"""Stands where a secret stood."""
SHORTEST = 8
"""Characters of a variable's value that is taken for a secret; a shorter one may be any word."""
SHORTEST_PART = 16
"""Characters of a variable's value that is looked for inside of a recipe's longer texts."""

_VARIABLE = re.compile(
    r"(?i)(?:password|passwd|passphrase|apikey)$|(?:^|_|ssh)pass$|_pwd$"
    r"|(?:^|_)(?:tokens?|secrets?|credentials?|pat|key|auth|webhook|webhook_url)(?:_id)?$"
    r"|(?:^|_)(?:token|secret|credentials?|private_key)_(?!path|file|dir|url)\w+$"
)
_KEY = re.compile(
    r"(?i)(?:^|[^a-z])(?:password|passwd|passphrase|secrets?|credentials?)$"
    r"|(?:api|access|secret|private)[_-]?key$"
    r"|(?:^|[^a-z])(?:hf|hub|ms|om|api|auth|access|bearer|secret|session|refresh)_?token$|^token$"
)
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9_-])(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|sk-(?=[a-z_-]{0,99}[A-Z0-9])(?=[A-Z0-9_-]{0,99}[a-z])(?=[A-Za-z_-]{0,99}[0-9])"
    r"(?=[a-z0-9_-]{0,99}[A-Z])[A-Za-z0-9_-]{20,}"
    r"|glpat-[A-Za-z0-9_-]{16,}|AKIA[0-9A-Z]{16})"
)
"""Tokens of well-known services, alone or behind a sign: not the end of `multi-task-...`."""
_URL = re.compile(r"://[^\s/?#@:{}$'\"<>]{0,256}:[^\s/?#@{}$'\"<>]{1,256}@")
"""User and password of an address; not one with `${...}` in their place. Its length is bounded,
so that no text takes longer than its length."""

REMEDY = (
    "a recipe is kept in the run folder, so it holds no secrets; remove it, and give it to the "
    "program that needs it as a variable of the environment (HF_TOKEN for the hub)"
)


def secret_problems(keys: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """Return one line, `key: what is wrong`, per secret in a recipe; the secret is not in it."""
    return [
        f"{redacted(key)}: {why}; {REMEDY}" for key, text in dotted(keys, prefix)
        if isinstance(text, str) and (why := _why_secret(key, text))
    ]  # fmt: skip


def redacted(text: str) -> str:
    """Return `text` with a mark in place of secrets: the environment's, and those told by form."""
    for value in environment_secrets():
        text = text.replace(value, MARK)
    text = _URL.sub(f"://{MARK}@", text)
    return _SHAPES.sub(MARK, text)


def redacted_tree(value: Any) -> Any:
    """Return plain values with every text in them redacted, the keys of mappings as well."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {redacted_tree(key): redacted_tree(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_tree(inner) for inner in value]
    return value


def environment_secrets() -> tuple[str, ...]:
    """Return the values of the variables whose names tell of a secret, the longest first."""
    return _secrets_of(tuple((k, v) for k, v in os.environ.items() if _VARIABLE.search(k)))


@functools.lru_cache(maxsize=4)
def _secrets_of(variables: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    values = {part for _, value in variables for part in (value.strip(), *value.split())}
    plain = [value for value in values if len(value) >= SHORTEST and not _is_place(value)]
    quoted = {form for value in plain for form in (json.dumps(value)[1:-1], repr(value)[1:-1])}
    return tuple(sorted({*plain, *quoted}, key=len, reverse=True))


def _is_place(value: str) -> bool:
    """Whether it is the path of a file: a variable may tell where a secret lies."""
    return os.path.isabs(value) and os.path.exists(value)  # noqa: PTH110, PTH117  # any text may be


def _why_secret(key: str, text: str) -> str | None:
    name = key.rpartition(".")[2]
    if _URL.search(text):
        return "is an address with a password in it"
    if _SHAPES.search(text) or (_KEY.search(name) and text.strip()):
        return "is a secret"
    known = environment_secrets()
    if text in known or any(value in text for value in known if len(value) >= SHORTEST_PART):
        return "holds the value of a variable of the environment that is a secret by its name"
    return None


class RedactingFormatter(logging.Formatter):
    """A formatter of log lines, with their tracebacks, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return redacted(super().format(record))
