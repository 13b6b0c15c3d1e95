"""What the watcher saw decides; only the nonce, said once at the end, is a pass."""

from __future__ import annotations

import pytest

from ptl_plugins.code_execution import Limits
from ptl_plugins.code_execution.verdict import result, verdict
from ptl_plugins.code_execution.watch import Watched


def seen(said=b"spNONCE", stop="", exit_code=0, cpu_seconds=0.0):
    return Watched(stop=stop, said=said, exit_code=exit_code, cpu_seconds=cpu_seconds, seconds=1.0)


@pytest.mark.parametrize(
    ("what", "outcome", "detail"),
    [
        (seen(), "passed", ""),
        (seen(b"s"), "failed", "left before its end, exit code 0"),
        (seen(b"sp"), "failed", "left before its end, exit code 0"),
        (seen(b"spWRONG"), "failed", "left before its end, exit code 0"),
        (seen(b"spNONCEp"), "failed", "left before its end, exit code 0"),
        (seen(b"spNONCE", exit_code=1), "failed", "left before its end, exit code 1"),
        (seen(b"spNONCE", stop="time"), "timed_out", "still running after 3 s"),
        (seen(stop="disk"), "limit", "disk: more than 33554432 bytes"),
        (seen(stop="talk"), "failed", "wrote into the pipe of its result"),
        (seen(b"sfTypeError at line 1: x", exit_code=1), "failed", "TypeError at line 1: x"),
        (seen(b"sfMemoryError", exit_code=1), "limit", "memory: more than 1073741824 bytes"),
        (seen(b"s", exit_code=-9, cpu_seconds=4), "limit", "CPU time: more than 4 s"),
        (seen(b"s", exit_code=-9), "failed", "ended by signal 9"),
    ],
)
def test_a_verdict_follows_from_what_was_seen(what, outcome, detail):
    judged = verdict(what, nonce="NONCE", limits=Limits())
    assert (judged.outcome, judged.detail, judged.passed) == (outcome, detail, outcome == "passed")


def test_a_detail_cannot_smuggle_lines_or_colours():
    assert (
        result("failed", "a\n\x1b[31mb\tc \N{SNOWMAN}" + "d" * 300).detail[:14] == "a [31mb c dddd"
    )
    assert len(result("failed", "d" * 300).detail) == 200
