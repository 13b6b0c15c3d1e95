"""The jobs of a study in the order in which they are done."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from ptl_plugins.errors import did_you_mean
from ptl_plugins.study.study_file import StudyError
from ptl_plugins.study.study_types import Job, Study, StudyRun


def all_jobs(study: Study, folder: Path) -> tuple[Job, ...]:
    """Return every job of the study: the first seed of all runs, then the second, and so on.

    A study that is stopped early so has something of every run. What a job needs comes before it.
    """
    ordered: dict[Path, Job] = {}

    def add(job: Job) -> None:
        for before in needed(study, job):
            add(before)
        ordered[job.folder] = job

    for at in range(max(len(run.seeds) for run in study.runs.values())):
        for run in study.runs.values():
            if at < len(run.seeds):
                add(job_of(run, run.seeds[at], folder))
    return tuple(ordered.values())


def job_of(run: StudyRun, seed: int, folder: Path) -> Job:
    """Return the job of a run and a seed, in its folder."""
    return Job(run=run, seed=seed, folder=folder / run.name / f"seed_{seed}")


def needed(study: Study, job: Job) -> Iterator[Job]:
    """Yield the jobs that have to be finished before this one."""
    return (partner(study, job, name) for name in job.run.after)


def partner(study: Study, job: Job, name: str) -> Job:
    """Return the job of another run with the same seed, or with that run's first one."""
    run = study.runs[name]
    seed = job.seed if job.seed in run.seeds else run.seeds[0]
    return job_of(run, seed, job.folder.parent.parent)


def pupils(study: Study, jobs: Collection[Job], teacher: Job) -> list[Job]:
    """Return the jobs that read the model of `teacher`."""
    return [
        job
        for job in jobs
        if any(partner(study, job, name).folder == teacher.folder for name in job.run.teachers)
    ]


def chosen_jobs(study: Study, jobs: Collection[Job], only: Collection[str]) -> tuple[Job, ...]:
    """Return the jobs of the runs that `--only` names and all that these need.

    Raises:
        StudyError: there is no such run.
    """
    for name in only:
        if name not in study.runs:
            raise StudyError(
                f"--only {name}: {study.path} has no such run{did_you_mean(name, study.runs)}; "
                f"runs: {', '.join(study.runs)}"
            )
    chosen: set[Path] = set()

    def choose(job: Job) -> None:
        chosen.add(job.folder)
        for before in needed(study, job):
            choose(before)

    for job in jobs:
        if not only or job.run.name in only:
            choose(job)
    return tuple(job for job in jobs if job.folder in chosen)
