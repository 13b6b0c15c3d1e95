"""A run that is killed anywhere goes on: the same end, and nothing that was finished again."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import psutil
import pytest

from ptl_plugins.left_program import end_leftover, note_program
from ptl_plugins.stage_types import Command

SHARES = 8
"""Tests over which the places are spread."""
STAGES = 2
TIMES = ("seconds", "wall_seconds", "time")
"""Names of what differs from run to run."""


def plain(value):
    """Return JSON without seconds and times, which differ from run to run."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key not in TIMES}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def outcome(out):
    """Return what two runs of one recipe have in common: names, records, plans, weights."""
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    compared = ("record.json", "plan.json", ".safetensors", "config.json", "texts.txt")
    contents = {
        name: plain(json.loads(path.read_bytes())) if name.endswith("json") else path.read_bytes()
        for name, path in files.items()
        if name.endswith(compared)
    }
    return set(files), contents


def repeated(out_at_kill, work):
    """Return the work of a second run that the first one had finished."""
    again = []
    for piece in work:
        number, what = piece.split(" ", 1)
        finished = out_at_kill[int(number)]
        if "record" in finished or what in finished:
            again.append(piece)
    for number, finished in enumerate(out_at_kill):
        for what in ("launch", "take"):
            count = sum(piece == f"{number} {what}" for piece in work)
            if count > STAGES - finished.get(f"stages {what}", 0):
                again.append(f"{number} {what}")
    return again


def finished(folder):
    """Return what the files of a round's folder show to be finished."""
    marks = {
        "record.json": "record", "scores.safetensors": "profile", "pruned/config.json": "prune",
        "measured_pruned.json": "evaluate pruned", "measured_model.json": "evaluate model",
    }  # fmt: skip
    there = {what: 1 for name, what in marks.items() if (folder / name).exists()}
    stages = [
        ((stage / "done.json").exists(), (stage / "trained" / "ended.json").exists())
        for stage in folder.glob("stage_*")
    ]
    return {
        **there,
        "stages launch": sum(done or trained for done, trained in stages),
        "stages take": sum(done for done, _ in stages),
    }


def kept_times(out):
    """Return the times of the stages whose program is known to have ended, by round and stage."""
    times = {}
    for pattern in ("trained/ended.json", "done.json"):
        for path in out.glob(f"round_*/stage_*/{pattern}"):
            number, stage = path.relative_to(out).parts[:2]
            key = (number, int(stage.removeprefix("stage_")))
            times[key] = json.loads(path.read_text(encoding="utf-8"))
    return times


def recorded_times(out):
    """Return the times of the stages in the records, by round and stage."""
    return {
        (path.parent.name, index): stage
        for path in out.glob("round_*/record.json")
        for index, stage in enumerate(json.loads(path.read_text(encoding="utf-8"))["stages"])
    }


def chosen_places(points):
    """Return the numbers of the places: each border of a step, and each kind of write once."""
    kinds, chosen = set(), []
    for number, name in enumerate(points, 1):
        kind = re.sub(r"(round|stage|layer)_\d+", r"\1", name)
        if name.startswith("round ") or kind not in kinds:
            chosen.append(number)
        kinds.add(kind)
    return chosen


@pytest.fixture(scope="module")
def undisturbed(starter, inputs, tmp_path_factory, workplace_type):
    """The places that a run passes and its outcome."""
    place = workplace_type(starter, inputs, tmp_path_factory.mktemp("undisturbed"))
    assert place.run() == 0, place.said()
    return place.trace("point"), outcome(place.out), place.trace("work")


