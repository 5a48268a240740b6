"""Assignments: what a worker reads of runs that it has claimed, all that their supervisors need to know."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from dljobs.service.continuation import checkpoints_of
from dljobs.service.halving import Rule
from dljobs.service.leases import placements
from dljobs.service.parts import parts_by_run
from dljobs.service.pruning import rule_of
from dljobs.service.runs import RunKey, jobs_of
from dljobs.service.statements import Row


@dataclass(frozen=True)
class Assignment:
    """A claimed part of a run: its rows, its devices, and its share of this node."""

    key: RunKey
    job: Row
    run_number: int
    parts: list[Row]  # of the whole run, the head's first
    node_rank: int  # which of them is this one
    devices: list[Row]  # of this part; the others have as many
    num_ranks: int  # of this part
    num_threads: int  # for each rank
    resume_from: Sequence[Row]  # checkpoints, in the order in which they are tried
    halving: Rule | None = None  # of the set that it is a trial of


def make_assignments(
    connection: Connection, keys: Sequence[RunKey], worker_id: int, *, num_devices: int
) -> list[Assignment]:
    """The parts of these runs that are this worker's, which has so many devices in all."""
    run_ids = [key.run_id for key in keys]
    job_of = {job["run_id"]: job for job in jobs_of(connection, run_ids)}
    parts_of, placed = parts_by_run(connection, run_ids), placements(connection, run_ids)
    found = []
    for key in keys:
        job, parts = job_of[key.run_id], parts_of[key.run_id]
        node_rank = next(part["node_rank"] for part in parts if part["worker_id"] == worker_id)
        devices = [device for device in placed[key.run_id] if device["node_rank"] == node_rank]
        num_ranks = len(devices) if job["strategy"] == "ddp" else 1
        held = len(devices) * job["share_percent"] / 100
        cores = len(os.sched_getaffinity(0)) * held / num_devices
        assignment = Assignment(
            key=key,
            job=job,
            run_number=job["run_number"],
            parts=parts,
            node_rank=node_rank,
            devices=devices,
            num_ranks=num_ranks,
            num_threads=max(1, int(cores / num_ranks)),
            resume_from=checkpoints_of(connection, job),
            halving=rule_of(connection, job["set_id"]),
        )
        found.append(assignment)
    return found
