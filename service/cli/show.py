"""`dljobs show`."""

from __future__ import annotations

from typing import Any

import click

from dljobs.service.durations import show_duration
from dljobs.service.settings import Settings

from .opening import database_of, resolve_ids
from .options import job_argument, json_option
from .output import one_line, print_fields, print_json, print_lines, printable, show_bytes, show_moment
from .submit import spec_fields
from .table import Column, print_table
from .verify import describe_verdict
from .wording import describe, describe_data, describe_eta, describe_metrics, describe_progress, describe_work

Json = dict[str, Any]


@click.command()
@job_argument
@json_option
@click.pass_obj
def show(settings: Settings, *, job: str, as_json: bool) -> None:
    """Show a job: its spec, its runs and where they ran, the error with its traceback, the result, what was measured.

    \b
    Examples:
      dljobs show @
      dljobs show 12 --json
    """
    from dljobs.service.reports import job_details

    with database_of(settings) as database:
        [job_id] = resolve_ids(database, (job,))
        details = job_details(database, job_id, lease_s=settings.lease_s)
    if as_json:
        print_json("job", details)
        return
    _print_head(details)
    _heading("spec")
    print_fields(spec_fields(details["spec"]))
    if details["sources"]:
        _heading("files of its own")
        _print_sources(details)
    for run in details["runs"]:
        _print_run(run)
    if details["artifacts"]:
        _heading("artifacts")
        num_bytes = sum(artifact["size_bytes"] for artifact in details["artifacts"])
        print_lines([
            f"{len(details['artifacts'])} with {show_bytes(num_bytes)} in all: `dljobs artifacts {job_id}` lists them"
        ])  # fmt: skip
    if details["evaluations"]:
        _heading("evaluations")
        _print_evaluations(details["evaluations"])
    if details["verifications"]:
        _heading("verifications")
        print_lines([
            f"{show_moment(each['created_at'])}  {describe_verdict(each)}, by {each['user']}, job {each['by_job_id']}"
            for each in details["verifications"]
        ])  # fmt: skip


def _print_sources(job: Json) -> None:
    columns = (Column("file"), Column("size", right=True), Column("of"), Column("frozen as", kept=False))
    rows = [
        [file["name"], show_bytes(file["size_bytes"]), " and ".join(source["used_by"]), source["digest"][:12]]
        for source in job["sources"]
        for file in source["files"]
    ]
    print_table(columns, rows)
    print_lines(["", f"`dljobs export {job['id']} --source -o DIR` writes them as they ran"])


_KINDS = {"evaluate": " (evaluation)", "verify": " (verification)"}


def _print_evaluations(evaluations: list[Json]) -> None:
    columns = (
        Column("at"), Column("weights"), Column("data", kept=False), Column("by", kept=False),
        Column("result", kept=False),
    )  # fmt: skip
    rows = [
        [
            show_moment(each["created_at"]),
            f"{each['name']}, run {each['run']}" + ("" if each["artifact_id"] else " (dropped)"),
            describe_data(each["data"], each["data_options"]),
            each["user"] + (f", job {each['by_job_id']}" if each["by_job_id"] else ""),
            describe_metrics({**each["result"], "num_samples": None}),
        ]
        for each in evaluations
    ]
    print_table(columns, rows)


def _print_head(job: Json) -> None:
    took = (job["ended_at"] or 0) - (job["started_at"] or 0) if job["ended_at"] and job["started_at"] else None
    print_lines([one_line(f"job {job['id']} {job['name']}: {job['state']}")])
    print_fields(
        {
            "what": describe_work(job["spec"], job["size"], job["num_nodes"]) + _KINDS.get(job["kind"], ""),
            "result" if job["result"] else "reason": describe(job),
            "stop rule": (job["result"] or {}).get("until", ""),
            "progress": describe_progress(job),
            "time left": describe_eta(job),
            "user": job["user"],
            "tags": ", ".join(job["tags"]),
            "priority": str(job["priority"]),
            "submitted": show_moment(job["submitted_at"]),
            "started": show_moment(job["started_at"]),
            "ended": show_moment(job["ended_at"]),
            "took": "" if took is None else show_duration(took),
            "time limit": show_duration(job["time_limit_s"]) if job["time_limit_s"] else "",
            "retries": f"{job['num_retries']} of {job['max_retries']}" if job["num_retries"] else "",
            "compares with" if job["kind"] == "verify" else "evaluates": _describe_origin(job["origin"]),
            "replays" if job["kind"] == "verify" else "continues": _describe_beginning(job["resumed_from"]),
            "preempted": _describe_preempted(job),
            "continued by": ", ".join(f"job {each}" for each in job["resumed_by"]),
        }
    )


