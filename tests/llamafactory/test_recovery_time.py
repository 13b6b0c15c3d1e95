"""The time of the recoveries under `llamafactory-cli`: a stage of each round, on all ranks."""

from __future__ import annotations

import pytest
from workplace import records

from ptl_plugins.report.recovery import device_seconds, recovery_seconds, stage_lines
from ptl_plugins.report.runs import read_runs

pytestmark = pytest.mark.timeout(300)


def test_the_records_of_a_run_tell_the_time_of_every_rounds_stage(plain_run, registry):
    original, *rounds = records(plain_run)
    assert original["stages"] == []
    for record in rounds:
        (stage,) = record["stages"]
        assert (stage["backend"], stage["devices"]) == ("llamafactory", 1)
        assert stage["wall_seconds"] > 0
        assert stage["wall_seconds"] == pytest.approx(record["seconds"]["recover"], abs=0.002)
    (run,) = read_runs([plain_run], registry)
    total = sum(record["stages"][0]["wall_seconds"] for record in rounds)
    assert len(stage_lines(run)) == len(rounds) == 3
    assert recovery_seconds(run) == device_seconds(run) == pytest.approx(total)
