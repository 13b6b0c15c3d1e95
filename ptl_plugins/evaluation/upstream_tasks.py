"""Prompts, shots and scoring rules of the installed lm-eval, read without importing its tasks.

lm-eval's `minerva_math/utils.py` refuses to be imported beside any antlr4 runtime but 4.11, and
omegaconf (LLaMA-Factory, verl) pins 4.9.3; its `mbpp/utils.py` loads a metric from the hub at
import. The functions that write prompts and normalize answers need neither. They are read out of
the installed file: function and class definitions, imports of the standard library, and
assignments that need nothing else are kept; guarded imports and other packages are left out.
Nothing of lm-eval is copied here, so that the rules are always those of the installed version;
they do change (0.4.13 normalizes Minerva's answers otherwise than 0.4.12): note the version and
`task_digest` with every result.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import hashlib
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from packaging.specifiers import SpecifierSet

from ptl_plugins.errors import PTLError, UnknownNameError, did_you_mean

FunctionFile = Literal["minerva_math", "mbpp"]
TaskName = Literal["gsm8k_cot", "minerva_math_algebra", "minerva_math500", "mbpp"]

SUPPORTED = SpecifierSet(">=0.4.9.2,<0.5")
"""Versions of lm-eval whose files these functions read."""
TESTED = "0.4.13"
"""The version whose files the digests in the tests belong to."""
INSTALL = "pip install 'ptl[eval]'"

NEEDED: dict[str, tuple[str, ...]] = {
    "minerva_math": (
        "doc_to_text",
        "list_fewshot_samples",
        "process_docs",
        "last_boxed_only_string",
        "remove_boxed",
        "get_unnormalized_answer",
        "normalize_final_answer",
        "is_equiv",
    ),
    "mbpp": ("list_fewshot_samples",),
}
"""What PTL calls of each file."""
CONFIG_FILES: dict[str, str] = {
    "gsm8k_cot": "gsm8k/gsm8k-cot.yaml",
    "minerva_math_algebra": "minerva_math/minerva_math_algebra.yaml",
    "minerva_math500": "minerva_math/minerva_math500.yaml",
    "mbpp": "mbpp/mbpp.yaml",
}
FUNCTIONS_OF: dict[str, FunctionFile] = {
    "minerva_math_algebra": "minerva_math",
    "minerva_math500": "minerva_math",
    "mbpp": "mbpp",
}
"""Whose functions a task's `!function` tags name."""


def load_task_functions(name: FunctionFile) -> types.ModuleType:
    """Return a module with the functions of lm-eval's `tasks/<name>/utils.py`.

    Functions that call left out packages (`process_results`, `pass_at_1`) fail when called;
    `is_equiv` works where the caller sets `sympy` and `parse_latex` in the module.

    Raises:
        PTLError: lm-eval is missing or not a supported version, or its file lacks a function.
    """
    module = types.ModuleType(f"{__name__}.{name}")
    code = compile(
        task_source(name),
        str(_function_file(name)),
        "exec",
        flags=__future__.annotations.compiler_flag,  # their types are of left out packages
        dont_inherit=True,
    )
    try:
        exec(code, module.__dict__)
    except Exception as error:
        raise _unreadable(name, f"{type(error).__name__}: {error}") from None
    lacking = [needed for needed in NEEDED[name] if not callable(getattr(module, needed, None))]
    if lacking:
        raise _unreadable(name, f"has no function {', '.join(lacking)}")
    return module


def task_source(name: FunctionFile) -> str:
    """Return the parts of lm-eval's `tasks/<name>/utils.py` that are used, as Python source.

    Raises:
        PTLError: lm-eval is missing or not a supported version, or its file cannot be read.
    """
    if name not in NEEDED:
        raise _unknown(name, get_args(FunctionFile))
    text = _read(_function_file(name))
    lines = text.splitlines()
    try:
        kept = list(_standing_alone(ast.parse(text)))
    except SyntaxError as error:
        raise _unreadable(name, f"is not Python: {error.msg}") from None
    return "\n\n".join("\n".join(lines[slice(*_lines_of(node))]) for node in kept) + "\n"


