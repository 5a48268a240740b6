"""Quotas as rows: what each user and tag has had of its own, summed by the database from the runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, or_, select

from .scheduling.limits import limit_of
from .scheduling.quotas import Interval, OverQuota, Quota, frees_at
from .scheduling.rows import Policy
from .tables import jobs, runs

Whose = tuple[str, str]  # "user" or "tag", and the name


@dataclass(frozen=True)
class Standing:
    """How a user or a tag stands with its quota; `over` once it is used up."""

    whose: Whose
    quota: Quota
    used_s: float
    over: OverQuota | None = None

    def frees_at(self, now: float) -> float | None:
        """From when on the next of its jobs may start, if what runs goes on; None: it may now, or nobody knows."""
        return None if self.over is None else frees_at(self.over.intervals, now, self.quota)


def list_used_up(
    connection: Connection, policy: Policy, waiting: Iterable[Mapping[Any, Any]], now: float
) -> dict[Whose, OverQuota]:
    """The quotas that are used up, of those whose jobs wait."""
    if not policy.has_quotas:
        return {}
    names = {whose for row in waiting for whose in _whose(row["user"], json.loads(row["tags_json"]))}
    standings = _standings(connection, policy, names, now)
    return {each.whose: each.over for each in standings if each.over is not None}


def list_standings(
    connection: Connection, policy: Policy, waiting: Iterable[Mapping[Any, Any]], now: float
) -> list[Standing]:
    """How all stand that have a quota: who is named in the policy, whose jobs wait, and who had something of theirs."""
    if not policy.has_quotas:
        return []
    named = [("user", policy.user_limits), ("tag", policy.tag_limits)]
    names = {(kind, name) for kind, limits in named for name in limits if name != "*"}
    names |= {whose for row in waiting for whose in _whose(row["user"], json.loads(row["tags_json"]))}
    quotas = [limit.quota for _kind, limits in named for limit in limits.values() if limit.quota is not None]
    longest_s = max(quota.period_s for quota in quotas)
    names |= {whose for user, tags, _ in _used_by_kind(connection, now, longest_s) for whose in _whose(user, tags)}
    return sorted(_standings(connection, policy, names, now), key=lambda each: (each.whose[0] != "user", each.whose))


def _whose(user: str, tags: Iterable[str]) -> list[Whose]:
    return [("user", user), *(("tag", tag) for tag in tags)]


def _standings(connection: Connection, policy: Policy, names: Iterable[Whose], now: float) -> list[Standing]:
    quotas: dict[Whose, Quota] = {}
    for kind, name in names:
        limits = policy.user_limits if kind == "user" else policy.tag_limits
        if (quota := limit_of(limits, name).quota) is not None:
            quotas[kind, name] = quota
    found = []
    for period_s in {quota.period_s for quota in quotas.values()}:
        used: defaultdict[Whose, float] = defaultdict(float)
        for user, tags, number in _used_by_kind(connection, now, period_s):
            for whose in set(_whose(user, tags)):
                used[whose] += number
        for whose, quota in quotas.items():
            if quota.period_s == period_s:
                is_over = used[whose] >= quota.device_s
                over = OverQuota(quota, _intervals(connection, whose, now - period_s)) if is_over else None
                found.append(Standing(whose, quota, used[whose], over))
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
