"""verl's platform `cpu`: where no accelerator is, its processes are counted as GPUs by Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, cast

import torch
from verl.plugin.platform import PlatformBase


class CpuModule:
    """`torch.cpu`, and the calls that verl makes on `torch.cuda` beside."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def _nothing(self, *args: object) -> None:
        """Do what has no meaning here."""

    def _no_bytes(self, *args: object) -> int:
        return 0

    empty_cache = ipc_collect = synchronize = set_device = reset_peak_memory_stats = _nothing
    memory_allocated = memory_reserved = max_memory_allocated = max_memory_reserved = _no_bytes

    def mem_get_info(self, *args: object) -> tuple[int, int]:
        """Return the machine's free and total bytes."""
        import psutil

        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def is_available(self) -> bool:
        """Return True: there always is a CPU."""
        return True

    def device_count(self) -> int:
        """Return one: a process has one CPU device."""
        return 1

    def current_device(self) -> str:
        """Return what torch calls the device."""
        return "cpu"

    def get_device_name(self, *args: object) -> str:
        """Return a name for logs."""
        return "CPU"

    def manual_seed(self, seed: int) -> None:
        """Seed the only generator there is."""
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_rng_state(self, *args: object) -> torch.Tensor:
        """Return the state of the only generator there is."""
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *args: object) -> None:
        """Set the state of the only generator there is."""
        torch.set_rng_state(state)


class CpuPlatform(PlatformBase):
    """The platform that `VERL_PLATFORM=cpu` asks for; it is never chosen by itself."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = cast("ModuleType", CpuModule())

    def is_available(self) -> bool:
        """Return True: there always is a CPU."""
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Return whether it was asked for."""
        return os.environ.get("VERL_PLATFORM") == "cpu"

    def current_device(self) -> Any:
        """Return what torch calls the device; verl puts tensors there."""
        return "cpu"

    def device_count(self) -> int:
        """Return one."""
        return 1

    def set_device(self, device_index: int) -> None:
        """Do nothing."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Do nothing."""

    def manual_seed(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """Do nothing."""

    def empty_cache(self) -> None:
        """Do nothing."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """Return that there is none."""
        return None, None

    def communication_backend_name(self) -> str:
        """Return gloo."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """Return CUDA's: Ray sets it for what it takes for GPUs."""
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """Do nothing around the body."""
        yield

    def profiler_start(self) -> None:
        """Do nothing."""

    def profiler_stop(self) -> None:
        """Do nothing."""

    def ray_resource_name(self) -> str:
        """Return GPU: verl counts no other resource (`ray_kwargs.ray_init.num_gpus` sets it)."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """Return the variable that keeps Ray from hiding devices."""
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """Return False: tensors go through Ray."""
        return False

    def cudart(self) -> Any:
        """Return None."""
        return None
