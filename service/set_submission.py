"""Submission of a set: an array or a sweep, from what a user typed to jobs in the database, all of them or none.

Every point is a full spec that is held against the catalog before anything is written. What the axes' words mean is
owned by `axes.py`; what one job may be, by `submission.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from dljobs.errors import UsageError
from dljobs.models.catalog import TASK_METRICS
from dljobs.models.options import coerce

from . import sets
from .axes import INDEX, MAX_JOBS, Axis, Wish, drawn_axis, grid_axis, parse_array, points
from .bounds import check_range
from .continuation import begin_at
from .database import Database
from .doorbell import Doorbell
from .halving import Rule, parse_rule
from .new_jobs import NewJob
from .sets import Member, NewSet, describe_point
from .settings import Settings
from .submission import (
    Chosen,
    Place,
    Request,
    build,
    check_allowed,
    choose,
    find_obstacles,
    find_place,
    training_options,
)
from .variation import Variation

PLACEHOLDER = "{index}"
SEED: Place = ("trainer", "seed")
Make = Callable[[Mapping[str, Any]], NewJob]  # the job at a point


@dataclass(frozen=True)
class SubmittedSet:
    """A set in the database; `created` is False if its idempotency key had already made it."""

    set_id: int
    created: bool
    warnings: tuple[str, ...] = ()


def prepare_set(request: Request, variation: Variation, user: str) -> NewSet:
    """Validate every job of a set and resolve its defaults; writes nothing.

    Raises:
        UsageError: something cannot be right; the message says what would be, and of which job.
    """
    chosen = choose(request)
    if variation.array is not None:
        axes, make, max_parallel = _array(chosen, request, variation, user)
    else:
        axes, make, max_parallel = *_sweep(chosen, request, variation, user), variation.max_parallel
    if max_parallel is not None:
        check_range("max-parallel", max_parallel, 1, MAX_JOBS)
    members = []
    for number, point in enumerate(points(axes)):
        try:
            job = make(point)
        except UsageError as error:
            raise UsageError(f"with {describe_point(point)}: {error.message}", error.hint) from None
        index = number if variation.array is None else axes[0].values[number]
        members.append(Member(index, point, job))
    rule = None if variation.halving is None else _rule(variation.halving, chosen, members)
    warnings = ("all its jobs are the same: use {index} in an option",) if _are_all_equal(members) else ()
    return NewSet(members, axes, max_parallel, rule, warnings)


def enqueue_set(database: Database, doorbell: Doorbell, settings: Settings, new: NewSet) -> SubmittedSet:
    """Insert all jobs of the set in one transaction, ring, and say at once what stands in their way."""
    first = new.members[0].job
    with database.write() as connection:
        if sets.find_same(connection, first) is None:
            check_allowed(connection, first, len(new.members))
            new = _begun(connection, new)
        set_id, created = sets.insert_set(connection, new)
    if not created:
        same = f"idempotency key {first.idempotency_key!r} was used before: this is s{set_id}, no new one was made"
        return SubmittedSet(set_id, created, (same,))
    warnings = [*first.warnings, *new.warnings]
    if not first.held and not doorbell.ring_schedule():
        where = f"s{set_id} is safe in the database and starts when a worker next looks there"
        warnings.append(f"{doorbell.problem}: {where}")
    with database.read() as connection:
        first_id = sets.first_job_id(connection, set_id)
    warnings += [f"s{set_id} waits: {words}" for words in find_obstacles(database, settings, first_id)]
    return SubmittedSet(set_id, created, tuple(warnings))


def _begun(connection: Connection, new: NewSet) -> NewSet:
    """The same with the checkpoint that all its jobs begin with, where one was named."""
    text = new.members[0].job.resume_from
    if text is None:
        return new
    members = [
        dataclasses.replace(
            member, job=dataclasses.replace(member.job, beginning=begin_at(connection, text, member.job.spec))
        )
        for member in new.members
    ]
    return dataclasses.replace(new, members=members)


def _array(chosen: Chosen, request: Request, variation: Variation, user: str) -> tuple[list[Axis], Make, int | None]:
    """The axis of an array: its index stands where {index} was written, or is the seed if nothing else was said."""
    assert variation.array is not None
    if variation.sweeps:
        raise UsageError("--array and --sweep would make two sets", "an array of seeds is also --sweep seed=0-15")
    if variation.trials is not None or variation.search_seed is not None:
        raise UsageError("--trials and --search-seed go with a random --sweep", "such as --sweep 'lr~log(1e-4,1e-1)'")
    indices, max_parallel = parse_array(variation.array)
    if max_parallel is not None and variation.max_parallel is not None:
        raise UsageError(f"--max-parallel is given twice: as %{max_parallel} and as {variation.max_parallel}")
    texts = [*request.sets, *(value for value in request.training.values() if isinstance(value, str))]
    is_seed = request.training.get("seed") is None and not any(PLACEHOLDER in text for text in texts)
    is_seed = is_seed and not any(text.partition("=")[0].strip() == "trainer.seed" for text in request.sets)

    def make(point: Mapping[str, Any]) -> NewJob:
        if is_seed:
            return build(chosen, request, user, {SEED: point["seed"]})
        return build(chosen, _with_index(request, point[INDEX]), user)

    return (
        [Axis("seed" if is_seed else INDEX, indices)],
        make,
        variation.max_parallel if max_parallel is None else max_parallel,
    )


def _with_index(request: Request, index: int) -> Request:
    def put(value: Any) -> Any:
        return value.replace(PLACEHOLDER, str(index)) if isinstance(value, str) else value

    training = {name: put(value) for name, value in request.training.items()}
    return dataclasses.replace(request, sets=[put(text) for text in request.sets], training=training)


def _sweep(chosen: Chosen, request: Request, variation: Variation, user: str) -> tuple[list[Axis], Make]:
    """The axes of a sweep, listed and drawn."""
    wishes = [Wish.parse(text) for text in variation.sweeps]
    is_drawn = any(wish.kind for wish in wishes)
    if is_drawn and variation.trials is None:
        name = next(wish.name for wish in wishes if wish.kind)
        raise UsageError(f"--sweep {name}~… is drawn at random, and nothing says how often", "add --trials 20")
    if not is_drawn and (variation.trials is not None or variation.search_seed is not None):
        raise UsageError("--trials and --search-seed go with a random --sweep", "such as --sweep 'lr~log(1e-4,1e-1)'")
    trials = 0 if variation.trials is None else variation.trials
    if is_drawn:
        check_range("trials", trials, 1, MAX_JOBS)
    search_seed = _search_seed(request, variation)
    places: dict[str, Place] = {}
    axes = []
    for wish in wishes:
        place = _place_of(wish.name, chosen)
        _refuse_twice(wish.name, place, places, chosen, request)
        places[wish.name] = place
        option = chosen.rooms[place[0]][place[1]]
        axes.append(drawn_axis(wish, option, trials, search_seed) if wish.kind else grid_axis(wish, option))

    def make(point: Mapping[str, Any]) -> NewJob:
        return build(chosen, request, user, {places[name]: value for name, value in point.items()})

    return axes, make


def _search_seed(request: Request, variation: Variation) -> int:
    """What random values are drawn by: `--search-seed`, or the seed that all jobs share."""
    if variation.search_seed is not None:
        return variation.search_seed
    seed = request.training.get("seed")
    return 0 if seed is None else int(coerce(training_options()["seed"], seed))


def _place_of(name: str, chosen: Chosen) -> Place:
    # What has a flag of its own means that, as it does on the command line: `seed` is not the one of the data.
    return ("trainer", name) if name in training_options() else find_place(name, chosen.rooms, "--sweep")


def _refuse_twice(name: str, place: Place, places: Mapping[str, Place], chosen: Chosen, request: Request) -> None:
    if place in places.values():
        raise UsageError(f"--sweep {name} is given twice", f"write --sweep {name}= once, with all values")
    fixed = {("trainer", key) for key, value in request.training.items() if value is not None}
    if place in fixed:
        flag = f"--{name.replace('_', '-')}"
        raise UsageError(f"{name} is given twice: as {flag} and as --sweep", "leave one of them out")
    for text in request.sets:
        key = text.partition("=")[0].strip().replace("-", "_")
        if find_place(key, chosen.rooms, "--set") == place:
            raise UsageError(f"{name} is given twice: as --set {text} and as --sweep", "leave one of them out")


def _rule(text: str, chosen: Chosen, members: Sequence[Member]) -> Rule:
    """The rule of `--halving`, if there is an epoch at which it could stop anything."""
    data_options = members[0].job.spec.data_options
    rule = parse_rule(text, TASK_METRICS[chosen.data.entry.task_with(data_options)])
    longest = max(member.job.spec.training.epochs for member in members)
    if not rule.rungs(longest):
        raise UsageError("--halving stops trials between epochs, and these have one", "nearest: --epochs 2")
    if len(members) < rule.eta:
        words = f"--halving keeps one of {rule.eta} trials, and there are {len(members)}"
        raise UsageError(words, f"nearest: --halving {rule.metric}:{rule.goal}:{max(len(members), 2)}")
    return rule


def _are_all_equal(members: Sequence[Member]) -> bool:
    return len(members) > 1 and all(member.job.spec == members[0].job.spec for member in members)
