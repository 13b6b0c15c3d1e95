"""Redacts the output of a program as it comes, in pieces that may part a secret."""

from __future__ import annotations

import re

from ptl_plugins.secret_values import environment_secrets, redacted

MOST_HELD = 4096
"""Bytes of a word that is not over yet, which wait for the next piece."""
_LAST_WORD = re.compile(rb"\S*\Z")


class RedactedStream:
    """Takes pieces and gives them back without secrets; the last word waits for its end."""

    def __init__(self) -> None:
        self._held = b""
        self._spaced = [s.encode() for s in environment_secrets() if any(map(str.isspace, s))]

    def feed(self, piece: bytes) -> bytes:
        """Return what of all pieces can be shown by now."""
        data = self._held + piece
        shown = self._start_of_word(data)
        for secret in self._spaced:
            shown = min(shown, _start_of(secret, data, shown))
        self._held = data[shown:]
        return _redacted(data[:shown])

    def rest(self) -> bytes:
        """Return what was held back: there is no more."""
        held, self._held = self._held, b""
        return _redacted(held)

    def _start_of_word(self, data: bytes) -> int:
        """Return where the last word begins; one without an end is shown in time."""
        tail = data[-MOST_HELD:]
        word = _LAST_WORD.search(tail)
        return len(data) - (len(word[0]) if word and len(word[0]) < MOST_HELD else 0)


def _start_of(secret: bytes, data: bytes, shown: int) -> int:
    """Return where a secret with spaces begins that ends behind `shown` or is not over yet."""
    if (whole := data.find(secret, max(0, shown - len(secret) + 1))) >= 0:
        return whole
    ends = range(min(len(secret), len(data)), 0, -1)
    return len(data) - next((size for size in ends if data.endswith(secret[:size])), 0)


def _redacted(data: bytes) -> bytes:
    """Redact bytes of any encoding."""
    if not data:
        return data
    try:
        return redacted(data.decode()).encode()
    except UnicodeDecodeError:
        return redacted(data.decode(errors="surrogateescape")).encode(errors="surrogateescape")
