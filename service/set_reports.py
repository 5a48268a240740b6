"""What the reading commands tell of some sets, and the table of `dljobs sweep`; `standing.py` has the line of each."""

from __future__ import annotations

import json
from collections.abc import Sequence

from . import ranking, sets
from .clock import read_now
from .database import Database
from .standing import count_states, set_view
from .states import JobState
from .views import Json


def list_sets(database: Database, set_ids: Sequence[int]) -> list[Json]:
    """These sets, without reasons."""
    with database.read() as connection:
        counts, moment = count_states(connection, set_ids), read_now(connection)
        return [set_view(sets.get_set(connection, one), counts[one], moment=moment) for one in set_ids]


def sweep(database: Database, set_id: int) -> Json:
    """A Sweep: a set and all its trials, the best first."""
    with database.read() as connection:
        row = sets.get_set(connection, set_id)
        counts = count_states(connection, [set_id])[set_id]
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
