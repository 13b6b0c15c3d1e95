"""What a stage's settings have to say where its model is sliced (SliceGPT)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FLASH = ("fa2", "fa3")


def sliced_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line per setting that keeps LLaMA-Factory from loading a sliced checkpoint.

    PTL never sets `trust_remote_code` by itself: code of a folder runs where its user said so.
    """
    if settings.get("trust_remote_code") is not True:
        key = "trust_remote_code"
        given = repr(settings[key]) if key in settings else "is missing"
        yield (
            f"{key}: {given}: a sliced model (unit 'hidden') is loaded by the code in its "
            "checkpoint, which PTL writes; set trust_remote_code: true"
        )
    if (attention := settings.get("flash_attn")) in FLASH:
        yield (
            f"flash_attn: {attention!r}: a sliced model (unit 'hidden') has no flash-attention; "
            "remove the key, or set sdpa"
        )
