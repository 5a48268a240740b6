"""The usage report: who has had how much of the devices, as fair share counts it, and how the quotas stand."""

from __future__ import annotations

from collections import Counter, defaultdict

from .clock import read_now
from .database import Database
from .jobs import list_waiting
from .policy import read_policy
from .quotas import Standing, list_standings
from .scheduling.usage import decayed_usage
from .snapshot import held_devices, list_running, list_spells
from .views import Json


def usage_report(database: Database) -> Json:
    """Each user's decayed device-seconds, share, and what runs and waits, the most of a share last; and the quotas."""
    with database.read() as connection:
        now, policy = read_now(connection), read_policy(connection)
        running = list_running(connection)
        device_s = decayed_usage(list_spells(connection, running, now), now, policy.half_life_s)
        queue = list_waiting(connection)
        quotas = list_standings(connection, policy.scheduling, queue, now)
    waiting = Counter(job["user"] for job in queue)
    devices: defaultdict[str, float] = defaultdict(float)
    for job in running:
        devices[job["user"]] += held_devices(job)
    users = sorted({*device_s, *waiting})
    shares = {user: policy.scheduling.shares.get(user, 1.0) for user in users}
    total_s, all_shares = sum(device_s.values()), sum(shares.values())
    rows = [
        {
            "user": user,
            "share": shares[user],
            "device_s": device_s.get(user, 0.0),
            "fraction": device_s.get(user, 0.0) / total_s if total_s else 0.0,
            "entitled": shares[user] / all_shares,
            "num_devices_running": devices.get(user, 0.0),
            "num_waiting": waiting[user],
        }
        for user in users
    ]
    rows.sort(key=lambda row: (float(row["device_s"]) / float(row["share"]), row["user"]))
    return {"half_life_s": policy.half_life_s, "users": rows, "quotas": [_quota_view(each, now) for each in quotas]}


def _quota_view(standing: Standing, now: float) -> Json:
    kind, name = standing.whose
    return {
        "kind": kind,
        "name": name,
        "used_s": standing.used_s,
        "allowed_s": standing.quota.device_s,
        "period_s": standing.quota.period_s,
        "is_used_up": standing.over is not None,
        "frees_at": standing.frees_at(now),
        "frees_in_s": None if (moment := standing.frees_at(now)) is None else max(moment - now, 0.0),
    }
