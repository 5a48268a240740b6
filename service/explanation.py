"""Explanations: what `dljobs why` says about a job, whatever state it is in.

For a job that waits these are the reasons of the very plan that `dispatch.py` acts on, never a second opinion.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from . import jobs, reports, runs
from .clock import read_now
from .database import Database
from .durations import show_duration
from .offers import list_workers
from .planned import make_plan
from .sizes import show_size
from .states import PLACED_JOBS, WAITING_JOBS, JobState
from .views import Json, reason_view

Job = Mapping[Any, Any]


def explain(database: Database, job_id: int, *, lease_s: float) -> Json:
    """Why the job is as it is: sentences for people, the scheduler's reasons with their codes, and its newest run."""
    with database.read() as connection:
        job = jobs.get_job(connection, job_id)
        run = runs.latest_run(connection, job_id)
        shown_run = run and reports.run_in(connection, run, json.loads(job["spec_json"]))
        reasons: list[Json] = []
        if job["state"] in WAITING_JOBS:
            sentences, reasons = _explain_waiting(connection, job, lease_s)
        elif job["state"] in PLACED_JOBS and run is not None and shown_run:
            silent = {row["name"]: row["silent_s"] for row in list_workers(connection)}
            sentences = _explain_placed(job, shown_run, read_now(connection), silent, lease_s)
        else:
            sentences = _explain_ended(job, (shown_run or {}).get("error") or {}, read_now(connection))
    return {"job_id": job_id, "state": job["state"], "sentences": sentences, "reasons": reasons, "run": shown_run}


def _explain_waiting(connection: Connection, job: Job, lease_s: float) -> tuple[list[str], list[Json]]:
    planned = make_plan(connection, lease_s=lease_s)
    placement = next((placed for placed in planned.placed if placed.job_id == job["id"]), None)
    if placement is not None:
        where = show_size(len(placement.device_ids), job["share_percent"])
        names = ", ".join(planned.worker_names[part.worker_id] for part in placement.parts)
        return [f"it can start now, on {where} of {names}: a worker is about to see it"], []
    reasons = planned.reasons(job["id"])
    sentences = [reason.text for reason in reasons]
    if place := planned.place(job["id"]):
        start_at, now = planned.expected_start_at(job["id"]), planned.plan.snapshot.now
        when = (
            "nobody knows when it starts" if start_at is None else f"it starts in about {show_duration(start_at - now)}"
        )
        sentences.append(f"it is number {place} in the queue; {when}")
    if job["num_runs"]:
        sentences.append(f"it had {job['num_runs']} run{'s' if job['num_runs'] > 1 else ''}; {job['reason']}")
    return sentences, [reason_view(reason) for reason in reasons]


def _explain_placed(job: Job, run: Json, moment: float, silent: Mapping[str, float], lease_s: float) -> list[str]:
    since = show_duration(moment - (run["started_at"] or run["created_at"]))
    doing = "trains" if job["state"] == JobState.RUNNING else "is starting"
    where = " and ".join(_where(part) for part in run["parts"])
    part_of = f"{jobs.size_of(job)} of " if job["share_percent"] < 100 else ""
    sentences = [f"run {run['number']} {doing} on {part_of}{where} for {since}"]
    if not jobs.size_of(job).is_fixed:
        sentences.append(f"it asked for {jobs.size_of(job)} devices and got {run['num_devices']}, as many as were free")
    progress = run["progress"]
    if progress["total_steps"]:
        left = "" if progress["eta_s"] is None else f", about {show_duration(progress['eta_s'])} left"
        sentences.append(f"it is at step {progress['step']} of {progress['total_steps']}{left}")
    for part in run["parts"]:
        worker = f"worker {part['worker']}" if len(run["parts"]) > 1 else "its worker"
        if part["claimed_at"] is None:
            sentences.append(f"{worker} has not taken it up yet")
        if (silent_s := silent[part["worker"]]) > lease_s / 2:
            silence = f"{worker} has been silent for {show_duration(silent_s)}"
            sentences.append(f"{silence}: after {show_duration(lease_s)} the job goes back in the queue")
    if run["preempted_for_id"] is not None:
        sentences.append(f"it is to checkpoint and make room for job {run['preempted_for_id']}")
    if job["cancel_requested_at"] is not None:
        asked = show_duration(moment - job["cancel_requested_at"])
        sentences.append(f"its end was asked for {asked} ago")
    return sentences


def _where(part: Json) -> str:
    devices = ", ".join(device["uuid"] for device in part["devices"])
    return f"{devices} of {part['worker']} (node {part['node']})"


def _explain_ended(job: Job, error: Json, moment: float) -> list[str]:
    ago = show_duration(moment - job["ended_at"])
    if job["state"] == JobState.SUCCEEDED:
        return [f"it succeeded {ago} ago, in run {job['num_runs']}"]
    if job["state"] == JobState.CANCELLED:
        return [f"it ended {ago} ago: {job['reason']}", f"`dljobs retry {job['id']}` queues it again"]
    return [
        f"it failed {ago} ago ({job['failure_class']}): {job['reason']}",
        *([f"hint: {error['hint']}"] if error.get("hint") else []),
        f"`dljobs show {job['id']}` has the full error, `dljobs retry {job['id']}` queues it again",
    ]
