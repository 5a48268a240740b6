"""Views: the one place that shapes rows into the documented JSON objects of `--json`.

`output_schema.json` describes each of them. Moments end in `_at` (seconds since 1970, the database's clock), durations
in `_s`. It asks the database nothing (`reports.py` does) and knows no terminal; a run's token never leaves its row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dljobs.errors import ExitCode

from . import failures, selectors
from .failures import FailureClass
from .scheduling.reasons import Reason
from .settings import MEANINGS, Settings, mask, setting_fields
from .sizes import Size
from .states import ENDED_JOBS, PLACED_JOBS, JobState, RunState

if TYPE_CHECKING:
    from dljobs.models.catalog import DatasetEntry, ModelEntry, Option

    from .new_jobs import NewJob

Json = dict[str, Any]
Row = Mapping[Any, Any]  # a row of SQLAlchemy, whose keys may also be columns

_JOB_COLUMNS = (
    "id",
    "state",
    "name",
    "user",
    "model",
    "strategy",
    "num_devices",
    "num_nodes",
    "min_devices",
    "share_percent",
    "priority",
    "idempotency_key",
    "time_limit_s",
    "max_retries",
    "num_retries",
    "num_runs",
    "num_preempted",
    "submitted_at",
    "begin_at",
    "eligible_at",
    "started_at",
    "ended_at",
    "cancel_requested_at",
    "failure_class",
    "reason",
)
_RUN_COLUMNS = (
    "id",
    "job_id",
    "number",
    "state",
    "num_devices",
    "peak_memory_bytes",
    "created_at",
    "claimed_at",
    "started_at",
    "first_step_at",
    "ended_at",
    "failure_class",
    "reason",
    "decision",
    "preempted_for_id",
)
_ARTIFACT_COLUMNS = ("id", "kind", "name", "step", "epoch", "size_bytes", "digest", "created_at")
_EVENT_COLUMNS = ("id", "at", "job_id", "run_id", "worker_id", "actor", "kind", "from_state", "to_state", "reason")


def exit_code_of(job: Row) -> ExitCode | None:
    """What a client that waited for this job returns; None while it has not ended."""
    match JobState(job["state"]):
        case JobState.SUCCEEDED:
            return ExitCode.OK
        case JobState.CANCELLED:
            return ExitCode.CANCELLED
        case JobState.FAILED:
            failure = job["failure_class"]
            return failures.exit_code(FailureClass(failure) if failure else None)
    return None


@dataclass(frozen=True)
class Prospect:
    """What the scheduler says of a job that waits: why, its place among those that wait for devices, and until when."""

    reasons: Sequence[Reason] = ()
    place: int | None = None
    expected_start_at: float | None = None


def job_view(job: Row, *, moment: float, run: Row | None = None, prospect: Prospect | None = None) -> Json:
    """A Job.

    Args:
        moment: the database's time, for its age.
        run: its live run, for its progress.
        prospect: why it waits and for how long, by the scheduler's plan.
    """
    waits = prospect or Prospect()
    spec = json.loads(job["spec_json"])
    code = exit_code_of(job)
    return {
        **{name: job[name] for name in _JOB_COLUMNS},
        "may_spread": bool(job["may_spread"]),
        "size": str(Size(job["num_devices"], job["min_devices"], job["share_percent"])),
        "num_held": run["num_devices"] if run is not None and job["state"] in PLACED_JOBS else None,
        "kind": spec.get("kind", "train"),
        "data": spec.get("data", ""),
        "metric": spec.get("metric", ""),
        "tags": json.loads(job["tags_json"]),
        "is_preemptible": bool(job["is_preemptible"]),
        "age_s": max(moment - job["submitted_at"], 0.0),
        "progress": None if run is None or job["state"] in ENDED_JOBS else progress_view(run, spec),
        "selector": selector_view(job),
        "reasons": [reason_view(reason) for reason in waits.reasons],
        "place": waits.place,
        "expected_start_at": waits.expected_start_at,
        "result": _load(job["result_json"]),
        "exit_code": None if code is None else int(code),
    }


def selector_view(job: Row) -> Json:
    """Which devices a job may run on; what is empty does not matter."""
    selector = selectors.from_json(job["selector_json"])
    return {
        "device_type": selector.device_type,
        "memory_bytes": selector.memory_bytes,
        "labels": dict(selector.labels),
        "exclude": list(selector.exclude),
    }


def reason_view(reason: Reason) -> Json:
    """A Reason: a stable code, and a sentence with the arithmetic."""
    return {"code": str(reason.code), "text": reason.text}


def progress_view(run: Row, spec: Mapping[str, Any]) -> Json:
    """A Progress: how far a run is. `eta_s` is null until its speed is known."""
    step, total, speed = run["step"], run["total_steps"], run["steps_per_s"]
    known = run["state"] == RunState.RUNNING and total and speed and speed > 0
    return {
        "run": run["number"],
        "stage": run["stage"],
        "step": step,
        "total_steps": total,
        "fraction": min(step / total, 1.0) if total else 0.0,
        "epoch": run["epoch"],
        "epochs": spec.get("training", {}).get("epochs", 0),
        "steps_per_s": speed,
        "eta_s": max(total - step, 0) / speed if known else None,
    }


def run_view(run: Row, parts: Sequence[Row], devices: Sequence[Row], spec: Mapping[str, Any]) -> Json:
    """A Run with its placement; `worker` and `node` are the head's.

    Args:
        parts: as `parts.list_parts` gives them, the head's first.
        devices: as `leases.placement` gives them.
    """
    return {
        **{name: run[name] for name in _RUN_COLUMNS},
        "worker": parts[0]["worker"],
        "node": parts[0]["node"],
        "devices": [device_view(device) for device in devices],
        "parts": [
            {
                **{name: part[name] for name in ("node_rank", "worker", "node", "claimed_at", "ended_at")},
                "devices": [device_view(each) for each in devices if each["node_rank"] == part["node_rank"]],
            }
            for part in parts
        ],
        "progress": progress_view(run, spec),
        "error": _load(run["error_json"]),
        "evidence": _load(run["evidence_json"]),
        "result": _load(run["result_json"]),
    }


def device_view(device: Row, held: Sequence[Row] = (), quarantine: Row | None = None) -> Json:
    """A Device with its live leases, of the job that holds all of it now or of those that share it; `quarantine` is its
    row if it takes nothing new."""
    columns = ("uuid", "kind", "name", "position", "memory_bytes")
    shares = ("job_id", "percent", "memory_bytes")
    told = ("reason", "since_at", "num_tries", "next_try_at")
    return {
        **{name: device[name] for name in columns},
        "job_id": next((lease["job_id"] for lease in held if lease["percent"] == 100), None),
        "shared_by": [{name: lease[name] for name in shares} for lease in held if lease["percent"] < 100],
        "quarantine": quarantine and {name: quarantine[name] for name in told},
    }


def is_free(device: Json) -> bool:
    """Whether a Device is as a whole there for the next job."""
    return device["job_id"] is None and not device["shared_by"] and device["quarantine"] is None


def worker_view(worker: Row, devices: Iterable[Json], *, lease_s: float) -> Json:
    """A Worker with its Devices; a silent one takes no work until it is heard of again."""
    columns = ("name", "node", "pid", "state", "registered_at", "heartbeat_at", "silent_s")
    return {
        **{name: worker[name] for name in columns},
        "is_silent": worker["state"] != "offline" and worker["silent_s"] > lease_s,
        "versions": json.loads(worker["versions_json"]),
        "labels": json.loads(worker["labels_json"]),
        "devices": list(devices),
    }


def node_view(name: str, workers: Sequence[Json], drained: Row | None) -> Json:
    """A Node with its Workers; a drained one takes nothing new."""
    devices = [device for worker in workers for device in worker["devices"]]
    state = "drained" if drained else "online" if any(worker["state"] == "online" for worker in workers) else "offline"
    return {
        "node": name,
        "state": state,
        "drained": drained
        and {
            "at": drained["drained_at"],
            "by": drained["drained_by"],
            "reason": drained["reason"],
            "evicts": bool(drained["evicts"]),
        },
        "labels": {key: value for worker in workers for key, value in worker["labels"].items()},
        "num_devices": len(devices),
        "num_free": sum(map(is_free, devices)),
        "workers": list(workers),
    }


def event_view(event: Row) -> Json:
    """An Event."""
    return {name: event[name] for name in _EVENT_COLUMNS}


def line_view(line: Row, run_number: int, nodes: Mapping[int, Sequence[str]]) -> Json:
    """A line of a log; rank null is the worker's own word.

    Args:
        nodes: of the runs over several nodes, by id, those of their ranks.
    """
    rank, ranks = line["rank"], nodes.get(line["run_id"], ())
    node = ranks[rank] if rank is not None and rank < len(ranks) else None
    return {"id": line["id"], "run": run_number, "rank": rank, "node": node, "at": line["at"], "line": line["line"]}


def artifact_view(artifact: Row) -> Json:
    """An Artifact; `best`: the best of its run when it was written."""
    return {
        **{name: artifact[name] for name in _ARTIFACT_COLUMNS},
        "run": artifact["run_number"],
        "metrics": json.loads(artifact["metrics_json"]),
        "best": bool(artifact["best"]),
    }


def evaluation_view(evaluation: Row) -> Json:
    """An EvaluationRecord: what measuring weights once gave; `by_job_id` is the job that did, if one did."""
    columns = ("id", "job_id", "artifact_id", "name", "epoch", "data", "user", "by_job_id", "created_at")
    return {
        **{name: evaluation[name] for name in columns},
        "run": evaluation["run_number"],
        "data_options": json.loads(evaluation["data_options_json"]),
        "result": json.loads(evaluation["result_json"]),
    }


def verification_view(verification: Row) -> Json:
    """A Verification: whether training again from a checkpoint gave the weights that were stored later."""
    columns = ("id", "job_id", "by_job_id", "from_step", "to_step", "user", "created_at")
    return {
        **{name: verification[name] for name in columns},
        "run": verification["run_number"],
        "is_exact": bool(verification["is_exact"]),
        "result": json.loads(verification["result_json"]),
    }


def request_view(new: NewJob) -> Json:
    """What a submission asked for, with every default resolved."""
    return {
        "name": new.name,
        "user": new.user,
        "priority": new.priority,
        "tags": list(new.tags),
        "time_limit_s": new.time_limit_s,
        "max_retries": new.max_retries,
        "idempotency_key": new.idempotency_key,
        "held": new.held,
        "size": str(new.size),
        "is_preemptible": new.is_preemptible,
        "selector": selector_view({"selector_json": selectors.to_json(new.selector)}),
        "resume_from": new.resume_from,
        "after": [f"{job}:{condition}" for job, condition in new.after],
        "num_nodes": new.num_nodes,
        "may_spread": new.may_spread,
        "begin_at": new.begin_at,
        "begin_in_s": new.begin_in_s,
        "spec": json.loads(new.spec.to_json()),
    }


def model_view(entry: ModelEntry) -> Json:
    """A Model of the zoo."""
    return {
        "name": entry.name,
        "summary": entry.summary,
        "source": entry.source,
        "num_parameters": entry.num_parameters,
        "data": entry.data,
        "data_options": dict(entry.data_options),
        "loss": entry.loss,
        "metric": entry.metric,
        "goal": entry.goal,
        "expected": entry.expected,
        "reaches": entry.reaches,
        "collection": entry.collection,
        "defaults": dict(entry.defaults),
        "variants": dict(entry.variants),
        "options": _options_view(entry.options),
    }


def dataset_view(entry: DatasetEntry) -> Json:
    """A Dataset of the zoo."""
    return {
        "name": entry.name,
        "summary": entry.summary,
        "source": entry.source,
        "task": entry.task,
        "shape": None if entry.shape is None else list(entry.shape),
        "num_classes": entry.num_classes,
        "downloads": entry.downloads,
        "options": _options_view(entry.options),
    }


def settings_view(settings: Settings) -> list[Json]:
    """Every Setting with where it came from; passwords are masked."""
    shown = []
    for field in setting_fields():
        value = getattr(settings, field.name)
        shown.append(
            {
                "name": field.name,
                "value": value if isinstance(value, float) else mask(str(value)),
                "source": settings.sources[field.name],
                "meaning": MEANINGS[field.name],
            }
        )
    return shown


def _options_view(options: Mapping[str, Option]) -> list[Json]:
    return [
        {"name": o.name, "type": o.type, "default": o.default, "choices": list(o.choices or ()), "doc": o.doc}
        for o in options.values()
    ]


def _load(text: str | None) -> Any:
    return None if text is None else json.loads(text)
