"""The teacher: a checkpoint that is loaded once, frozen, in its own dtype and on its own device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from ptl_plugins.attention import exact_attention
from ptl_plugins.distillation.head import head_of
from ptl_plugins.distillation.loss import TeacherLogits
from ptl_plugins.errors import PTLError
from ptl_plugins.types import DistillSpec


class Teacher:
    """A frozen model and how long its forward passes took."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval().requires_grad_(False)
        self.device = model.device
        self.head = head_of(model)
        self.stopwatch = Stopwatch(self.device)

    @property
    def num_bytes(self) -> int:
        """Bytes of its parameters and buffers, tied ones counted once."""
        return int(self.model.get_memory_footprint())

    @torch.no_grad()
    def logits(
        self, inputs: Mapping[str, Any], is_target: torch.Tensor, device: torch.device
    ) -> TeacherLogits:
        """Run its decoder on a batch; return what gives the logits of a range of the targets.

        Args:
            inputs: the batch without its labels.
            is_target: bool [batch, length - 1], which states predict a target.
            device: where the logits are wanted.
        """
        with self._as_stored():
            moved = {name: _moved(value, self.device) for name, value in inputs.items()}
            decoder: Any = self.model.get_decoder()
            states = decoder(**moved, use_cache=False).last_hidden_state
            states = states[:, :-1][is_target.to(self.device)]

        def logits(part: slice) -> torch.Tensor:
            with torch.no_grad(), self._as_stored():
                return self.head(states[part]).to(device)

        return logits

    @contextlib.contextmanager
    def _as_stored(self) -> Iterator[None]:
        """Time the body, and keep the student's autocast away from the teacher."""
        with self.stopwatch, torch.autocast(self.device.type, enabled=False):
            yield


class Stopwatch:
    """Adds up seconds of a device's work; on a CUDA device without making the program wait."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        self._seconds = 0.0
        self._pairs: list[tuple[Any, Any]] = []
        self._start: Any = None

    def __enter__(self) -> None:
        self._start = self._now()

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self._pairs.append((self._start, self._now()))
        else:
            self._seconds += self._now() - self._start

    def take(self) -> float:
        """Return the seconds since the last call; waits for the device."""
        if self._pairs:
            self._pairs[-1][1].synchronize()
        seconds: float = self._seconds + sum(a.elapsed_time(b) for a, b in self._pairs) / 1000
        self._seconds, self._pairs = 0.0, []
        return seconds

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = cast("Any", torch.cuda.Event)(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def load_teacher(
    spec: DistillSpec, original: str, student: PreTrainedModel, *, device: torch.device
) -> Teacher:
    """Load the teacher of `student`, with the attention that the student has.

    Args:
        spec: which, in which dtype, on which device.
        original: the model that the recipe prunes, which `teacher: original` means.
        student: the model that is trained.
        device: where it is trained, and the teacher too unless the spec names another.

    Raises:
        PTLError: it cannot be loaded, is not on that device, or has another vocabulary.
    """
    name = spec.model(original)
    try:
        model = load_beside(student, name, device=spec.device or device, dtype=spec.dtype)
    except PTLError as error:
        raise PTLError(f"distill.teacher: {error}") from error
    _require_same_vocabulary(name, model, student)
    return Teacher(model)


def load_beside(
    model: PreTrainedModel, name: str, *, device: torch.device | str, dtype: str | None = None
) -> PreTrainedModel:
    """Load a checkpoint that works beside a live model, with the attention that this one has.

    Where that one would leave out what the checkpoint needs, it gets another (`exact_attention`).

    Args:
        model: the live model.
        name: the checkpoint's folder, or a name of the hub.
        device: where the checkpoint goes.
        dtype: a name of torch; None: as it is stored.

    Raises:
        PTLError: it cannot be loaded, or not onto that device.
    """
    from transformers import AutoModelForCausalLM

    from ptl_plugins.model_config import model_folder, read_config
    from ptl_plugins.slicegpt.auto_classes import register_sliced_models

    folder = model_folder(name)
    register_sliced_models()
    beside = model.config._attn_implementation
    attention = exact_attention(read_config(name), beside, dtype=dtype)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype or "auto",
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
        )
        return cast("PreTrainedModel", loaded.to(torch.device(device)))
    except (OSError, RuntimeError, ValueError, ImportError, AssertionError) as error:
        why = str(error).strip().splitlines()
        raise PTLError(
            f"'{name}' cannot be loaded on device '{device}': {why[0] if why else error!r}"
        ) from error


def _require_same_vocabulary(name: str, teacher: PreTrainedModel, student: PreTrainedModel) -> None:
    sizes = [head_of(model).vocabulary for model in (teacher, student)]
    if sizes[0] != sizes[1]:
        raise PTLError(
            f"distill.teacher: '{name}' has {sizes[0]} logits per token, the model {sizes[1]}; "
            "give a checkpoint of the same vocabulary"
        )


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
