"""The order of the jobs, and which of them are chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.study.jobs import all_jobs, chosen_jobs, partner, pupils

RUNS = {
    "pupil": {"recipe": "a", "seeds": [1, 3], "set": {"t": "{control}"}},
    "control": {"recipe": "a", "seeds": [2, 1]},
    "other": {"recipe": "a", "seeds": [1, 2]},
}


@pytest.fixture
def jobs(study_of):
    study = study_of(runs=RUNS)
    return study, all_jobs(study, Path("F"))


def test_every_run_has_its_first_seed_before_any_has_its_second(jobs):
    assert [job.label for job in jobs[1]] == [
        "control, seed 1",  # which the pupil with seed 1 needs
        "pupil, seed 1",
        "control, seed 2",
        "other, seed 1",
        "pupil, seed 3",
        "other, seed 2",
    ]


def test_a_job_has_its_own_folder(jobs):
    assert jobs[1][1].run_folder == Path("F/pupil/seed_1/run")


def test_a_teacher_has_the_same_seed_or_its_first(jobs):
    study, (_, pupil, *_, late, _) = jobs
    assert [partner(study, job, "control").seed for job in (pupil, late)] == [1, 2]


def test_the_pupils_of_a_teacher_are_those_that_read_its_model(jobs):
    study, found = jobs
    assert [job.label for job in pupils(study, found, found[0])] == ["pupil, seed 1"]
    assert [job.label for job in pupils(study, found, found[2])] == ["pupil, seed 3"]
    assert pupils(study, found, found[3]) == []


def test_only_takes_what_the_named_runs_need(jobs):
    study, found = jobs
    labels = [job.label for job in chosen_jobs(study, found, ["pupil"])]
    assert labels == ["control, seed 1", "pupil, seed 1", "control, seed 2", "pupil, seed 3"]
    assert chosen_jobs(study, found, []) == found


def test_only_refuses_a_run_that_there_is_not(jobs):
    with pytest.raises(PTLError, match=r"--only pupl: .* no such run \(did you mean 'pupil'\?\)"):
        chosen_jobs(*jobs, ["pupl"])
