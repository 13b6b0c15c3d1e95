"""The rounds' training logs as one history, for plots and `trainer_state.json`."""

from __future__ import annotations

import json
from typing import Any

from ptl_plugins.run_folder import RunFolder

STATE_FILE = "trainer_state.json"


def merged_history(run: RunFolder) -> list[dict[str, Any]]:
    """Return the log entries of all finished rounds, their steps counted on."""
    history: list[dict[str, Any]] = []
    offset = 0
    for index in range(1, run.num_finished() + 1):
        path = run.round_folder(index) / "stage_0" / STATE_FILE
        if not path.exists():
            continue
        state = json.loads(path.read_text(encoding="utf-8"))
        for entry in state["log_history"]:
            history.append({**entry, "step": entry["step"] + offset, "ptl_round": index})
        offset += state["global_step"]
    return history
