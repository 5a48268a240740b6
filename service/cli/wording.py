"""Wording: a Job and its like in a few words, the same ones in every command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dljobs.service.durations import show_duration

from .output import show_number

Json = Mapping[str, Any]
MAX_METRICS = 3
MAX_STAGE = 48  # of what is done before the first step, in a row of a table


def describe_end(job: Json) -> str:
    """How a job ended: `job 3 succeeded: accuracy 0.98`."""
    detail = describe(job)
    return f"job {job['id']} {job['state']}" + (f": {detail}" if detail else "")


def describe(job: Json) -> str:
    """The result of a job that succeeded, else why it is as it is."""
    if job["result"]:
        return describe_metrics(job["result"], first=job["metric"])
    if job["state"] == "queued" and not job["reasons"]:
        return "it can start now"
    if job["reasons"]:
        first, *others = job["reasons"]
        return str(first["text"]) + (f" (and {len(others)} more: `dljobs why {job['id']}`)" if others else "")
    if job["state"] in ("starting", "running"):
        return "its end was asked for" if job["cancel_requested_at"] else ""
    if job["state"] == "failed" and job["failure_class"]:
        return f"{job['failure_class']}: {job['reason']}"
    return "" if job["state"] == "succeeded" else str(job["reason"])


def describe_set(each: Json) -> str:
    """How many jobs of a set are how: `s3: 4 running, 12 queued`."""
    counts = ", ".join(f"{number} {state}" for state, number in each["counts"].items() if number)
    return f"{each['id']}: {counts}"


def describe_metrics(values: Json, *, first: str = "") -> str:
    """The numbers among `values` in one line, the most telling ones first."""
    numbers = [name for name, value in values.items() if type(value) in (int, float)]  # a truth is none
    names = [name for name in dict.fromkeys((first, "accuracy", "loss", "mae")) if name in numbers] or numbers
    return ", ".join(f"{name} {show_number(values[name])}" for name in names[:MAX_METRICS])


def describe_progress(job: Json) -> str:
    """`42% e7/15`, before that what is being done; the place in the queue of a job that waits."""
    if job.get("place"):
        return f"place {job['place']}"
    progress = job["progress"]
    if not progress:
        return ""
    if not progress["total_steps"]:
        return str(progress["stage"])[:MAX_STAGE]
    epochs = f" e{progress['epoch']}/{progress['epochs']}" if progress["epochs"] > 1 else ""
    return f"{progress['fraction']:.0%}{epochs}"


def describe_eta(job: Json) -> str:
    """Time left, of a job that waits until it starts; nothing where it is not known."""
    if job.get("expected_start_at") is not None:
        left_s = job["expected_start_at"] - job["submitted_at"] - job["age_s"]
        return f"starts {show_duration(left_s)}" if left_s >= 1 else "starts now"
    eta_s = (job["progress"] or {}).get("eta_s")
    return "" if eta_s is None else show_duration(eta_s)


def describe_data(name: str, options: Json) -> str:
    """`digits`, or `csv:/tables/a.csv` where a path says which; of tests from elsewhere, their path."""
    path = options.get("test") or options.get("path")
    return f"{name}:{path}" if isinstance(path, str) and path else name


def describe_size(job: Json) -> str:
    """The devices that a job has, where it asked for a range; else, and before it has any, what it asked for."""
    is_range = job["min_devices"] < job["num_devices"]
    return str(job["num_held"]) if is_range and job["num_held"] is not None else str(job["size"])


def describe_share(share: Json) -> str:
    """`job 12 (0.25)`: who has which part of a device."""
    return f"job {share['job_id']} ({share['percent'] / 100:g})"


def describe_work(spec: Json, size: str, num_nodes: int = 1) -> str:
    """`lenet on digits, ddp on 4 devices of 2 nodes`; size as `sizes.Size` writes it."""
    where = f"{size} of a device" if "." in size else f"{size} device{'' if size == '1' else 's'}"
    where += f" of {num_nodes} nodes" if num_nodes > 1 else ""
    return f"{spec['model']} on {spec['data']}, {spec['strategy']} on {where}"


def show_line(line: Mapping[str, Any], num_ranks: int) -> str:
    """A line of the log as text: whose it is, where more than one could have written it."""
    if line["rank"] is None:
        return f"[worker] {line['line']}"
    whose = str(line["rank"]) if line["node"] is None else f"{line['node']}/{line['rank']}"
    return f"[{whose}] {line['line']}" if num_ranks > 1 else str(line["line"])
