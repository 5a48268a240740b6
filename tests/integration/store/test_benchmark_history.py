"""The benchmarks' history is one that the service could have written: every report can be made of it."""

from __future__ import annotations

from sqlalchemy import func, select

from benchmarks import history
from dljobs.service import curves, jobs, log_report, overview, reports
from dljobs.service.database import Database
from dljobs.service.tables import jobs as job_table
from dljobs.service.tables import metadata

NUM_JOBS, NUM_POINTS = 400, 5000


def test_finished_jobs_are_like_those_that_ran(database: Database) -> None:
    history.finish_jobs(database, NUM_JOBS)
    history.finish_jobs(database, NUM_JOBS)  # more of them
    with database.read() as connection:
        states = dict(connection.execute(select(job_table.c.state, func.count()).group_by(job_table.c.state)).all())
        num_rows = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.tables.values()
        }
        assert jobs.list_active(connection) == []
    assert states == {"succeeded": 0.8 * 2 * NUM_JOBS, "failed": 0.1 * 2 * NUM_JOBS, "cancelled": 0.1 * 2 * NUM_JOBS}
    assert num_rows["runs"] == num_rows["run_parts"] == num_rows["leases"] == 2 * NUM_JOBS
    assert num_rows["events"] == len(history.HAPPENED) * 2 * NUM_JOBS
    assert len(overview.status(database, lease_s=60.0, limit=20)["jobs"]) == 20
    [job] = reports.list_newest(database, limit=1)
    shown = reports.job_details(database, job["id"], lease_s=60.0)
    assert [run["state"] for run in shown["runs"]] == [job["state"]]
    assert [line["line"] for line in log_report.list_lines(database, job["id"])] == list(history.LINES)
    best = reports.list_best(database, "accuracy", limit=NUM_JOBS)
    assert len({row["value"] for row in best}) > NUM_JOBS / 2
    assert {row["state"] for row in best} == {"succeeded"}
    # The next job of a user comes after them, and nothing of theirs is in its way.
    assert jobs_of_all_users_and_models(database) == (history.NUM_USERS, history.NUM_MODELS)


def jobs_of_all_users_and_models(database: Database) -> tuple[int, int]:
    with database.read() as connection:
        query = select(func.count(job_table.c.user.distinct()), func.count(job_table.c.model.distinct()))
        users, models = connection.execute(query).one()
    return users, models


def test_a_long_run_has_its_curve_and_its_log(database: Database) -> None:
    job_id = history.write_long_run(database, NUM_POINTS, num_lines=50)
    [curve] = curves.load_curves(database, [job_id])
    assert len(curve["points"]) > curves.MAX_POINTS / 2
    assert curve["points"][0] == [1, 1, 1.0]
    assert curve["points"][-1] == [NUM_POINTS, 1, 1 / NUM_POINTS]
    assert len(log_report.list_lines(database, job_id, tail=20)) == 20
