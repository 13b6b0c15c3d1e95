"""A program that forks runs of `ptl run`: what a run imports is imported once, before.

It reads one JSON a line: {"start": words, "folder": F, "environment": E} answers with a pid,
{"wait": pid} with the exit code, negative for a signal.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback

NEEDED = (
    "torch", "transformers", "transformers.models.llama.modeling_llama", "safetensors.torch",
    "ptl_plugins.cli.run", "ptl_plugins.run", "ptl_plugins.live", "ptl_plugins.profiling",
    "ptl_plugins.checkpoint_surgery", "ptl_plugins.checkpoint_refit", "ptl_plugins.text_data",
    "ptl_plugins.testing.fake_backend", "ptl_plugins.evaluators.chain_of_thought",
    "ptl_plugins.steps", "ptl_plugins.scores_file", "ptl_plugins.recovered",
    "llamafactory_ext.plugin",
)  # fmt: skip


def main() -> None:
    for name in NEEDED:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            run(order)


def run(order: dict) -> None:
    """Be `ptl WORDS`, with its output in the file `said` of the folder."""
    code = 1
    try:
        os.chdir(order["folder"])
        os.environ.update(order["environment"])
        said = os.open(order["said"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(said, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = ["ptl", *order["start"]]
        from ptl_plugins.cli.main import main as command_line

        command_line()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)


main()
