"""A history to measure against: many finished jobs, and one very long run, written by a few INSERT … SELECT.

Rows are as real jobs leave them, in all tables that grow with each job but those of artifacts; users, models, results
and states vary by the job's number. It is for databases of the benchmarks alone: nothing here asks the service.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Double,
    FromClause,
    Select,
    String,
    Table,
    case,
    cast,
    func,
    insert,
    literal,
    null,
    select,
)

from dljobs.service import sweep
from dljobs.service.database import Database
from dljobs.service.new_jobs import NewJob, job_values
from dljobs.service.submission import Request, prepare
from dljobs.service.tables import devices as device_table
from dljobs.service.tables import events, jobs, leases, ledger, logs, metrics, run_parts, runs, scores, workers

NUM_USERS, NUM_MODELS = 40, 20
METRICS = ("accuracy", "loss")
LONG_RUN_LINES = 100_000
LINES = ("rank 0 of 1 on cpu, 1 thread, single", "epoch 1 of 1: loss 0.4, accuracy 0.9", "done")
_SECOND_S = 1.0
# What happens to a job and its run, as (kind, of the run, from, to, reason).
HAPPENED = (
    ("job", False, "", "queued", "submitted by ada"),
    ("job", False, "queued", "starting", "placed on 1 device"),
    ("run", True, "", "starting", "placed on 1 device"),
    ("run", True, "starting", "running", "all ranks have started"),
    ("job", False, "starting", "running", "all ranks have started"),
    ("run", True, "running", "succeeded", "trained 1 epoch"),
    ("job", False, "running", "succeeded", "trained 1 epoch"),
)


def finish_jobs(database: Database, number: int) -> None:
    """Finished jobs with a run each, eight of ten with success."""
    with database.write() as connection:
        last = connection.execute(select(func.coalesce(func.max(jobs.c.id), 0))).scalar_one()
        worker_id, device_id = _old_worker(connection)
        _fill(connection, jobs, _ended_jobs(_count(number)))
        new = select(jobs).where(jobs.c.id > last).subquery()
        _fill(connection, runs, _runs_of(new, worker_id))
        run = select(runs).where(runs.c.job_id > last).subquery()
        of_run = {"run_id": run.c.id}
        _fill(connection, run_parts, select(*_named(of_run, node_rank=0, worker_id=worker_id, ended_at=run.c.ended_at)))
        held = {"device_id": device_id, "token": "", "acquired_at": run.c.created_at, "expires_at": run.c.ended_at}
        _fill(connection, leases, select(*_named(of_run, **held, released_at=run.c.ended_at)))
        for kind, is_of_run, was, to, reason in HAPPENED:
            event = {"job_id": run.c.job_id, "at": run.c.ended_at, "actor": "old", "kind": kind, "reason": reason}
            states = {"from_state": was, "to_state": to} if was else {"to_state": to}
            _fill(connection, events, select(*_named(event, **states, **(of_run if is_of_run else {}))))
        for line in LINES:
            _fill(connection, logs, select(*_named(of_run, rank=0, line=line, at=run.c.ended_at)))
        good = select(new).where(new.c.state == "succeeded").subquery()
        for position, metric in enumerate(METRICS):
            value = _spread(good.c.id, position)
            _fill(connection, scores, select(*_named({"job_id": good.c.id}, metric=metric, value=value)))
            point = {"step": 23, "epoch": 1, "split": "test", "name": metric, "at": run.c.ended_at}
            _fill(connection, metrics, select(*_named(of_run, **point, value=_spread(run.c.job_id, position))))
        # What users had is folded into a row for each of them, however much it was.
        if connection.execute(select(ledger.c.id).limit(1)).first() is None:
            had = {"device_s": 1.0, "begun_at": 0.0, "ended_at": 1.0}
            _fill(connection, ledger, select(*_named({"user": new.c.user}, **had)).distinct())
    settle(database)


def write_long_run(database: Database, num_points: int, num_lines: int = LONG_RUN_LINES) -> int:
    """One finished job whose run has this many points of its loss, and lines of its log; returns the job's id."""
    with database.write() as connection:
        worker_id, _device_id = _old_worker(connection)
        _fill(connection, jobs, _ended_jobs(_count(1)))
        job_id = int(connection.execute(select(func.max(jobs.c.id))).scalar_one())
        job = select(jobs).where(jobs.c.id == job_id).subquery()
        _fill(connection, runs, _runs_of(job, worker_id, step=num_points))
        run_id = connection.execute(select(runs.c.id).where(runs.c.job_id == job_id)).scalar_one()
        step = _count(num_points).c.n
        point = {"epoch": 1, "split": "train", "name": "loss", "at": cast(step, Double)}
        _fill(connection, metrics, select(*_named({"run_id": run_id, "step": step}, **point, value=1.0 / step)))
        line = _count(num_lines).c.n
        words = "a line of the log, as long as such lines are"
        _fill(connection, logs, select(*_named({"run_id": run_id, "rank": 0}, line=words, at=cast(line, Double))))
    settle(database)
    return job_id