def load_task_config(name: TaskName) -> dict[str, Any]:
    """Return lm-eval's yaml of a task, its `include` followed, as plain values.

    `!function utils.f` becomes the text `utils.f`.

    Raises:
        PTLError: lm-eval is missing or not a supported version, or its file cannot be read.
    """
    if name not in CONFIG_FILES:
        raise _unknown(name, get_args(TaskName))
    config = _read_config(_tasks_folder() / CONFIG_FILES[name])
    if config.get("task") != name:
        raise _unreadable(name, f"{CONFIG_FILES[name]} is the task {config.get('task')!r}")
    return config


def task_digest(name: TaskName) -> str:
    """Return 16 hex digits that change with the yaml, the prompts, shots or rules of a task.

    Raises:
        PTLError: as `load_task_config` and `task_source`.
    """
    config = load_task_config(name)
    parts = [yaml.safe_dump(config, sort_keys=True)]
    if name in FUNCTIONS_OF:
        parts.append(task_source(FUNCTIONS_OF[name]))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def installed_version() -> str:
    """Return the version of lm-eval, one of `SUPPORTED`.

    Raises:
        PTLError: lm-eval is missing or another version.
    """
    try:
        version = importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        raise PTLError(f"lm-eval is not installed: {INSTALL}") from None
    if not SUPPORTED.contains(version, prereleases=True):
        raise PTLError(
            f"lm-eval {version} is installed, but PTL reads the tasks of lm-eval {SUPPORTED}"
            f" (tested: {TESTED}): pip install 'lm-eval=={TESTED}'"
        )
    return version


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader that reads lm-eval's `!function` tags as text."""


def _function_text(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    assert isinstance(node, yaml.ScalarNode)
    return str(loader.construct_scalar(node))


_PlainLoader.add_constructor("!function", _function_text)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        own = yaml.load(_read(path), Loader=_PlainLoader)  # a SafeLoader
    except yaml.YAMLError:
        raise _unreadable(path.stem, f"{path} is not YAML") from None
    if not isinstance(own, dict):
        raise _unreadable(path.stem, f"{path} holds no keys")
    included = own.pop("include", [])
    config: dict[str, Any] = {}
    for file in included if isinstance(included, list) else [included]:
        config |= _read_config(path.parent / file)
    return config | own


def _standing_alone(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that need the standard library and one another, but nothing else."""
    known = {*dir(builtins), "__name__"}
    for node in tree.body:
        if isinstance(node, ast.Import):
            keep = all(_is_standard(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            keep = not node.level and _is_standard(node.module or "")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            keep = node.value is not None and _loaded(node.value) <= known
        else:
            keep = isinstance(node, ast.FunctionDef | ast.ClassDef)
        if keep:
            known |= _bound(node)
            yield node


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _loaded(value: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    assert isinstance(node, ast.Assign | ast.AnnAssign)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _lines_of(node: ast.stmt) -> tuple[int, int]:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return first - 1, node.end_lineno or node.lineno


def _function_file(name: str) -> Path:
    return _tasks_folder() / name / "utils.py"


def _tasks_folder() -> Path:
    """Folder of the tasks in the installed lm-eval, which is looked up and not imported."""
    installed_version()
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise PTLError(f"lm-eval has metadata but no files: {INSTALL} --force-reinstall")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise _unreadable(path.parent.name, f"{path}: {reason}") from None


def _unreadable(name: str, reason: str) -> PTLError:
    return PTLError(
        f"lm-eval {installed_version()} has another task {name} than PTL knows ({reason}):"
        f" pip install 'lm-eval=={TESTED}'"
    )


def _unknown(name: str, known: tuple[str, ...]) -> UnknownNameError:
    return UnknownNameError(
        f"no lm-eval task {name!r} is read{did_you_mean(name, known)}; known: {', '.join(known)}"
    )
