"""The checks of `dljobs doctor --nodes`: a real all-reduce between workers of all nodes, by a job of the service.

What it finds is what a training job would find: the same scheduler, rendezvous, interfaces and backend. The job takes a
device of each node for a moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dljobs.errors import DljobsError, NotFinished

from . import control, new_jobs, offers, runs
from .database import Database
from .doctor_checks import Check
from .doorbell import Doorbell
from .logs import nodes_by_rank
from .planned import make_plan
from .policy import read_policy
from .selectors import make_selector
from .settings import Settings
from .snapshot import offering_workers
from .spec import JobSpec
from .waiting import Poll, wait_for

TIMEOUT_S = 120.0
KINDS = {"cuda": "GPUs", "cpu": "CPUs"}


def check_nodes(settings: Settings, database: Database) -> list[Check]:
    """The all-reduces of all nodes that have devices of a kind: among all of them, and between each two."""
    nodes: dict[str, set[str]] = {kind: set() for kind in KINDS}
    with database.read() as connection:
        taking = {worker.id: worker.node for worker in offering_workers(connection, lease_s=settings.lease_s)
                  if worker.drained is None}  # fmt: skip
        for device in offers.list_devices(connection):
            if device["worker_id"] in taking:
                nodes[device["kind"]].add(taking[device["worker_id"]])
    several = {kind: len(found) for kind, found in nodes.items() if len(found) > 1}
    if not several:
        return [Check("nodes", "warn", "there are no two nodes whose workers take work: nothing to try")]
    return [check for kind, number in several.items() for check in _try(settings, database, kind, number)]


def _try(settings: Settings, database: Database, kind: str, num_nodes: int) -> list[Check]:
    """Run the job on so many nodes, and tell what became of it."""
    job_id = _submit(settings, database, kind, num_nodes)
    name = f"{num_nodes} nodes"
    try:
        [job] = wait_for(database, [job_id], lease_s=settings.lease_s, poll=Poll(TIMEOUT_S))
    except NotFinished:
        return [
            Check(name, "warn", f"job {job_id} {_give_up(settings, database, job_id)}", "try again when it is free")
        ]
    if job["state"] != "succeeded":
        cure = f"`dljobs logs {job_id}` has more; DLJOBS_INTERFACE on each machine names the network between them"
        return [Check(name, "fail", f"job {job_id} {job['state']}: {job['reason']}", cure)]
    with database.read() as connection:
        run = runs.latest_run(connection, job_id)
        assert run is not None
        of_ranks = nodes_by_rank(connection, [run["id"]])[run["id"]]
    found = job["result"]
    return [_describe(row, of_ranks, found["bulk_bytes"], kind) for row in found["all_reduces"]]


def _describe(row: Mapping[str, Any], of_ranks: list[str], bulk_bytes: int, kind: str) -> Check:
    members = [of_ranks[rank] for rank in row["ranks"]]
    name = " – ".join(members) if len(members) == 2 else f"{len(members)} nodes"
    pace = bulk_bytes / row["bulk_s"] / 1e6
    detail = f"all-reduce over {KINDS[kind]}: 1 KiB in {row['latency_s'] * 1e3:.2f} ms, "
    return Check(name, "ok", f"{detail}{bulk_bytes >> 20} MiB in {row['bulk_s'] * 1e3:.1f} ms ({pace:,.0f} MB/s)")


def _submit(settings: Settings, database: Database, kind: str, num_nodes: int) -> int:
    spec = JobSpec(
        model="all-reduce", data="nothing", loss="", metric="", goal="min", strategy="ddp", num_devices=num_nodes,
        kind="all-reduce",
    )  # fmt: skip
    with database.write() as connection:
        new = new_jobs.NewJob(
            spec,
            user=settings.user,
            name="doctor --nodes",
            priority=int(read_policy(connection).priority_ceiling),
            time_limit_s=TIMEOUT_S,
            max_retries=0,
            selector=make_selector(kind, None),
            num_nodes=num_nodes,
        )
        job_id, _created = new_jobs.insert_job(connection, new)
    Doorbell(settings).ring_schedule()
    return job_id


def _give_up(settings: Settings, database: Database, job_id: int) -> str:
    """Cancel the job; returns why it did not come to an end."""
    with database.read() as connection:
        reasons = make_plan(connection, lease_s=settings.lease_s).reasons(job_id)
    try:
        control.cancel(database, Doorbell(settings), job_id, actor=settings.user)
    except DljobsError:
        return "ended only just now"
    told = "; ".join(reason.text for reason in reasons)
    return f"did not end within {TIMEOUT_S:.0f} s" + (f": {told}" if told else ", and was cancelled")
