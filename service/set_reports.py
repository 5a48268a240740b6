"""What the reading commands tell of sets: the one line that `status` has for each, and the table of `dljobs sweep`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from . import ranking, sets
from .clock import read_now
from .database import Database
from .scheduling.reasons import Reason
from .sets import PRUNED
from .states import JobState
from .views import Json, Row, reason_view

_COLUMNS = ("name", "user", "model", "metric", "goal", "num_jobs", "max_parallel", "idempotency_key", "submitted_at")
_ENDED_BADLY = (JobState.FAILED, JobState.CANCELLED)


def sets_in(connection: Connection, limit: int, reasons: Mapping[int, Sequence[Reason]]) -> list[Json]:
    """A Set for each that goes on, and for the newest others, the newest first.

    Args:
        reasons: by set, why the first of its jobs waits.
    """
    rows = sets.list_sets(connection, limit)
    counts = sets.count_states(connection, [row["id"] for row in rows])
    moment = read_now(connection)
    return [set_view(row, counts[row["id"]], moment=moment, reasons=reasons.get(row["id"], ())) for row in rows]


def list_sets(database: Database, set_ids: Sequence[int]) -> list[Json]:
    """These sets, without reasons."""
    with database.read() as connection:
        counts, moment = sets.count_states(connection, set_ids), read_now(connection)
        return [set_view(sets.get_set(connection, one), counts[one], moment=moment) for one in set_ids]


def set_view(row: Row, counts: Mapping[str, int], *, moment: float, reasons: Iterable[Reason] = ()) -> Json:
    """A Set: what its jobs have in common, and how many are in each state."""
    return {
        "id": f"s{row['id']}",
        **{name: row[name] for name in _COLUMNS},
        "age_s": max(moment - row["submitted_at"], 0.0),
        "state": state_of(counts),
        "num_ended": num_ended(counts),
        "counts": {str(state): number for state, number in counts.items()},
        "axes": json.loads(row["axes_json"]),
        "halving": None if row["halving_json"] is None else json.loads(row["halving_json"]),
        "reasons": [reason_view(reason) for reason in reasons],
    }


def state_of(counts: Mapping[str, int]) -> str:
    """How a set is, in the words of a job: of those that go on the furthest, of those that ended the worst."""
    for state in (JobState.RUNNING, JobState.STARTING, JobState.QUEUED, JobState.HELD, *_ENDED_BADLY):
        if counts[state]:
            return str(state)
    return str(JobState.SUCCEEDED if counts[JobState.SUCCEEDED] else JobState.CANCELLED)


def num_ended(counts: Mapping[str, int]) -> int:
    """How many jobs of a set have ended, by whatever end."""
    return sum(counts[state] for state in (JobState.SUCCEEDED, *_ENDED_BADLY, PRUNED))


def sweep(database: Database, set_id: int) -> Json:
    """A Sweep: a set and all its trials, the best first."""
    with database.read() as connection:
        row = sets.get_set(connection, set_id)
        counts = sets.count_states(connection, [set_id])[set_id]
        standings = ranking.rank_jobs(connection, row)
        shown = set_view(row, counts, moment=read_now(connection))
    best = next((one for one in standings if one.value is not None and one.job["state"] == JobState.SUCCEEDED), None)
    return {**shown, "trials": [_trial_view(one, set_id, is_best=one is best) for one in standings]}


def _trial_view(standing: ranking.Standing, set_id: int, *, is_best: bool) -> Json:
    job = standing.job
    return {
        "id": f"s{set_id}.{job['set_index']}",
        "job_id": job["id"],
        "index": job["set_index"],
        "settings": json.loads(job["point_json"]),
        "state": job["state"],
        "failure_class": job["failure_class"],
        "reason": job["reason"],
        "value": standing.value,
        "epoch": standing.epoch,
        "best": is_best,
    }


def first_waiting(order: Iterable[Any]) -> dict[int, int]:
    """Of each set the job that is next, from the waiting jobs in their order."""
    found: dict[int, int] = {}
    for job in order:
        if job.set_id is not None:
            found.setdefault(job.set_id, job.id)
    return found