def settle(database: Database) -> None:
    """What a running service does after a while: SQLite's log into its file, Postgres' statistics."""
    if database.is_sqlite:
        sweep.checkpoint_wal(database)
        return
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def _old_worker(connection: Connection) -> tuple[int, int]:
    """A worker that is gone, and its device."""
    found = connection.execute(
        select(device_table.c.worker_id, device_table.c.id).where(device_table.c.uuid == "old")
    ).one_or_none()
    if found is not None:
        return int(found[0]), int(found[1])
    about = {"name": "old", "node": "old", "pid": 1, "pid_born": "", "session": "", "state": "offline"}
    row = {**about, "versions_json": "{}", "registered_at": 0.0, "heartbeat_at": 0.0}
    worker_id = connection.execute(insert(workers).values(row).returning(workers.c.id)).scalar_one()
    device = {"node": "old", "uuid": "old", "kind": "cpu", "name": "CPU", "position": 0, "worker_id": worker_id}
    return worker_id, connection.execute(insert(device_table).values(device).returning(device_table.c.id)).scalar_one()


def _count(number: int) -> CTE:
    """The numbers from 1 to this one, as `n`."""
    counted = select(literal(1).label("n")).cte("counted", recursive=True)
    return counted.union_all(select(counted.c.n + 1).where(counted.c.n < number))


def _ended_jobs(counted: CTE) -> Select[Any]:
    n = counted.c.n
    new: NewJob = prepare(Request("lenet"), "ada")
    result = '{"accuracy": 0.9, "loss": 0.4, "num_samples": 360}'
    return select(
        *_named(
            {key: value for key, value in job_values(new, 0.0).items() if value is not None},
            state=case((n % 10 == 8, "failed"), (n % 10 == 9, "cancelled"), else_="succeeded"),
            failure_class=case((n % 10 == 8, "user"), (n % 10 == 9, "cancelled"), else_=null()),
            user=literal("user") + _text((n // 10) % NUM_USERS),
            # One of them is what the next job trains: how long it took is asked when that is placed.
            model=case(((n // 7) % NUM_MODELS == 0, "lenet"), else_=literal("model") + _text((n // 7) % NUM_MODELS)),
            num_runs=1,
            submitted_at=cast(n, Double),
            eligible_at=cast(n, Double),
            started_at=cast(n, Double) + _SECOND_S,
            ended_at=cast(n, Double) + 2 * _SECOND_S,
            reason="trained 1 epoch",
            result_json=case((n % 10 < 8, result), else_=null()),
        )
    )


def _runs_of(job: FromClause, worker_id: int, step: int = 23) -> Select[Any]:
    about = {"job_id": job.c.id, "number": 1, "state": job.c.state, "token": "", "worker_id": worker_id}
    moments = dict.fromkeys(("created_at", "claimed_at", "started_at", "first_step_at"), job.c.started_at)
    return select(
        *_named(about, **moments, ended_at=job.c.ended_at, step=step, total_steps=step, reason=job.c.reason)
    ).order_by(job.c.id)


def _named(common: dict[str, Any], **others: Any) -> list[ColumnElement[Any]]:
    """Values and expressions as columns of these names."""
    return [
        (value if isinstance(value, ColumnElement) else literal(value)).label(name)
        for name, value in {**common, **others}.items()
    ]


def _fill(connection: Connection, table: Table, rows: Select[Any]) -> None:
    connection.execute(insert(table).from_select([column.name for column in rows.selected_columns], rows))


def _text(number: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(number, String)


def _spread(number: ColumnElement[Any], position: int) -> ColumnElement[Any]:
    """A value between 0 and 1 that looks random and hardly ever repeats."""
    return cast((number * (7919 + 2 * position)) % 100_003, Double) / 100_003.0
