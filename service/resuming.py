"""Resuming: what `dljobs resume` submits, an existing job's spec with some of its settings changed.

It knows neither checkpoints (`continuation.py` finds them when the job is inserted) nor how a job is run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dljobs.errors import DljobsError, UsageError
from dljobs.models.options import coerce

from .bounds import check_priority, check_range, check_text
from .choosing import choose_data
from .continuation import split_reference
from .database import Database
from .jobs import get_job, size_of
from .names import resolve_job
from .new_jobs import NewJob
from .placing import check_nodes, resolve_placing
from .selectors import from_json
from .sizes import Size
from .spec import JobSpec, Training
from .submission import TRAINING_RANGES, check_training, parse_set, training_options


@dataclass(frozen=True)
class Changes:
    """What a user wants otherwise; None means "as it was"."""

    size: Size | None = None
    strategy: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)  # fields of Training that have a flag of their own
    sets: Sequence[str] = ()  # "key=value" each, of the trainer
    name: str | None = None
    tags: Sequence[str] = ()
    priority: int | None = None
    time_limit_s: float | None = None
    max_retries: int | None = None


def prepare_resumption(database: Database, reference: str, changes: Changes, user: str) -> NewJob:
    """A new job that goes on where the named one (`12`, `@:best`, `12:step-40`) left a checkpoint.

    Raises:
        NotFound: there is no such job.
        UsageError: it does not train, or a value cannot be right.
    """
    with database.read() as connection:
        job = get_job(connection, resolve_job(connection, split_reference(reference)[0]))
    before = JobSpec.from_json(job["spec_json"])
    if before.kind != "train":
        raise DljobsError(f"job {job['id']} does not train: there is nothing to go on with")
    training = _changed(before, changes)
    size = changes.size or size_of(job)
    strategy = changes.strategy or ("auto" if size != size_of(job) else before.strategy)
    priority = job["priority"] if changes.priority is None else changes.priority
    max_retries = job["max_retries"] if changes.max_retries is None else changes.max_retries
    check_priority(priority, 100)
    check_range("max-retries", max_retries, 0, 1000)
    check_nodes(strategy, size, job["num_nodes"], may_spread=bool(job["may_spread"]))
    resolved = resolve_placing(strategy, size, training.batch_size)
    spec = dataclasses.replace(before, training=training, num_devices=size.num_devices, strategy=resolved)
    return NewJob(
        spec=spec,
        user=user,
        name=check_text("name", job["name"] if changes.name is None else changes.name),
        priority=priority,
        tags=tuple(check_text("tag", tag) for tag in changes.tags or json.loads(job["tags_json"])),
        time_limit_s=job["time_limit_s"] if changes.time_limit_s is None else changes.time_limit_s,
        max_retries=max_retries,
        num_nodes=job["num_nodes"],
        may_spread=bool(job["may_spread"]),
        selector=from_json(job["selector_json"]),
        resume_from=reference,
        min_devices=size.min_devices,
        share_percent=size.share_percent,
    )


def _changed(before: JobSpec, changes: Changes) -> Training:
    options = training_options()
    values: dict[str, Any] = {}
    for text in changes.sets:
        _room, key, value = parse_set(text, {"trainer": options})
        if changes.training.get(key) is not None:
            raise UsageError(f"{key} is given twice: as --{key.replace('_', '-')} and as --set {text}")
        values[key] = coerce(options[key], value)
    values |= {key: coerce(options[key], value) for key, value in changes.training.items() if value is not None}
    training = dataclasses.replace(before.training, **values)
    if before.data_source is None:
        check_training(training, choose_data(before.data).entry, before.data_options)
    else:  # a file of the user's, which may be elsewhere by now: the rule's words are read where it runs
        for key, (lowest, highest) in TRAINING_RANGES.items():
            check_range(key, getattr(training, key), lowest, highest)
    return training
