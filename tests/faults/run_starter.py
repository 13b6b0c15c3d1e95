"""A program that forks commands: what they import is imported once, before.

Its arguments name the sets of modules of NEEDED. It reads one JSON a line:
{"start": words, "folder": F, "environment": E} answers with a pid, {"wait": pid} with the exit
code, negative for a signal. The first word of `start` is `ptl` or `llamafactory-cli`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path

NEEDED = {
    "run": (
        "torch", "transformers", "transformers.models.llama.modeling_llama", "safetensors.torch",
        "safetensors.numpy", "ptl_plugins.cli.run", "ptl_plugins.run", "ptl_plugins.live",
        "ptl_plugins.profiling", "ptl_plugins.checkpoint_surgery", "ptl_plugins.checkpoint_refit",
        "ptl_plugins.text_data", "ptl_plugins.testing.fake_backend",
        "ptl_plugins.evaluators.chain_of_thought", "ptl_plugins.steps", "ptl_plugins.scores_file",
        "ptl_plugins.recovered", "llamafactory_ext.plugin", "ptl_plugins.profile_run",
        "ptl_plugins.cli.profile", "ptl_plugins.profile_journal", "ptl_plugins.cli.prune",
        "ptl_plugins.prune_run", "ptl_plugins.corpora.prepare", "ptl_plugins.cli.data",
        "ptl_plugins.cli.study", "ptl_plugins.study.study_run", "rich.progress",
    ),
    "llamafactory": (
        "llamafactory.cli", "llamafactory.launcher", "llamafactory.train.tuner",
        "llamafactory_ext.session", "llamafactory_ext.trainer",
    ),
    "eval": (
        "lm_eval", "lm_eval.tasks", "ptl_plugins.cli.evaluate", "ptl_plugins.evaluation.request",
        "ptl_plugins.evaluation.counting_lm", "ptl_plugins.evaluation.teacher_forced", "sympy",
    ),
}  # fmt: skip


def main() -> None:
    for name in sys.argv[1:] or ["run"]:
        for module in NEEDED[name]:
            importlib.import_module(module)
    work_in_small_pieces()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            run(order)


def work_in_small_pieces() -> None:
    """Let tiny work be saved as often as large work is: after each batch, in several chunks."""
    from ptl_plugins.corpora.prepare import CorpusRequest
    from ptl_plugins.profile_journal import FileJournal

    FileJournal.__init__.__kwdefaults__["interval"] = 0.0
    CorpusRequest.__init__.__kwdefaults__.update(chunk_bytes=700, shard_rows=20)


def run(order: dict) -> None:
    """Be the command, with its output in the file `said` of the folder."""
    code = 1
    try:
        os.chdir(order["folder"])
        os.environ.update(order["environment"])
        said = os.open(order["said"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(said, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = list(order["start"])
        if "PTL_FAULT" in order["environment"]:
            sys.path.append(str(Path(__file__).resolve().parent))
            import fault_points

            fault_points.install()
        if sys.argv[0] == "ptl":
            from ptl_plugins.cli.main import main as command_line
        else:
            from llamafactory.cli import main as command_line

        command_line()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)


main()
