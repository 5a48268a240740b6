"""Quotas as rows: what each user and tag that waits has had of its own, summed by the database from the runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, or_, select

from .scheduling.limits import limit_of
from .scheduling.quotas import Interval, OverQuota, Quota
from .scheduling.rows import Policy
from .tables import jobs, runs

Whose = tuple[str, str]  # "user" or "tag", and the name


def list_used_up(
    connection: Connection, policy: Policy, waiting: Iterable[Mapping[Any, Any]], now: float
) -> dict[Whose, OverQuota]:
    """The quotas that are used up, of those whose jobs wait."""
    if not any(limit.quota for limits in (policy.user_limits, policy.tag_limits) for limit in limits.values()):
        return {}
    quotas: dict[Whose, Quota] = {}
    for row in waiting:
        tags = [("tag", tag, policy.tag_limits) for tag in json.loads(row["tags_json"])]
        for kind, name, limits in [("user", row["user"], policy.user_limits), *tags]:
            if (quota := limit_of(limits, name).quota) is not None:
                quotas[kind, name] = quota
    found = {}
    for period_s in {quota.period_s for quota in quotas.values()}:
        used = _used_by_kind(connection, now, period_s)
        for (kind, name), quota in quotas.items():
            has = sum(number for user, tags, number in used if (name == user if kind == "user" else name in tags))
            if quota.period_s == period_s and has >= quota.device_s:
                found[kind, name] = OverQuota(quota, _intervals(connection, (kind, name), now - period_s))
    return found


def _used_by_kind(connection: Connection, now: float, period_s: float) -> list[tuple[str, list[str], float]]:
    """Device-seconds within the period, by user and tags."""
    since = now - period_s
    begun_at = case((runs.c.created_at > since, runs.c.created_at), else_=since)
    device_s = (func.coalesce(runs.c.ended_at, now) - begun_at) * runs.c.num_devices * jobs.c.share_percent / 100.0
    query = (
        select(jobs.c.user, jobs.c.tags_json, func.sum(device_s))
        .join(jobs, jobs.c.id == runs.c.job_id)
        .where(_is_within(since))
        .group_by(jobs.c.user, jobs.c.tags_json)
    )
    return [(user, json.loads(tags), float(number)) for user, tags, number in connection.execute(query)]


def _intervals(connection: Connection, whose: Whose, since: float) -> tuple[Interval, ...]:
    size = runs.c.num_devices * jobs.c.share_percent / 100.0
    query = select(jobs.c.user, jobs.c.tags_json, runs.c.created_at, runs.c.ended_at, size.label("num_devices"))
    kind, name = whose
    if kind == "user":
        query = query.where(jobs.c.user == name)
    rows = connection.execute(query.join(jobs, jobs.c.id == runs.c.job_id).where(_is_within(since)).order_by(runs.c.id))
    return tuple(
        Interval(row.created_at, row.ended_at, float(row.num_devices))
        for row in rows
        if kind == "user" or name in json.loads(row.tags_json)
    )


def _is_within(since: float) -> ColumnElement[bool]:
    return or_(runs.c.ended_at.is_(None), runs.c.ended_at > since)
