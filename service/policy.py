"""The policy: what the settings of workers say of scheduling, kept in the database for all who plan or explain.

A worker that starts with a setting of its own writes it there; one that has only defaults changes nothing. So a client
needs no settings for `why` to be true, and cannot raise its own limits by its own settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dljobs.errors import UnknownName, UsageError

from .durations import parse_duration_s
from .scheduling.quotas import Quota
from .scheduling.rows import DEFAULT_POLICY, Limit, Policy
from .settings import Settings
from .statements import AnyConnection, run, value

KEYS = ("priority_ceiling", "ageing_s", "half_life_s", "preemptible_below", "min_run_s", "limits", "shares")
_LIMITS = {"devices": "running_devices", "jobs": "running_jobs", "queued": "queued_jobs"}


@dataclass(frozen=True)
class ServicePolicy:
    """How the service schedules, and what it lets users ask for."""

    scheduling: Policy = DEFAULT_POLICY
    half_life_s: float = 7 * 86400.0
    priority_ceiling: int = 100


def read_policy(connection: AnyConnection) -> ServicePolicy:
    """The policy in force."""
    return make_policy(_read(connection))


def write_policy(connection: AnyConnection, settings: Settings) -> bool:
    """Enter those of the settings that are no defaults; whether that changed anything.

    Raises:
        UsageError: one of them cannot be understood; nothing was written.
    """
    mine = {key: getattr(settings, key) for key in KEYS if settings.sources[key] != "default"}
    make_policy(mine)
    before = _read(connection)
    after = {**before, **mine}
    if after == before:
        return False
    run(
        connection,
        "INSERT INTO policy (id, policy_json, changed_at) VALUES (1, :policy_json, NOW) "
        "ON CONFLICT (id) DO UPDATE SET policy_json = excluded.policy_json, changed_at = excluded.changed_at",
        policy_json=json.dumps(after, sort_keys=True),
    )
    return True


def make_policy(values: Mapping[str, Any]) -> ServicePolicy:
    """The policy of these values; what is missing has its default.

    Raises:
        UsageError: a value cannot be understood.
    """
    default = ServicePolicy()
    user_limits, tag_limits = parse_limits(values.get("limits", ""))
    return ServicePolicy(
        scheduling=Policy(
            ageing_s=values.get("ageing_s", default.scheduling.ageing_s),
            preemptible_below=int(values.get("preemptible_below", default.scheduling.preemptible_below)),
            min_run_s=values.get("min_run_s", default.scheduling.min_run_s),
            shares=parse_shares(values.get("shares", "")),
            user_limits=user_limits,
            tag_limits=tag_limits,
        ),
        half_life_s=values.get("half_life_s", default.half_life_s),
        priority_ceiling=int(values.get("priority_ceiling", default.priority_ceiling)),
    )


def parse_limits(text: str) -> tuple[dict[str, Limit], dict[str, Limit]]:
    """Limits by user and by tag: `user:* devices=8 jobs=4 queued=100; user:ada devices=16; tag:course devices=4`.

    `user:* hours=200/7d` is a quota: so many device-hours in any 7 days.

    Raises:
        UsageError: it is not of this form; the message names the part.
    """
    found: dict[str, dict[str, Limit]] = {"user": {}, "tag": {}}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        whom, *most = part.split()
        kind, colon, name = whom.partition(":")
        if kind not in found or not colon or not name or not most:
            raise UsageError(f"limits: {part[:60]!r} is none", "for example: user:* devices=8 jobs=4 queued=100")
        fields, quota = {}, None
        for each in most:
            key, _equals, number = each.partition("=")
            if key == "hours":
                quota = _parse_quota(each, number)
                continue
            if key not in _LIMITS:
                raise UnknownName("limit", key, [*_LIMITS, "hours"])
            if not re.fullmatch(r"\d{1,9}", number):
                raise UsageError(f"limits: {each[:40]!r} needs a whole number", f"for example {key}=8")
            fields[_LIMITS[key]] = int(number)
        found[kind][name] = Limit(**fields, quota=quota)
    return found["user"], found["tag"]


def _parse_quota(text: str, value: str) -> Quota:
    """`200/7d`: device-hours in a period."""
    hours, slash, period = value.partition("/")
    if not slash or not re.fullmatch(r"\d{1,9}(\.\d{1,3})?", hours):
        raise UsageError(f"limits: {text[:40]!r} is no quota", "device-hours in a period, for example hours=200/7d")
    return Quota(float(hours) * 3600, parse_duration_s(period))


def parse_shares(text: str) -> dict[str, float]:
    """Shares by user: `ada=2 bob=0.5`; whoever is not named has 1.

    Raises:
        UsageError: it is not of this form.
    """
    found = {}
    for part in text.replace(",", " ").replace(";", " ").split():
        name, _equals, number = part.rpartition("=")
        if not name or not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", number) or not float(number):
            raise UsageError(f"shares: {part[:40]!r} is none", "for example: ada=2 bob=0.5")
        found[name] = float(number)
    return found


def _read(connection: AnyConnection) -> dict[str, Any]:
    text = value(connection, "SELECT policy_json FROM policy WHERE id = 1")
    return {} if text is None else dict(json.loads(text))