def _describe_preempted(job: Json) -> str:
    if job["num_preempted"]:
        return f"{job['num_preempted']} time{'' if job['num_preempted'] == 1 else 's'}, by more important jobs"
    return "it may be, by more important jobs" if job["is_preemptible"] else ""


def _describe_origin(origin: Json | None) -> str:
    if origin is None:
        return ""
    if origin["job_id"] is None:
        return f"artifact {origin['artifact_id']}, which is gone"
    return f"{origin['name']} of job {origin['job_id']}, run {origin['run']}, epoch {origin['epoch']}"


def _describe_beginning(beginning: Json | None) -> str:
    if beginning is None:
        return ""
    what = f"{beginning['name']}, epoch {beginning['epoch']}" if beginning["name"] else "a checkpoint that is gone"
    return f"job {beginning['job_id']} from {what}"


def _describe_evidence(evidence: Json | None) -> str:
    """What a run's class was judged by, in a line."""
    if not evidence:
        return ""
    parts = [f"rank {end['rank']}: {end['how']}" for end in evidence.get("exits", ())]
    parts += [f"rank {rank} stood in {place}" for rank, place in evidence.get("stacks", {}).items()]
    parts += [f"rank {each['rank']} raised {each['exception']}" for each in evidence.get("errors", ())]
    if kills := evidence.get("out_of_memory_kills"):
        parts.append(f"{kills} out-of-memory kill{'s' if kills > 1 else ''} on the host")
    parts += [str(evidence[name]) for name in ("hung", "launch_error", "storage") if evidence.get(name)]
    return "; ".join(parts)


def _print_run(run: Json) -> None:
    _heading(f"run {run['number']}: {run['state']}")
    progress, began = run["progress"], run["started_at"] or run["created_at"]
    steps = f"{progress['step']} of {progress['total_steps']}, epoch {progress['epoch']}" if progress["step"] else ""
    stage = "" if steps else progress["stage"]
    print_fields(
        {
            "worker": ", ".join(f"{part['worker']} on {part['node']}" for part in run["parts"]),
            "devices": ", ".join(f"{device['uuid']} ({device['name']})" for device in run["devices"]),
            "placed": show_moment(run["created_at"]),
            "first step": f"{show_duration(run['first_step_at'] - run['created_at'])} later"
            if run["first_step_at"]
            else "",
            "ended": f"{show_moment(run['ended_at'])}, after {show_duration(run['ended_at'] - began)}"
            if run["ended_at"]
            else "",
            "stage": stage,
            "steps": steps,
            "peak memory": show_bytes(run["peak_memory_bytes"]) if run["peak_memory_bytes"] else "",
            "result": describe_metrics(run["result"] or {}),
            "reason": f"{run['failure_class']}: {run['reason']}" if run["failure_class"] else "",
            "evidence": _describe_evidence(run["evidence"]),
            "decision": run["decision"],
        }
    )
    if run["error"]:
        _print_error(run["error"])


def _print_error(error: Json) -> None:
    _heading("error")
    where = f"{error['file']}:{error['line']}" if error.get("file") else ""
    fields = {"rank": error.get("rank"), "exception": error.get("exception"), "message": error.get("message")}
    print_fields({name: "" if value is None else str(value) for name, value in fields.items()} | {"at": where})
    if error.get("hint"):
        print_fields({"hint": error["hint"]})
    if error.get("traceback"):
        print_lines(["", printable(error["traceback"]).rstrip()])


def _heading(text: str) -> None:
    print_lines(["", text, "-" * len(text)])
