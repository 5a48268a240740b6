"""The log of a job as `dljobs logs` prints it: the lines of its runs, with the runs' numbers and the ranks' nodes."""

from __future__ import annotations

from dljobs.errors import NotFound

from . import logs, views
from .statements import AnyConnection, AnyDatabase, rows
from .views import Json


def list_lines(
    database: AnyDatabase, job_id: int, *, run: int | None = None, rank: int | None = None, tail: int | None = None
) -> list[Json]:
    """The log of a job, all its runs in order or only run number `run`.

    Raises:
        NotFound: the job has no such run.
    """
    with database.read() as connection:
        numbers = run_numbers(connection, job_id, run)
        found = logs.list_lines(connection, list(numbers), rank=rank, tail=tail)
        nodes = logs.nodes_by_rank(connection, list(numbers))
    return [views.line_view(row, numbers[row["run_id"]], nodes) for row in found]


def run_numbers(connection: AnyConnection, job_id: int, run: int | None = None) -> dict[int, int]:
    """Run id to run number, of all runs of a job or of run number `run`.

    Raises:
        NotFound: the job has no such run.
    """
    of_job = "SELECT id, number FROM runs WHERE job_id = :job_id ORDER BY number"
    numbers = {row["id"]: row["number"] for row in rows(connection, of_job, job_id=job_id)}
    if run is None:
        return numbers
    chosen = {run_id: number for run_id, number in numbers.items() if number == run}
    if not chosen:
        had = f"it had {len(numbers)}" if numbers else "it has not started yet"
        raise NotFound(f"job {job_id} has no run {run}", had)
    return chosen
