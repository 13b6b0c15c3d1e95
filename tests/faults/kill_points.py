"""A plugin that notes every place where a run is killed, and kills it at one of them.

The environment says where: PTL_TRACE is the file that the places go to, one a line, and
PTL_KILL_AT the number of the one at which the process gets SIGKILL; 0 is none.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
from pathlib import Path

from ptl_plugins import checkpoint_surgery, left_program, live, profiling, recovered, shard_writer
from ptl_plugins.evaluators import task
from ptl_plugins.markers import hookimpl
from ptl_plugins.run_folder import EVENTS, RunFolder

TRACE = Path(os.environ["PTL_TRACE"])
KILL_AT = int(os.environ["PTL_KILL_AT"])
OUT = Path.cwd() / os.environ.get("PTL_OUT", "out")
now = {"round": 0, "count": 0, "inside": None}


def tell(text):
    with TRACE.open("a", encoding="utf-8") as stream:
        stream.write(text + "\n")


def passing(name, first=lambda: None):
    """Note a place; if it is the one, do what a kill in its midst leaves, and die."""
    now["count"] += 1
    tell(f"point {name}")
    if now["count"] == KILL_AT:
        first()
        os.kill(os.getpid(), signal.SIGKILL)


def short(path):
    """Return a path below the run folder without what differs from run to run, or None."""
    path = Path(path).absolute()
    if not path.is_relative_to(OUT):
        return None
    parts = path.relative_to(OUT).parts
    return "/".join(re.sub(r"\.[0-9a-f]{8}-\d+-[0-9a-f]+", "", part) for part in parts)


def before(name, operation):
    """Wrap a call of the system that changes the run folder."""

    @functools.wraps(operation)
    def wrapper(path, *args, **keys):
        where = None if keys.get("dir_fd") is not None else short(path)
        if where and (name == "mkdir") != Path(path).exists():  # else it changes nothing
            passing(f"{name} {where}")
        result = operation(path, *args, **keys)
        if where is None and now["inside"]:  # the first of a folder's files went
            where, now["inside"] = now["inside"], None
            passing(f"rmtree, amid {where}")
        return result

    return wrapper


def watched_rmtree(path, *args, **keys):
    where = short(path) if Path(path).is_dir() else None
    if where is not None:
        passing(f"rmtree {where}")
        now["inside"] = where
    try:
        return RMTREE(path, *args, **keys)
    finally:
        now["inside"] = None


def half_an_event(self, name, **facts):
    def torn():
        with (self.path / EVENTS).open("ab") as stream:
            stream.write(b'\n{"time": 17')

    passing(f"event {name} {facts.get('step', '')}", torn)
    EVENT(self, name, **facts)


def half_a_shard(self, num_bytes):
    half = self._pending[: num_bytes // 2].tobytes()
    passing("amid a shard of the surgery", lambda: os.write(self._target.fileno(), half))
    WRITE(self, num_bytes)


def half_a_recovered_shard(tensors, path, metadata=None):
    SAVE(tensors, path, metadata)
    passing("amid a recovered shard", lambda: os.truncate(path, Path(path).stat().st_size // 2))


def amid_batches(*args, after_batch, **keys):
    def after(done):
        if done == 1:
            passing("amid the profile's batches")
        after_batch(done)

    return BATCHES(*args, after_batch=after, **keys)


def noted_program(note, command, pid=None):
    NOTE(note, command, pid)
    passing("the program runs" if pid else "the program is about to start")


def working(name, function):
    """Wrap a function whose work is not to be done twice."""

    @functools.wraps(function)
    def wrapper(*args, **keys):
        tell(f"work {now['round']} {name}")
        return function(*args, **keys)

    return wrapper


def amid_the_evaluation(self, ctx, subject, settings):
    tell(f"work {now['round']} evaluate {now['model']}")
    passing(f"amid the evaluation of {now['model']}")
    return EVALUATE(self, ctx, subject, settings)


RMTREE, EVENT, WRITE = shutil.rmtree, RunFolder.event, shard_writer.ShardWriter._write
SAVE, BATCHES, EVALUATE = recovered.save_file, profiling.run_batches, task.ChainOfThought.evaluate
NOTE = left_program.note_program


def around(hook):
    """Return a wrapper of a step that notes its beginning and its end."""

    def step(ctx):
        now["round"] = ctx.spec.index
        passing(f"round {ctx.spec.index}: before {hook}")
        result = yield
        passing(f"round {ctx.spec.index}: after {hook}")
        return result

    return hookimpl(wrapper=True, tryfirst=True)(step)


for _hook in ("ptl_profile", "ptl_select", "ptl_prune", "ptl_recover", "ptl_launch"):
    globals()[_hook] = around(_hook)


@hookimpl(wrapper=True, tryfirst=True)
def ptl_evaluate(ctx, subject):
    now.update(round=ctx.spec.index, model=subject.path.name)
    passing(f"round {ctx.spec.index}: before ptl_evaluate")
    result = yield
    passing(f"round {ctx.spec.index}: after ptl_evaluate")
    return result


@hookimpl
def ptl_round_finished(ctx):
    passing(f"round {ctx.spec.index}: at ptl_round_finished")


@hookimpl
def ptl_run_finished(run):
    passing("at ptl_run_finished")


def install():
    """Replace what is watched; the process is a fork that ends with the run."""
    from ptl_plugins import local_launch, stage_run

    for name in ("replace", "rename", "mkdir", "unlink"):
        setattr(os, name, before(name, getattr(os, name)))
    shutil.rmtree = watched_rmtree
    RunFolder.event = half_an_event
    shard_writer.ShardWriter._write = half_a_shard
    recovered.save_file = half_a_recovered_shard
    profiling.run_batches = amid_batches
    profiling.profile = working("profile", profiling.profile)
    task.ChainOfThought.evaluate = amid_the_evaluation
    live.loaded = working("load", live.loaded)
    local_launch.note_program = noted_program
    local_launch.run_command = working("launch", local_launch.run_command)
    stage_run.take_recovered = working("take", stage_run.take_recovered)
    checkpoint_surgery.prune_checkpoint = working("prune", checkpoint_surgery.prune_checkpoint)


@hookimpl
def ptl_register(registry):
    """Begin to watch: nothing of the run folder was touched yet."""
    install()
