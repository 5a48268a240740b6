"""How sets stand: counted from the states of their jobs, in text, for `status` and for the scheduler."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .failures import FailureClass
from .scheduling.reasons import Reason
from .scheduling.rows import Condition, Dependency, Progress
from .statements import AnyConnection, Row, in_batches, read_now, rows
from .states import PLACED_JOBS, WAITING_JOBS, JobState
from .views import Json, reason_view

PRUNED = "pruned"  # counted apart from what was cancelled by hand
_COLUMNS = ("name", "user", "model", "metric", "goal", "num_jobs", "max_parallel", "idempotency_key", "submitted_at")
_ENDED_BADLY = (JobState.FAILED, JobState.CANCELLED)
_SETS = "SELECT * FROM sets WHERE id {} (SELECT set_id FROM jobs WHERE state IN :states AND set_id IS NOT NULL) "


def sets_in(connection: AnyConnection, limit: int, reasons: Mapping[int, Sequence[Reason]]) -> list[Json]:
    """A Set for each that goes on, and for the newest others, the newest first.

    Args:
        reasons: by set, why the first of its jobs waits.
    """
    found = list_sets(connection, limit)
    counts = count_states(connection, [row["id"] for row in found])
    moment = read_now(connection)
    return [set_view(row, counts[row["id"]], moment=moment, reasons=reasons.get(row["id"], ())) for row in found]


def list_sets(connection: AnyConnection, limit: int) -> list[Row]:
    """The sets that have jobs in the queue or running, and the newest `limit` of the others, the newest first."""
    states = (*WAITING_JOBS, *PLACED_JOBS)
    others = _SETS.format("NOT IN") + "ORDER BY id DESC LIMIT :limit"
    going_on = rows(connection, _SETS.format("IN") + "ORDER BY id DESC", states=states)
    return going_on + rows(connection, others, states=states, limit=limit)


def count_states(connection: AnyConnection, set_ids: Collection[int]) -> dict[int, dict[str, int]]:
    """How many jobs of each set are in each state; those that were pruned count as that."""
    found: dict[int, dict[str, int]] = {set_id: dict.fromkeys([*JobState, PRUNED], 0) for set_id in set_ids}
    query = "SELECT set_id, state, failure_class, count(*) AS number FROM jobs WHERE set_id IN :ids "
    for ids in in_batches(list(set_ids)):
        for row in rows(connection, query + "GROUP BY set_id, state, failure_class", ids=ids):
            is_pruned = row["failure_class"] == FailureClass.PRUNED and row["state"] == JobState.CANCELLED
            found[row["set_id"]][PRUNED if is_pruned else row["state"]] += row["number"]
    return found


def list_dependencies(connection: AnyConnection, these: Sequence[int] | None) -> Iterator[tuple[int, Dependency]]:
    """What these jobs in the queue (None: all) wait for, of sets: each with the id of the job that waits."""
    query = (
        "SELECT set_dependencies.* FROM set_dependencies JOIN jobs ON jobs.id = set_dependencies.job_id "
        "WHERE jobs.state IN :states{} ORDER BY set_dependencies.job_id, set_dependencies.after_set_id"
    )
    some = {} if these is None else {"these": tuple(these)}
    found = rows(connection, query.format(" AND jobs.id IN :these" if some else ""), states=WAITING_JOBS, **some)
    counts = count_states(connection, {row["after_set_id"] for row in found})
    for row in found:
        set_id = row["after_set_id"]
        yield row["job_id"], Dependency(set_id, Condition(row["condition"]), progress_of(counts[set_id]), is_set=True)


def progress_of(counts: Mapping[str, int]) -> Progress:
    """How far a set is, as what waits for it sees it; a trial that was pruned has done its part."""
    if any(counts[state] for state in (*WAITING_JOBS, *PLACED_JOBS)):
        return Progress.PENDING
    return Progress.FAILED if counts[JobState.FAILED] or counts[JobState.CANCELLED] else Progress.SUCCEEDED


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


def first_waiting(order: Iterable[Any]) -> dict[int, int]:
    """Of each set the job that is next, from the waiting jobs in their order."""
    found: dict[int, int] = {}
    for job in order:
        if job.set_id is not None:
            found.setdefault(job.set_id, job.id)
    return found
