"""Lets LLaMA-Factory's own parser read a yaml; a program for the interpreter that has it.

`settings_check` passes this file's text to that interpreter by `-c`: PTL need not be installed
there, so only the standard library and what LLaMA-Factory itself depends on is imported. It
reads the yaml from stdin and prints one JSON object: `found`, whether LLaMA-Factory is
importable, and `problems`, rows of key, text, and a value with the words it may have meant.

Every key is held against the annotation and the choices of its dataclass, because the parser's
`parse_dict` looks at neither; then each dataclass is built, for the checks of `__post_init__`.
What a machine and not the recipe decides is left out of that (`MACHINE`), and `use_cpu` is set:
`bf16` needs no GPU then, and no device is looked for.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

MACHINE = {
    "deepspeed",  # the package, and a file beside the one who starts the run
    "fsdp_config",  # a file
    "accelerator_config",  # a file
    "new_special_tokens_config",  # a file
    "tf32",  # refused where there is no GPU of that kind
    "torch_compile",  # sets up a compiler
    "ddp_backend",  # the process group's, with names such as cpu:gloo,cuda:nccl
    "local_rank",
    "report_to",  # `all` imports every tracker
}
"""Keys whose type is checked, and that are not given to the dataclass."""

NAMES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
    dict: "a mapping", list: "a list", type(None): "null",
}  # fmt: skip

Problem = tuple[str, str, str, Sequence[str]]


def main() -> None:
    """Read the yaml from stdin, print the answer; whatever else is printed goes to stderr."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = importlib.util.find_spec("llamafactory")
    found = spec is not None and spec.origin is not None  # None: a folder that has its name
    problems = find_problems(sys.stdin.read()) if found else []
    json.dump({"found": found, "problems": problems}, answer)
    answer.close()


def find_problems(text: str) -> list[Problem]:
    """Return what is wrong with a yaml's keys: those of no dataclass, and what each one finds."""
    from omegaconf import OmegaConf

    try:
        keys: Any = OmegaConf.to_container(OmegaConf.create(text))  # as `read_args` does
    except Exception as error:
        return [("", f"OmegaConf cannot read the yaml: {one_line(error)}", "", ())]
    from llamafactory.hparams import parser

    groups = parser._TRAIN_ARGS
    known = [name for group in groups for name in field_names(group)]
    why = f"is no setting of LLaMA-Factory {importlib.metadata.version('llamafactory')}"
    problems: list[Problem] = [(str(k), why, str(k), known) for k in keys if k not in known]
    for group in groups:
        names = field_names(group)
        problems += group_problems(group, {k: v for k, v in keys.items() if k in names})
    return problems


def field_names(group: type[Any]) -> list[str]:
    """Return the keys that a dataclass takes."""
    return [field.name for field in dataclasses.fields(group) if field.init]


def group_problems(group: type[Any], keys: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with the keys of one dataclass, or else what the whole refuses."""
    from transformers import HfArgumentParser

    parser = HfArgumentParser(cast("Any", group))
    choices = {action.dest: action.choices for action in parser._actions}
    hints = get_type_hints(group)
    problems = [
        problem
        for key, value in keys.items()
        if (problem := key_problem(key, value, hints[key], choices.get(key)))
    ]
    if problems:
        return problems  # a wrong value would only be told again, in other words
    inputs = {key: value for key, value in keys.items() if key not in MACHINE}
    if "use_cpu" in field_names(group):
        inputs["use_cpu"] = True
    try:
        parser.parse_dict(inputs)
    except ImportError:  # an optional package is not installed on this machine
        return []
    except Exception as error:
        return [("", f"LLaMA-Factory refuses the settings: {one_line(error)}", "", ())]
    return []


def key_problem(key: str, value: object, hint: Any, choices: Any) -> Problem | None:
    """Return what is wrong with one value: of no choice, or of another type."""
    if choices and key not in MACHINE and not isinstance(value, list) and value is not None:
        allowed = [str(choice) for choice in choices]
        if value in list(choices):
            return None
        quoted = "; quote words that YAML reads as true or false" * isinstance(value, bool)
        return (key, f"{value!r}: allowed: {', '.join(allowed)}{quoted}", str(value), allowed)
    if fits(value, hint):
        return None
    return (key, f"{value!r} is not {described(hint)}", "", ())


def fits(value: object, hint: Any) -> bool:
    """Whether a value that YAML gave can stand where the annotation is `hint`.

    Strict, since nothing converts it later: a text 'false' would count as true.
    """
    import pydantic

    members = union_members(hint)
    if bool in members and value in (None, 0, 1):
        return True  # taken as truth values
    if str in members and isinstance(value, list):
        return all(isinstance(item, (str, int, float)) for item in value)  # as text with commas
    try:
        config = pydantic.ConfigDict(arbitrary_types_allowed=True, strict=True)
        pydantic.TypeAdapter(hint, config=config).validate_python(value)
    except pydantic.ValidationError:
        return False
    except pydantic.errors.PydanticUserError:
        return True  # an annotation that pydantic cannot read; the dataclass itself is left
    return True


def union_members(hint: Any) -> tuple[Any, ...]:
    """Return the alternatives of an annotation."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(inner for member in get_args(hint) for inner in union_members(member))
    return (hint,)


def described(hint: Any) -> str:
    """Return an annotation in the words of a yaml's writer."""
    words = [NAMES.get(get_origin(m) or m, str(m)) for m in union_members(hint)]
    return " or ".join(dict.fromkeys(words))


def one_line(error: Exception) -> str:
    """Return an exception as one line."""
    text = " ".join(str(error).split()) or "no reason is given"
    return text if isinstance(error, (ValueError, AssertionError)) else f"{error!r}"


if __name__ == "__main__":
    main()
