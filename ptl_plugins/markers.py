"""The two pluggy markers; nothing else is imported, so every plugin may import it cheaply."""

from __future__ import annotations

import pluggy

PROJECT = "ptl"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
