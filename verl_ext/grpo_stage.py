"""What a GRPO stage is given, beside its settings: files, model, machines, seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFacts:
    """Facts of one stage that both translations need; every path is absolute."""

    model: Path
    """The pruned checkpoint that is trained."""
    train: Path
    """The round's part of the problems, in the framework's form (jsonl)."""
    validation: Path
    """A few problems: EasyR1 validates at the end whatever is asked."""
    reward_file: Path
    reward_function: str
    prompt: Path
    """The prompt's template."""
    chat_template: Path | None
    saved: Path
    """Where the framework saves: of this stage alone, so that it never finds an old shape."""
    steps: Path
    """Where a line per step goes."""
    processes: int
    """GPUs of each machine."""
    seed: int
