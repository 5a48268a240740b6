"""Submission: from what a user typed to a job in the database.

Everything is validated against the zoo's catalog before anything is written. It resolves all defaults into a frozen
`JobSpec`, inserts the job, and only then rings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from dljobs.errors import UnknownName, UsageError
from dljobs.models.catalog import FITTED_NAMES, TASK_METRICS, DatasetEntry, ModelEntry
from dljobs.models.init_rule import parse_init
from dljobs.models.options import Option, OptionType, check_options, coerce
from dljobs.models.threshold import parse_threshold

from . import new_jobs
from .bounds import check_priority, check_range, check_text
from .choosing import (
    ChosenData,
    ChosenModel,
    absolute_path,
    choose_data,
    choose_model,
    match,
)
from .freezing import Frozen
from .moments import parse_begin
from .new_jobs import NewJob
from .placing import check_nodes, resolve_placing
from .policy import read_policy
from .scheduling.limits import limit_of
from .scheduling.reasons import ReasonCode
from .selectors import make_selector, parse_dependency
from .settings import Settings
from .sizes import Size
from .spec import JobSpec, Training
from .statements import AnyConnection, AnyDatabase, whole

if TYPE_CHECKING:
    from .doorbell import Doorbell

Place = tuple[str, str]  # an option: its room ("model", "data" or "trainer") and its name
# Reasons that no time will cure: somebody has to do something.
NEEDING_HELP = (ReasonCode.NO_WORKERS, ReasonCode.NEVER_FITS, ReasonCode.DEPENDENCY_NEVER_SATISFIED)
# Beyond these a number is a typing error, not a wish: (lowest, highest).
TRAINING_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 1_000_000),
    "batch_size": (1, 10_000_000),
    "micro_batch_size": (0, 10_000_000),
    "readers": (-1, 256),
    "lr": (0, 1000),
    "momentum": (0, 1),
    "weight_decay": (0, 1000),
    "warmup_steps": (0, 10**9),
    "seed": (0, 2**32 - 1),
    "max_steps": (0, 10**12),
    "clip_norm": (0, 10**9),
    "print_every": (0, 10**9),
    "log_every": (0, 10**9),
    "keep_every": (0, 1_000_000),
    "keep_checkpoints_every": (0, 1_000_000),
    "checkpoint_every_steps": (0, 10**12),
    "checkpoint_every_epochs": (0, 1_000_000),
    "checkpoint_every_s": (0.1, 30 * 86400),
}


@dataclass(frozen=True)
class Request:
    """What a user asked for; None means "the default of the zoo's entry"."""

    model: str
    num_devices: int = 1  # the most that it takes
    strategy: str = "auto"
    data: str | None = None
    with_folder: str | None = None  # frozen together with a model or data in a file of one's own
    training: Mapping[str, Any] = field(default_factory=dict)  # fields of Training that have a flag of their own
    sets: Sequence[str] = ()  # "key=value" each
    name: str | None = None
    tags: Sequence[str] = ()
    priority: int = 50
    time_limit_s: float | None = None
    max_retries: int = 2
    idempotency_key: str | None = None
    held: bool = False
    is_preemptible: bool = False
    device_type: str | None = None  # "a100", "cpu"
    memory: str | None = None  # of a device: "40G"
    labels: Sequence[str] = ()  # of a node, "label=value" each
    exclude: Sequence[str] = ()  # names of nodes
    after: Sequence[str] = ()  # "ID", "ID:ok", "ID:fail" or "ID:any" each
    num_nodes: int = 1  # so many equal parts, each on another
    may_spread: bool = False  # over the fewest nodes that fit, where none has enough
    resume_from: str | None = None  # "12", "@:best", "12:step-40"
    begin: str | None = None  # "2h", "18:30", "2030-01-31 18:30"
    min_devices: int | None = None  # what it needs at the least; None: all of num_devices
    share_percent: int = 100  # less: a part of one device


@dataclass(frozen=True)
class Submitted:
    """A job in the database; `created` is False if its idempotency key had already made it."""

    job_id: int
    created: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """The model and the data that a request names, their files frozen: once, for all jobs that are made of it."""

    model: ChosenModel
    data: ChosenData
    sources: tuple[Frozen, ...]

    @cached_property
    def rooms(self) -> dict[str, Mapping[str, Option]]:
        """Whose options may be set."""
        return {"model": self.model.entry.options, "data": self.data.entry.options, "trainer": training_options()}


def choose(request: Request) -> Chosen:
    """Find what a request names.

    Raises:
        UsageError: it names nothing that is known.
    """
    model = choose_model(request.model, request.with_folder)
    data = choose_data(request.data or model.entry.data, request.with_folder)
    sources = tuple(each.source for each in (model, data) if each.source is not None)
    if request.with_folder is not None and not sources:
        raise UsageError("--with goes with a model or data in a file of your own", "such as ./net.py:Net")
    return Chosen(model, data, sources)


def prepare(request: Request, user: str) -> NewJob:
    """Validate a request and resolve every default; writes nothing.

    Raises:
        UsageError: something in it cannot be right; the message says what would be.
    """
    return build(choose(request), request, user)


def build(chosen: Chosen, request: Request, user: str, varied: Mapping[Place, Any] | None = None) -> NewJob:
    """As `prepare`, of what was chosen before.

    Args:
        varied: values that this job has by its place in a set.
    """
    data, sources = chosen.data, chosen.sources
    training, model_options, data_options = _resolve_options(chosen, request, varied or {})
    model = match(chosen.model, data, model_options, data_options)
    size = Size(request.num_devices, request.min_devices or request.num_devices, request.share_percent)
    check_nodes(request.strategy, size, request.num_nodes, may_spread=request.may_spread)
    strategy = resolve_placing(request.strategy, size, training.batch_size)
    check_priority(request.priority, 100)
    check_range("max-retries", request.max_retries, 0, 1000)
    key = request.idempotency_key
    spec = JobSpec(
        model=chosen.model.name,
        data=data.name,
        loss=model.loss,
        metric=model.metric,
        goal="max" if model.goal == "max" else "min",
        strategy=strategy,
        num_devices=request.num_devices,
        model_options=model_options,
        data_options=data_options,
        training=training,
        model_source=chosen.model.digest,
        data_source=data.digest,
    )
    left_out = sorted({name for source in sources for name in source.left_out})
    return NewJob(
        spec=spec,
        user=check_text("user", user),
        name=check_text("name", model.name if request.name is None else request.name),
        priority=request.priority,
        tags=tuple(check_text("tag", tag) for tag in request.tags),
        time_limit_s=request.time_limit_s,
        max_retries=request.max_retries,
        idempotency_key=None if key is None else check_text("idempotency key", key),
        held=request.held,
        is_preemptible=request.is_preemptible,
        sources=sources,
        warnings=(f"left out of the job: {', '.join(left_out[:10])}",) if left_out else (),
        num_nodes=request.num_nodes,
        may_spread=request.may_spread,
        selector=make_selector(request.device_type, request.memory, request.labels, request.exclude),
        after=tuple(parse_dependency(text) for text in request.after),
        resume_from=request.resume_from,
        min_devices=size.min_devices,
        share_percent=size.share_percent,
        **parse_begin(request.begin),
    )


def enqueue(database: AnyDatabase, doorbell: Doorbell, new: NewJob) -> Submitted:
    """Insert the job and ring; `find_obstacles` says what stands in its way."""
    with database.write() as connection:
        if new_jobs.find_same(connection, new) is None:
            check_allowed(connection, new)
            if new.resume_from is not None:
                from .continuation import begin_at

                new = dataclasses.replace(new, beginning=begin_at(whole(connection), new.resume_from, new.spec))
        job_id, created = new_jobs.insert_job(connection, new)
    if not created:
        same = f"idempotency key {new.idempotency_key!r} was used before: this is job {job_id}, no new one was made"
        return Submitted(job_id, created, (same,))
    warnings = list(new.warnings)
    if not new.held and not doorbell.ring_schedule():
        warnings.append(
            f"{doorbell.problem}: job {job_id} is safe in the database and starts when a worker next looks there"
        )
    return Submitted(job_id, created, tuple(warnings))


def find_obstacles(database: AnyDatabase, settings: Settings, job_id: int) -> list[str]:
    """What stands in the way of a job and no time will cure, such as that no worker has as many devices."""
    from .planned import make_plan

    with database.read() as connection:
        reasons = make_plan(connection, lease_s=settings.lease_s, only=job_id).reasons(job_id)
    return [reason.text for reason in reasons if reason.code in NEEDING_HELP]


def check_allowed(connection: AnyConnection, new: NewJob, num_jobs: int = 1) -> None:
    """Hold so many jobs like this one against the policy in force.

    Raises:
        UsageError: its priority, or the number of its user's jobs, is above what is allowed.
    """
    policy = read_policy(connection)
    check_priority(new.priority, policy.priority_ceiling)
    limits = [("user", new.user, limit_of(policy.scheduling.user_limits, new.user))]
    limits += [("tag", tag, limit_of(policy.scheduling.tag_limits, tag)) for tag in new.tags]
    for kind, name, limit in limits:
        if limit.queued_jobs is None:
            continue
        queued = new_jobs.count_queued(connection, **{kind: name})
        if queued + num_jobs > limit.queued_jobs:
            words = f"{kind} {name} may have {limit.queued_jobs} jobs queued and has {queued}"
            words += f": {num_jobs} more would be {queued + num_jobs}" if num_jobs > 1 else ""
            raise UsageError(words, "submit it when some have started, or cancel one: `dljobs status`")


@cache
def training_options() -> Mapping[str, Option]:
    """The fields of `Training` as options, with their types and choices."""
    hints = get_type_hints(Training)
    options = {}
    for each in dataclasses.fields(Training):
        hint = hints[each.name]
        choices = get_args(hint)
        kind: OptionType = "str" if choices else hint.__name__
        options[each.name] = Option(name=each.name, type=kind, default=each.default, choices=choices)
    return options


def _resolve_options(
    chosen: Chosen, request: Request, varied: Mapping[Place, Any]
) -> tuple[Training, dict[str, Any], dict[str, Any]]:
    """Training, model options and data options: what varies, over flags and `--set`, over the entry's defaults."""
    model, data, rooms = chosen.model.entry, chosen.data.entry, chosen.rooms
    values: dict[str, dict[str, Any]] = {room: {} for room in rooms}
    for text in request.sets:
        room, key, value = parse_set(text, rooms)
        if key in request.training and request.training[key] is not None:
            raise UsageError(f"{key} is given twice: as --{key.replace('_', '-')} and as --set {text}")
        values[room][key] = coerce(rooms[room][key], value)
    for key, value in request.training.items():
        if value is not None:
            values["trainer"][key] = coerce(rooms["trainer"][key], value)
    for (room, key), value in varied.items():
        values[room][key] = value
    # A model option that the user leaves alone stays out of the spec: the worker fits it to the data.
    data_defaults = {name: option.default for name, option in data.options.items()}
    data_options = {**data_defaults, **_wanted_of_data(model, chosen.data), **chosen.data.options, **values["data"]}
    require(model.name, model.options, values["model"])
    require(data.name, data.options, data_options)
    absolute_path(data, data_options)
    declared = model.defaults_with(values["model"])
    check_options(f"Training, which {model.name} declares", rooms["trainer"], declared)
    training = Training(**{**declared, **values["trainer"]})
    check_training(training, data, data_options)
    return training, values["model"], data_options


