"""verl's platform `cpu`: it answers everything that verl's base class asks for."""

from __future__ import annotations

import importlib.util
import inspect
import warnings

import pytest
import torch

if not importlib.util.find_spec("verl"):
    pytest.skip("needs verl", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # verl imports what is deprecated
    from verl.plugin.platform import PlatformBase, PlatformRegistry

from verl_ext.in_verl.cpu_platform import CpuPlatform

ANSWERS = {
    "device_name": "cpu",
    "vendor_name": "cpu",
    "is_available": True,
    "current_device": "cpu",
    "device_count": 1,
    "get_device_capability": (None, None),
    "communication_backend_name": "gloo",
    "visible_devices_envvar": "CUDA_VISIBLE_DEVICES",
    "ray_resource_name": "GPU",
    "ray_noset_envvars": ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"],
    "is_ipc_supported": False,
    "set_device": None,
    "synchronize": None,
    "manual_seed": None,
    "manual_seed_all": None,
    "set_allocator_settings": None,
    "empty_cache": None,
    "profiler_start": None,
    "profiler_stop": None,
    "cudart": None,
}
ARGUMENTS = {
    "set_device": (0,),
    "manual_seed": (3,),
    "manual_seed_all": (3,),
    "set_allocator_settings": ("expandable_segments:True",),
}
OF_CUDA = ("empty_cache", "ipc_collect", "synchronize", "reset_peak_memory_stats")


@pytest.fixture
def platform():
    return CpuPlatform()


def test_verl_knows_it_by_name():
    import verl_ext.in_verl.plugin  # noqa: F401

    assert PlatformRegistry.get("cpu").__name__ == "CpuPlatform"


def test_every_question_of_verls_base_class_is_answered_here(platform):
    asked = set(PlatformBase.__abstractmethods__)
    assert asked <= set(ANSWERS) | {"device_module", "nvtx_range", "is_platform_available"}


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_an_answer_is_that_of_a_machine_without_a_gpu(platform, name):
    found = getattr(platform, name)
    if inspect.ismethod(found):
        found = found(*ARGUMENTS.get(name, ()))
    assert found == ANSWERS[name]


def test_it_is_available_only_where_it_is_asked_for(platform, monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert not platform.is_platform_available(use_smi_check=True)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert platform.is_platform_available()


def test_a_range_of_a_profiler_is_a_plain_block(platform):
    with platform.nvtx_range("step"):
        ran = True
    assert ran


def test_seeds_are_torchs(platform):
    platform.manual_seed(11)
    first = torch.rand(3)
    platform.device_module.manual_seed_all(11)
    assert torch.equal(first, torch.rand(3))


def test_its_module_stands_for_torch_cuda(platform):
    module = platform.device_module
    for name in OF_CUDA:
        assert getattr(module, name)() is None
    assert module.memory_allocated() == module.max_memory_reserved() == 0
    free, total = module.mem_get_info()
    assert 0 < free < total
    assert (module.is_available(), module.device_count()) == (True, 1)
    assert module.current_device() == "cpu"
    assert module.get_device_name(0) == "CPU"
    assert module.Stream is torch.cpu.Stream


def test_its_module_keeps_and_sets_the_state_of_the_generator(platform):
    state = platform.device_module.get_rng_state()
    first = torch.rand(3)
    platform.device_module.set_rng_state(state)
    assert torch.equal(first, torch.rand(3))
