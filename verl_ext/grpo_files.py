"""Whether the files that a GRPO stage's settings name can be used; none is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from ptl_plugins.errors import did_you_mean
from ptl_plugins.given_path import given_path
from verl_ext.grpo_settings import GrpoStageModel, RewardModel, template_path

GENERATION = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
"""A tag of transformers' own in chat templates."""
REMEDIES = {
    "prompt": "give a jinja file, or think_boxed or boxed",
    "chat_template": "give a jinja file, or plain_chat",
    "reward.file": "give a Python file",
}


def file_problems(settings: GrpoStageModel) -> list[str]:
    """Return a line for each file of the settings that is not there, or no text."""
    named = {
        "prompt": template_path(settings.prompt),
        "chat_template": settings.chat_template and template_path(settings.chat_template),
        "reward.file": settings.reward.file and given_path(settings.reward.file),
    }
    found = [(key, _file_problem(Path(path))) for key, path in named.items() if path]
    problems = [f"settings.{key}: {wrong}; {REMEDIES[key]}" for key, wrong in found if wrong]
    return problems or [*_reward_problems(settings.reward), *_chat_problems(settings)]


def _chat_problems(settings: GrpoStageModel) -> Iterator[str]:
    """Yield why a chat template cannot be one."""
    if settings.chat_template is None:
        return
    import jinja2
    import jinja2.meta

    path = template_path(settings.chat_template)
    text = GENERATION.sub("", path.read_text(encoding="utf-8"))
    try:
        form = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except jinja2.TemplateError as error:
        yield f"settings.chat_template: '{path}' is no jinja template ({error})"
        return
    if "messages" not in jinja2.meta.find_undeclared_variables(form):
        yield f"settings.chat_template: '{path}' writes no `messages`; {REMEDIES['chat_template']}"


def _reward_problems(reward: RewardModel) -> Iterator[str]:
    """Yield why a reward of the user's own cannot be called; it is read, not run."""
    if reward.file is None:
        return
    path = given_path(reward.file)
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        yield f"settings.reward.file: '{path}' is no Python ({error})"
        return
    names = _names(module)
    if not names & {reward.function, "*"}:
        yield (
            f"settings.reward.function: '{path}' defines no function '{reward.function}'"
            f"{did_you_mean(str(reward.function), map(str, names))}"
        )


def _names(module: ast.Module) -> set[str | None]:
    """Return the names that a file defines, imports or assigns."""
    names: set[str | None] = set()
    for node in ast.walk(module):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return names


def _file_problem(path: Path) -> str | None:
    try:
        path.read_text(encoding="utf-8")
    except OSError:
        return f"'{path}' is no file"
    except UnicodeDecodeError:
        return f"'{path}' is not UTF-8"
    return None
