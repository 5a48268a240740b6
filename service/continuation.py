"""Continuation: a job that begins with a checkpoint of another one, with other settings if it likes.

It owns which checkpoint is meant, whether that can go on under the new settings, and which ones the new job may fall
back to. A job's own later runs continue from its own checkpoints; nobody has to ask for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, RowMapping, select

from dljobs.errors import NotFound, UsageError

from .artifacts import get_artifact, list_artifacts
from .names import resolve_job
from .new_jobs import Beginning
from .spec import JobSpec
from .tables import jobs

Row = Mapping[Any, Any]
T = TypeVar("T", bound=Row)
# Of the settings, what decides which samples are in which batch.
_ORDER = ("batch_size", "seed")


def split_reference(text: str) -> tuple[str, str]:
    """`12:step-40` in its two parts; the checkpoint is the last one unless another is named."""
    job, _, which = text.partition(":")
    return job, which or "last"


def choose_checkpoint(rows: Sequence[Row], which: str) -> Row:
    """The checkpoint that `which` means.

    Args:
        rows: a job's complete checkpoints, as `list_artifacts` gives them.
        which: "last", "best" (the newest that was the best when it was taken), or a name such as `step-40`.

    Raises:
        NotFound: there is none such; the hint says which there are.
    """
    if not rows:
        raise NotFound(
            "there is no checkpoint", "one is left at the end of each epoch, and on request: `dljobs checkpoint`"
        )
    in_order = newest_first(rows)
    if which == "last":
        return in_order[0]
    chosen = (row for row in in_order if (row["best"] if which == "best" else row["name"] == which))
    found = next(chosen, None)
    if found is None:
        there_are = ", ".join(sorted({row["name"] for row in rows}, key=lambda name: (len(name), name)))
        best = "best, " if any(row["best"] for row in rows) else ""
        raise NotFound(f"there is no checkpoint {which!r}", f"there are last, {best}{there_are}")
    return found


def newest_first(rows: Sequence[T]) -> list[T]:
    """Checkpoints of one job in the order in which a run tries them."""
    return sorted(rows, key=lambda row: (row["run_number"], row["step"]), reverse=True)


def begin_at(connection: Connection, text: str, spec: JobSpec) -> Beginning:
    """Where a job with this spec begins that is to continue what the user wrote (`12`, `@:best`, `12:step-40`).

    Raises:
        NotFound, UsageError: there is no such checkpoint, or this spec cannot continue it.
    """
    job_text, which = split_reference(text)
    job_id = resolve_job(connection, job_text)
    row = connection.execute(select(jobs.c.spec_json).where(jobs.c.id == job_id)).one()
    before = JobSpec.from_json(row.spec_json)
    try:
        checkpoint = choose_checkpoint(list_artifacts(connection, job_id, kind="checkpoint"), which)
    except NotFound as error:
        raise NotFound(f"job {job_id}: {error.message}", error.hint) from None
    _check(before, spec, checkpoint)
    return Beginning(job_id, int(checkpoint["id"]))


def _check(before: JobSpec, after: JobSpec, checkpoint: Row) -> None:
    """Say before anything starts what a worker would find out."""
    name, training = checkpoint["name"], after.training
    if after.model != before.model:
        raise UsageError(f"checkpoint {name} is of model {before.model!r}, not {after.model!r}", "name the same model")
    ends_epoch = bool(json.loads(checkpoint["metrics_json"]))
    if not ends_epoch:
        changed = [each for each in _ORDER if getattr(training, each) != getattr(before.training, each)]
        changed += ["data"] if (after.data, after.data_options) != (before.data, before.data_options) else []
        if changed:
            raise UsageError(
                f"checkpoint {name} was cut in mid-epoch: another {' and '.join(changed)} changes the rest of it",
                "name the checkpoint of an epoch's end: it has metrics in `dljobs artifacts`",
            )
    least = checkpoint["epoch"] + ends_epoch  # epochs in all, so that there is one to train or to finish
    is_capped = 0 < training.max_steps <= checkpoint["step"]
    if training.epochs < least or is_capped:
        wanted = [f"--epochs {least}"] if training.epochs < least else []
        wanted += [f"--set max_steps={checkpoint['step'] + 1}"] if is_capped else []
        what = f"step {checkpoint['step']}, epoch {checkpoint['epoch']}"
        raise UsageError(
            f"nothing is left to train: checkpoint {name} is at {what}, and the job ends with epoch {training.epochs}"
            + (f" or step {training.max_steps}" if training.max_steps else ""),
            "give it more: " + " ".join(wanted),
        )


def checkpoints_of(connection: Connection, job: Row) -> list[RowMapping]:
    """What a run of the job may continue from, in the order in which it tries: its own first, the newest before others.

    A job that continues another one falls back to the checkpoint it was made from, and to that job's earlier ones.
    """
    found: list[RowMapping] = []
    if job["num_runs"] > 1:  # else there is none of its own yet
        own = list_artifacts(connection, job["id"], kind="checkpoint", from_run=job["first_resumable_run"])
        found = newest_first(own)
    if job["resumed_from_artifact_id"] is not None:
        theirs = newest_first(list_artifacts(connection, job["resumed_from_job_id"], kind="checkpoint"))
        first = next((at for at, row in enumerate(theirs) if row["id"] == job["resumed_from_artifact_id"]), None)
        found += theirs[first:] if first is not None else []
    return found


def lineage(connection: Connection, job: Row) -> dict[str, Any]:
    """Which checkpoint the job continues, and which jobs continue one of its own, for `dljobs show`."""
    query = select(jobs.c.id, jobs.c.spec_json).where(jobs.c.resumed_from_job_id == job["id"]).order_by(jobs.c.id)
    heirs = [row.id for row in connection.execute(query) if JobSpec.from_json(row.spec_json).kind == "train"]
    return {"resumed_from": _origin(connection, job), "resumed_by": heirs}


def _origin(connection: Connection, job: Row) -> dict[str, Any] | None:
    artifact_id = job["resumed_from_artifact_id"]
    if artifact_id is None:
        return None
    try:
        artifact = get_artifact(connection, artifact_id)
        found = {"name": artifact["name"], "step": artifact["step"], "epoch": artifact["epoch"]}
    except NotFound:
        found = dict.fromkeys(("name", "step", "epoch"))
    return {"artifact_id": artifact_id, "job_id": job["resumed_from_job_id"], **found}
