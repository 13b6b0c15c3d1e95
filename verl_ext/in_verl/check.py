"""A program that asks verl about a stage: `python -m verl_ext.in_verl.check`.

It reads {"overrides": [...], "rollout": NAME} from stdin and prints one JSON object: `found`,
whether verl is importable; `version`; `problems`, a line each.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from verl_ext.in_verl.profile_texts import profile_problem

SUPPORTED = "0.9.1"
ENGINES = {"vllm": "vllm", "sglang": "sglang"}
"""The module that a rollout needs."""


def main() -> None:
    """Answer; whatever verl prints goes to stderr."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    question = json.load(sys.stdin)
    json.dump(find_problems(question["overrides"], question["rollout"]), answer)
    answer.close()


def find_problems(overrides: Sequence[str], rollout: str) -> Mapping[str, Any]:
    """Return the answer to one question."""
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:  # None: a folder that has its name
        return {"found": False, "version": None, "problems": []}
    try:
        import verl
    except Exception as error:
        problem = f"settings: verl cannot be imported ({_first_line(error)})"
        return {"found": True, "version": None, "problems": [problem]}
    version = str(getattr(verl, "__version__", "unknown"))
    problems = [*_wrong_verl(version)]
    if not problems:
        problems = [*_unregistered(rollout), *_wrong_config(overrides)]
    return {"found": True, "version": version, "problems": problems}


def _wrong_verl(version: str) -> Iterator[str]:
    if not _is_module("verl.trainer.main_ppo"):
        easyr1 = _is_module("verl.trainer.main")
        kind = "EasyR1; use backend easyr1" if easyr1 else "not verl; name another interpreter"
        yield f"python: what is called verl in {sys.executable} is {kind}"
    elif version != SUPPORTED:
        yield f"settings: verl {version} in {sys.executable}; {SUPPORTED} is supported"


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _unregistered(rollout: str) -> Iterator[str]:
    """Yield what of PTL's is unknown to verl, which hides the errors of what it loads."""
    remedy = "PTL's plugin was not loaded; run `python -c 'import verl_ext.in_verl.plugin'` there"
    try:
        from verl.plugin.platform import PlatformRegistry
        from verl.trainer.ppo.v1 import get_trainer_cls
        from verl.workers.rollout.base import _ROLLOUT_REGISTRY

        get_trainer_cls("ptl_sync")
        if "cpu" not in PlatformRegistry.registered_names():
            yield f"settings: verl does not know the platform 'cpu': {remedy}"
        if (rollout, "async") not in _ROLLOUT_REGISTRY:
            yield f"settings.rollout: verl does not know '{rollout}': {remedy}"
    except ImportError as error:
        yield f"settings: verl's trainers cannot be imported ({_first_line(error)})"
    except ValueError as error:
        yield f"settings: {_first_line(error)} {remedy}"
    if (module := ENGINES.get(rollout)) and importlib.util.find_spec(module) is None:
        yield f"settings.rollout: '{module}' is not importable in {sys.executable}; install it"


def _wrong_config(overrides: Sequence[str]) -> Iterator[str]:
    """Yield what Hydra, verl's dataclasses or its `validate_config` find."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    try:
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose("ppo_trainer", overrides=list(overrides))
        OmegaConf.resolve(config)
        validate_config(
            config=config,
            use_reference_policy=need_reference_policy(config),
            use_critic=need_critic(config),
        )
        omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
        if problem := profile_problem(config):
            yield problem
    except Exception as error:  # each of them has errors of its own
        yield _first_line(error)


def _first_line(error: BaseException) -> str:
    """Return an error in one line, with that of its cause: Hydra's own often names no key."""
    text = str(error) or type(error).__name__
    if error.__cause__ is not None and str(error.__cause__) not in text:
        text = f"{text} ({error.__cause__})"
    return re.sub(r"\s*\n\s*", "; ", text.strip())


if __name__ == "__main__":
    main()
