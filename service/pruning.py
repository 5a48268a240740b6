"""Pruning: the rows that successive halving goes by, and the trials that it ends.

Whoever has just written a measurement at a rung judges the whole set, in the same transaction. The lock on the set's
row lets one judge after the other, each of whom sees what those before have written: so the last one sees all.
"""

from __future__ import annotations

from sqlalchemy import Connection, or_, select, update

from .events import record
from .failures import FailureClass
from .halving import Rule, Trial, prune
from .jobs import move_jobs
from .states import ENDED_JOBS, WAITING_JOBS, JobState
from .tables import jobs, metrics, runs, sets

ACTOR = "halving"
LONGEST = 2**31  # epochs
SPLIT = "test"


def rule_of(connection: Connection, set_id: int | None) -> Rule | None:
    """The rule by which trials of a set are stopped early."""
    if set_id is None:
        return None
    text = connection.execute(select(sets.c.halving_json).where(sets.c.id == set_id)).scalar()
    return None if text is None else Rule.from_json(text)


def judge(connection: Connection, set_id: int, rule: Rule) -> list[int]:
    """Stop the trials that have fallen behind; returns those of them that are to be told, because they are placed.

    Call it after the points were written, in their transaction.
    """
    connection.execute(select(sets.c.id).where(sets.c.id == set_id).with_for_update()).all()
    reasons = prune(rule, _trials(connection, set_id, rule))
    placed = []
    for job_id in sorted(reasons):
        job = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).mappings().one()
        if job["state"] in ENDED_JOBS or job["prune_reason"] is not None:
            continue
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(prune_reason=reasons[job_id]))
        if job["state"] in WAITING_JOBS:
            values = {"actor": ACTOR, "reason": reasons[job_id], "failure_class": FailureClass.PRUNED}
            move_jobs(connection, jobs.c.id == job_id, JobState.CANCELLED, **values)
        else:
            record(connection, "prune", reasons[job_id], actor=ACTOR, to_state=None, job_id=job_id)
            placed.append(job_id)
    return placed


def _trials(connection: Connection, set_id: int, rule: Rule) -> list[Trial]:
    of_metric = (metrics.c.split == SPLIT, metrics.c.name == rule.metric, metrics.c.epoch.in_(rule.rungs(LONGEST)))
    query = (
        select(jobs.c.id, jobs.c.num_epochs, metrics.c.epoch, metrics.c.value)
        .join(runs, runs.c.job_id == jobs.c.id)
        .join(metrics, metrics.c.run_id == runs.c.id)
        .where(jobs.c.set_id == set_id, *of_metric)
        # Where a run that resumed has measured an epoch once more, the later value counts.
        .order_by(jobs.c.id, runs.c.number, metrics.c.step)
    )
    values: dict[int, dict[int, float | None]] = {}
    done = set()  # at their last epoch nothing is saved any more
    for job_id, num_epochs, epoch, value in connection.execute(query):
        values.setdefault(job_id, {})[epoch] = value
        if epoch >= num_epochs:
            done.add(job_id)
    safe = select(jobs.c.id).where(
        jobs.c.set_id == set_id, or_(jobs.c.state.in_(ENDED_JOBS), jobs.c.may_be_pruned == 0)
    )
    spared = done.union(connection.execute(safe).scalars())
    return [Trial(job_id, reached, may_be_pruned=job_id not in spared) for job_id, reached in values.items()]
