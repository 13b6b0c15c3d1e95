"""Whether a stage's problems can be read and asked, before the rounds that come first are run."""

from __future__ import annotations

from ptl_plugins.errors import PTLError
from ptl_plugins.given_path import given_path
from ptl_plugins.text_data import SUFFIXES
from verl_ext.grpo_settings import GrpoStageModel, template_path
from verl_ext.problems import Problem, round_problems, verl_rows

EXAMPLE = Problem(question="What is 1 + 1?", answer="2")


def data_problems(settings: GrpoStageModel) -> list[str]:
    """Return a line for problems that cannot be read, and for a prompt that cannot be rendered.

    A data set of the hub is not looked at: that may be a download.
    """
    found = []
    path = given_path(settings.problems.path)
    if path.exists() or path.suffix in SUFFIXES:
        try:
            round_problems(settings.problems, round_index=1, weights=(1,), seed=0)
        except PTLError as error:
            found.append(f"settings.problems: {error}")
    try:
        verl_rows([EXAMPLE], template_path(settings.prompt))
    except PTLError as error:
        found.append(f"settings.prompt: {error}")
    return found
