"""The states of jobs and runs, and the one table of what may follow what.

A leaf: rows are moved by `jobs.py` and `runs.py`, which ask this table and write an event for each move.

    job   held <-> queued -> starting -> running -> succeeded | failed | cancelled
                     ^----------+-----------+            retry: failed, cancelled -> queued
    run   starting -> running -> succeeded | failed | requeued | cancelled
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands; see the glossary in ARCHITECTURE.md."""

    QUEUED = "queued"
    HELD = "held"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunState(StrEnum):
    """Where one execution of a job stands. `requeued`: it ended without a result, and its job is queued again."""

    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REQUEUED = "requeued"
    CANCELLED = "cancelled"


class WorkerState(StrEnum):
    """What a worker says of itself. `draining`: it finishes or checkpoints what it has and takes nothing new."""

    ONLINE = "online"
    DRAINING = "draining"
    OFFLINE = "offline"


JOB_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.HELD, JobState.STARTING, JobState.CANCELLED}),
    JobState.HELD: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}

RUN_TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.STARTING: frozenset({RunState.RUNNING, RunState.FAILED, RunState.REQUEUED, RunState.CANCELLED}),
    RunState.RUNNING: frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.REQUEUED, RunState.CANCELLED}),
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.REQUEUED: frozenset(),
    RunState.CANCELLED: frozenset(),
}

WAITING_JOBS = (JobState.QUEUED, JobState.HELD)
PLACED_JOBS = (JobState.STARTING, JobState.RUNNING)
ENDED_JOBS = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
LIVE_RUNS = (RunState.STARTING, RunState.RUNNING)
