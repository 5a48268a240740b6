"""Runs over several nodes: every part is claimed by its own worker, and what ends one of them ends the run."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from dljobs.service import leases, offers, parts, reports, runs, sweep
from dljobs.service.clock import now
from dljobs.service.database import Database
from dljobs.service.failures import FailureClass
from dljobs.service.registration import Registration
from dljobs.service.runs import Outcome, RunKey
from dljobs.service.tables import leases as lease_table

from .racing import race
from .rows import LEASE_S, add_worker, end, job_row, live_leases, make_eligible, place_again, run_row, states, submit


@pytest.fixture
def workers(database: Database) -> list[Registration]:
    """Two nodes with a worker of two devices each."""
    return [add_worker(database, f"w{number}", 2, node=f"n{number}") for number in (1, 2)]


def place_over_both(database: Database, **fields: object) -> tuple[int, RunKey]:
    job_id = submit(database, 4, **{"num_nodes": 2, **fields})
    return job_id, place_again(database, job_id)


def claim(database: Database, key: RunKey, worker: Registration) -> bool:
    with database.write() as connection:
        return runs.claim(connection, key, worker.worker_id)


def renew(database: Database, key: RunKey, worker: Registration) -> bool:
    with database.write() as connection:
        return bool(leases.renew(connection, worker.worker_id, [key.token], LEASE_S))


def let_part_run_out(database: Database, key: RunKey, node_rank: int) -> None:
    with database.write() as connection:
        mine = (lease_table.c.run_id == key.run_id, lease_table.c.node_rank == node_rank)
        connection.execute(update(lease_table).where(*mine).values(expires_at=now() - 1.0))


@pytest.mark.parametrize("asked", [{"num_nodes": 2}, {"num_nodes": 1, "may_spread": True}])
def test_a_part_on_each_node_the_heads_first(
    database: Database, workers: list[Registration], asked: dict[str, object]
) -> None:
    job_id, key = place_over_both(database, **asked)
    run = reports.job_details(database, job_id, lease_s=LEASE_S)["runs"][0]
    assert [part["node_rank"] for part in run["parts"]] == [0, 1]
    assert {part["node"] for part in run["parts"]} == {"n1", "n2"}
    assert [len(part["devices"]) for part in run["parts"]] == [2, 2]
    assert run["worker"] == run["parts"][0]["worker"]
    assert len(run["devices"]) == live_leases(database, key) == 4


def claim_both(url: str, run_id: int, token: str, worker_ids: list[int]) -> list[int]:
    database, key = Database(url), RunKey(run_id, token)
    claimed = []
    for worker_id in worker_ids:
        with database.write() as connection:
            claimed += [worker_id] * runs.claim(connection, key, worker_id)
    database.close()
    return claimed


def test_each_part_is_claimed_once_and_by_its_worker(database: Database, workers: list[Registration]) -> None:
    stranger = add_worker(database, "w3", 2, node="n3")
    _job, key = place_over_both(database)
    placed = {part["worker_id"] for part in _parts(database, key)}
    url, everyone = str(database.engine.url.render_as_string(hide_password=False)), [each.worker_id for each in workers]
    everyone.append(stranger.worker_id)
    claimed = race(claim_both, *[(url, key.run_id, key.token, everyone) for _ in range(3)])
    assert sorted(worker_id for each in claimed for worker_id in each) == sorted(placed)
    assert run_row(database, key.run_id)["claimed_at"] is not None
    with database.read() as connection:
        assert [runs.unclaimed_keys(connection, worker_id) for worker_id in everyone] == [[], [], []]


def test_a_worker_renews_what_is_its_own(database: Database, workers: list[Registration]) -> None:
    """Else a living head would keep a dead node's devices for ever."""
    job_id, key = place_over_both(database)
    head, other = (part["worker_id"] for part in _parts(database, key))
    by_id = {worker.worker_id: worker for worker in workers}
    assert claim(database, key, by_id[head])
    assert claim(database, key, by_id[other])
    let_part_run_out(database, key, 1)
    assert renew(database, key, by_id[head])
    assert sweep.expire_leases(database, actor="w9") == 1
    assert states(database, key) == ("queued", "requeued")
    assert live_leases(database, key) == 0, "the devices of all parts are free"
    assert not renew(database, key, by_id[head]), "the part that lived is over, too"
    assert "went silent" in job_row(database, job_id)["reason"]


def test_a_part_that_is_never_claimed_gives_all_back(database: Database, workers: list[Registration]) -> None:
    job_id, key = place_over_both(database)
    head = next(worker for worker in workers if worker.worker_id == _parts(database, key)[0]["worker_id"])
    assert claim(database, key, head)
    assert renew(database, key, head)
    let_part_run_out(database, key, 1)
    assert sweep.expire_leases(database, actor="w9") == 1
    assert live_leases(database, key) == 0
    assert "never took it up" in job_row(database, job_id)["reason"]
    make_eligible(database, job_id)
    assert place_again(database, job_id).run_id != key.run_id


def test_a_restarted_worker_ends_the_runs_it_had_a_part_in(database: Database, workers: list[Registration]) -> None:
    _job, key = place_over_both(database)
    second = _parts(database, key)[1]["worker_id"]
    assert sweep.end_runs_of_restarted(database, second, actor="w2") == 1
    assert states(database, key) == ("queued", "requeued")


def test_any_part_may_end_the_run_and_only_once(database: Database, workers: list[Registration]) -> None:
    _job, key = place_over_both(database)
    end(database, key, Outcome(FailureClass.PREEMPTED, "a worker drains"))
    with pytest.raises(Exception, match="already ended"):
        end(database, key, Outcome(FailureClass.PREEMPTED, "the other, too"))
    with database.read() as connection:
        assert offers.list_workers(connection)
        assert offers.held_devices(connection) == []


def test_the_first_reason_to_stop_stays(database: Database, workers: list[Registration]) -> None:
    _job, key = place_over_both(database)
    for why in ("preempted", "time-limit"):
        with database.write() as connection:
            parts.ask_for_stop(connection, key.run_id, 1, why)
    assert [part["stop"] for part in _parts(database, key)] == [None, "preempted"]


def _parts(database: Database, key: RunKey) -> list[dict[str, object]]:
    with database.read() as connection:
        return [dict(part) for part in parts.list_parts(connection, key.run_id)]
