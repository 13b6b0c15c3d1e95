"""What no line of PTL does: shells, pickles, a checkpoint's code, names that can be guessed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("ptl_plugins", "llamafactory_ext", "verl_ext", "benchmarks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

NEVER = {
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn",
    "pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open", "dill.load",
    "joblib.load", "tempfile.mktemp", "yaml.unsafe_load", "yaml.full_load", "eval",
}  # fmt: skip
"""Calls that run what a text or a file says, or write where another user may be first."""
SHELLS = {"sh", "bash", "/bin/sh", "/bin/bash", "zsh", "cmd"}
SAFE_LOADERS = {"BoundedLoader", "_PlainLoader"}
"""Subclasses of yaml.SafeLoader."""
EXECUTES = {
    "ptl_plugins/code_execution/harness.py": "a model's program, within walls",
    "ptl_plugins/evaluation/math_judge_worker.py": "functions of the installed lm-eval",
    "ptl_plugins/evaluation/upstream_tasks.py": "functions of the installed lm-eval",
}
"""Where text becomes code, and what it is; a new place is a decision."""
GGUF = "gguf_file"
"""from_pretrained with it reads one file of numbers."""


def name_of(node: ast.expr) -> str:
    """Return a dotted name, or the last part of one that begins with an expression."""
    if isinstance(node, ast.Attribute):
        inner = name_of(node.value)
        return f"{inner}.{node.attr}" if inner else f".{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(ROOT)), name_of(node.func), node


CALLS = list(calls())


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in call.keywords if k.arg == name), None)


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def places(found: Iterator[tuple[str, ast.Call]]) -> list[str]:
    return [f"{path}:{call.lineno}" for path, call in found]


def test_the_source_was_found():
    assert len(FILES) > 150
    assert any(name.endswith("from_pretrained") for _, name, _ in CALLS)


@pytest.mark.parametrize("name", sorted(NEVER))
def test_is_never_called(name):
    assert places((p, c) for p, n, c in CALLS if n == name) == []


def test_programs_are_lists_of_words_and_never_a_shells_line():
    with_shell = (
        (p, c)
        for p, _, c in CALLS
        if not is_constant(keyword(c, "shell") or ast.Constant(False), False)
    )
    assert places(with_shell) == []
    starts = {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call",
              "subprocess.check_output"}  # fmt: skip
    as_text = (
        (p, c) for p, n, c in CALLS
        if n in starts and c.args and isinstance(c.args[0], ast.Constant | ast.JoinedStr)
    )  # fmt: skip
    assert places(as_text) == []


def test_no_word_of_a_command_is_a_shell():
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List | ast.Tuple) and node.elts:
                first = node.elts[0]
                if isinstance(first, ast.Constant) and first.value in SHELLS:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_torch_loads_weights_only():
    loads = [(p, c) for p, n, c in CALLS if n == "torch.load"]
    assert loads  # of a rank's shard
    assert (
        places((p, c) for p, c in loads if not is_constant(keyword(c, "weights_only"), True)) == []
    )


def test_yaml_is_loaded_by_safe_loaders():
    for path, name, call in CALLS:
        if name == "yaml.load":
            loader = keyword(call, "Loader")
            assert loader is not None, path
            assert name_of(loader) in SAFE_LOADERS, path


def test_text_becomes_code_in_known_places_alone():
    assert {p for p, n, _ in CALLS if n == "exec"} == EXECUTES.keys()


def test_code_of_a_checkpoint_never_runs_and_weights_are_safetensors():
    loads = [
        (p, n, c) for p, n, c in CALLS
        if n.endswith(".from_pretrained") and n.split(".")[0].startswith("Auto")
        and not p.startswith("benchmarks")
    ]  # fmt: skip
    assert len(loads) > 8
    for path, name, call in loads:
        where = f"{path}:{call.lineno}"
        assert is_constant(keyword(call, "trust_remote_code"), False), where
        if name.startswith("AutoModel") and keyword(call, GGUF) is None:
            assert is_constant(keyword(call, "use_safetensors"), True), where


def test_nothing_switches_remote_code_on():
    on = ((p, c) for p, _, c in CALLS if is_constant(keyword(c, "trust_remote_code"), True))
    assert places(on) == []


def test_imports_of_pickles():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "marshal", "shelve", "dill", "cloudpickle"} & set(names), path