def test_the_places_are_the_borders_and_the_inside_of_every_step(undisturbed):
    points, _, work = undisturbed
    for index in (1, 2):
        for hook in ("profile", "select", "prune", "recover", "launch", "evaluate"):
            for side in ("before", "after"):
                count = 1 + (hook in ("recover", "launch", "evaluate"))
                assert points.count(f"round {index}: {side} ptl_{hook}") == count
        assert points.count(f"round {index}: at ptl_round_finished") == 1
        for file in ("record.json", "plan.json", "stage_0/done.json", "stage_1/trained/ended.json"):
            assert f"replace round_0{index}/{file}.ptl-tmp" in points
    inside = {"amid the profile's batches", "amid a shard of the surgery", "the program runs",
              "amid a recovered shard", "amid the evaluation of pruned"}  # fmt: skip
    assert inside <= set(points)
    assert len(chosen_places(points)) > 90
    assert work.count("1 launch") == work.count("2 launch") == STAGES


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "share",
    [0, *(pytest.param(share, marks=pytest.mark.faults) for share in range(1, SHARES))],
)
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(workplace, undisturbed, share, tried):
    points, (names, contents), _ = undisturbed
    wrong, chosen = [], chosen_places(points)[share::SHARES]
    for number in chosen:
        workplace.clear()
        place = f"{number} ({points[number - 1]})"
        code = workplace.run(said="first", kill_at=number)
        if code != -signal.SIGKILL or workplace.trace("point", "first") != points[:number]:
            wrong.append(f"{place}: was not reached: {code}")
            continue
        at_kill = [finished(workplace.out / f"round_0{index}") for index in range(3)]
        times_at_kill = kept_times(workplace.out)
        if workplace.run() != 0:
            wrong.append(f"{place}: the next run failed:\n{workplace.said()[-800:]}")
            continue
        times = recorded_times(workplace.out)
        if len(times) != 2 * STAGES or {**times, **times_at_kill} != times:
            wrong.append(f"{place}: other times: {times_at_kill} became {times}")
        names_now, contents_now = outcome(workplace.out)
        if names_now != names:
            wrong.append(f"{place}: other files: {sorted(names_now ^ names)}")
        elif contents_now != contents:
            other = [name for name in contents if contents[name] != contents_now[name]]
            wrong.append(f"{place}: other contents: {other}")
        if again := repeated(at_kill, workplace.trace("work")):
            wrong.append(f"{place}: was done again: {again}")
    steps = "both sides of each step, each kind of write"
    tried("kill -9", "ptl run", len(chosen), len(chosen) - len(wrong), steps=steps)
    assert not wrong, "\n".join(wrong)


def test_a_run_that_is_killed_again_and_again_ends_the_same(workplace, undisturbed):
    _, expected, _ = undisturbed
    kills = 0
    while (code := workplace.run(kill_at=60)) == -signal.SIGKILL:
        kills += 1
        assert kills < 20
    assert code == 0, workplace.said()
    assert kills > 2
    assert outcome(workplace.out) == expected


def misbehaving(workplace, does):
    """Let the first stage's program misbehave for as long as the file `cause` is there."""
    (workplace.folder / "cause").touch()
    settings = {"does": does, "while_exists": "cause"}
    workplace.recipe(recover=[{"backend": "fake", "settings": settings}])


def test_a_result_that_cannot_be_used_is_not_taken_again(workplace):
    misbehaving(workplace, "nan")
    assert workplace.run() == 2
    assert "is not finite" in workplace.said()
    (workplace.folder / "cause").unlink()
    assert workplace.run() == 0, workplace.said()
    assert workplace.trace("work").count("1 launch") == 1


def left_programs(workplace):
    """Return the programs of stages that work in the folder."""
    left = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if "hang" in (process.info["cmdline"] or []) and (
                process.cwd() == str(workplace.folder.resolve())
            ):
                left.append(process)
        except psutil.Error:
            pass
    return left


@pytest.mark.parametrize("noted", [True, False], ids=["that_was_noted", "that_was_just_started"])
def test_the_program_that_a_killed_run_left_is_stopped_first(
    workplace, undisturbed, noted, wait_for
):
    misbehaving(workplace, "hang")
    runs = undisturbed[0].index("the program runs") + 1  # before it: the note gets its pid
    assert workplace.run(kill_at=runs if noted else runs - 1) == -signal.SIGKILL
    (left,) = wait_for(lambda: left_programs(workplace))
    note = json.loads((workplace.out / "round_01" / "local_program.json").read_text())
    assert note["pid"] == (left.pid if noted else None)
    (workplace.folder / "cause").unlink()
    assert workplace.run() == 0, workplace.said()
    wait_for(lambda: not left_programs(workplace))
    assert not list(workplace.out.rglob("local_program.json"))


def test_a_program_that_only_bears_the_noted_number_is_left_alone(tmp_path):
    words = (sys.executable, "-c", "import time; time.sleep(60)")
    command = Command(words=words, folder=tmp_path, log=tmp_path / "log")
    stranger = subprocess.Popen(words, start_new_session=True)
    note = tmp_path / "note.json"
    try:
        for change in ({"started": 0}, {"host": "another"}, {"boot": "another"}):
            note_program(note, command, stranger.pid)
            note.write_text(json.dumps({**json.loads(note.read_text()), **change}))
            end_leftover(note)
            assert stranger.poll() is None
            assert not note.exists()
        note_program(note, command, stranger.pid)
        end_leftover(note)
        assert stranger.wait(5) == -signal.SIGTERM
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", '{"pid": 1', "[]", "{}"])
def test_a_torn_note_is_passed_over(tmp_path, text):
    note = tmp_path / "note.json"
    note.write_text(text)
    end_leftover(note)
    assert not note.exists()
