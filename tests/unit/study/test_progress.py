"""What a study says of the time that is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptl_plugins.study.checking import CheckedJob
from ptl_plugins.study.jobs import all_jobs
from ptl_plugins.study.progress import Progress, clock


@pytest.fixture
def jobs(study_of):
    runs = {"a": {"recipe": "a", "seeds": [1, 2]}, "b": {"recipe": "b"}}
    return [
        CheckedJob(job=job, door="run", is_finished=False, num_rounds=1)
        for job in all_jobs(study_of(runs=runs), Path("F"))
    ]


def test_a_seed_is_taken_to_last_as_long_as_the_others_of_its_run(jobs):
    progress = Progress(jobs, {})
    assert progress.left() == "the time left is not known yet"
    progress.done(jobs[0].job, 100.0)  # a; of b nothing is known but that
    assert progress.left() == "about 3 min left"
    progress.done(jobs[1].job, 20.0)  # b
    assert progress.left() == "about 100 s left"
    assert progress.line(jobs[2].job, "starts") == "[3/3] a, seed 2: starts"


def test_a_failed_run_is_not_waited_for(jobs):
    progress = Progress(jobs, {"a": [100.0]})
    progress.dropped(jobs[0].job)
    progress.dropped(jobs[1].job)
    assert progress.left() == "about 100 s left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h")]
)
def test_a_clock_has_the_unit_that_suits(seconds, text):
    assert clock(seconds) == text