def check_training(training: Training, data: DatasetEntry, data_options: Mapping[str, Any]) -> None:
    """Each value is in its range, and what is written in words can be understood.

    Raises:
        UsageError: it is not.
    """
    for key, (lowest, highest) in TRAINING_RANGES.items():
        check_range(key, getattr(training, key), lowest, highest)
    if training.lr == 0:
        raise UsageError("lr is 0: nothing would be learned", "give a positive learning rate, such as --lr 0.01")
    parse_init(training.init)
    if training.until:
        parse_threshold(training.until, TASK_METRICS[data.task_with(data_options)])


def _wanted_of_data(model: ModelEntry, chosen: ChosenData) -> dict[str, Any]:
    """What a model asks of its own data; of other images too it wants the size that it is made for."""
    options = chosen.entry.options
    is_own = chosen.name == model.data
    wanted = {name: value for name, value in model.data_options.items() if is_own or name == "image_size"}
    return check_options(chosen.name, options, {k: v for k, v in wanted.items() if is_own or k in options})


def require(owner: str, options: Mapping[str, Option], values: Mapping[str, Any]) -> None:
    """Make sure that what has no default was given, unless the data will give it.

    Raises:
        UsageError: it was not.
    """
    for name, option in options.items():
        if option.default is None and values.get(name) is None and name not in FITTED_NAMES:
            raise UsageError(f"{owner} needs its option {name!r}", f"give it with --set {name}=…")


def parse_set(text: str, rooms: Mapping[str, Mapping[str, Option]]) -> tuple[str, str, str]:
    """Split `key=value` or `room.key=value` and find the room that knows the key."""
    key, equals, value = text.partition("=")
    key = key.strip().replace("-", "_")
    if not equals or not key:
        raise UsageError(f"--set wants key=value, not {text!r}", "for example --set momentum=0.9")
    return *find_place(key, rooms, "--set"), value


def find_place(key: str, rooms: Mapping[str, Mapping[str, Option]], flag: str) -> Place:
    """The room of an option, and its name there, from `key` or `room.key`.

    Raises:
        UsageError: no room has it, or several do.
    """
    room, dot, bare = key.partition(".")
    if dot and room in rooms:
        if bare not in rooms[room]:
            raise UnknownName(f"{room} option", bare, rooms[room])
        return room, bare
    owners = [room for room, options in rooms.items() if key in options]
    if not owners:
        raise UnknownName("option", key, {name for options in rooms.values() for name in options})
    if len(owners) > 1:
        choices = " or ".join(f"{owner}.{key}" for owner in owners)
        raise UsageError(f"{flag} {key} could mean {choices}", f"write {flag} {owners[0]}.{key}=…")
    return owners[0], key
