"""The monkey: breaks one thing after the other, and notes how long it took until all was well again."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
from sqlalchemy import select

from dljobs.errors import DljobsError
from dljobs.service.states import ENDED_JOBS
from dljobs.service.tables import jobs, runs
from tests.cluster import QUICK, family_of

from .site import WORKERS, Site


@dataclass
class Open:
    """A fault that has not been recovered from yet."""

    kind: str
    since: float  # monotonic
    is_over: Callable[[], bool]


class Monkey:
    """Breaks things at random moments, at most one thing of a kind at a time.

    Args:
        pause_s: from one fault to the next, between these.
    """

    def __init__(self, site: Site, chooser: random.Random, pause_s: tuple[float, float]) -> None:
        self._site = site
        self._chooser = chooser
        self._pause_s = pause_s
        self._next_at = time.monotonic()
        self._later: list[tuple[float, Callable[[], None]]] = []  # what ends a fault, and when
        self._open: list[Open] = []
        self._revive_at: dict[str, float] = {}  # of workers that have ended
        self._faults: dict[str, Callable[[], bool]] = {
            "worker killed": self._kill_worker,
            "worker drained": self._drain_worker,
            "worker frozen past its lease": self._freeze_worker,
            "rank killed": self._kill_rank,
            "Redis killed": self._kill_redis,
            "Redis emptied": self._empty_redis,
            "Postgres killed": self._kill_postgres,
        }
        self.num_faults: Counter[str] = Counter()
        self.recoveries_s: defaultdict[str, list[float]] = defaultdict(list)

    def act(self) -> None:
        """Do what is due: end faults, see what is well again, break the next thing."""
        now = time.monotonic()
        for item in [item for item in self._later if item[0] <= now]:
            self._later.remove(item)
            item[1]()
        self.look()
        self._revive_workers(now)
        if now >= self._next_at:
            self._next_at = now + self._chooser.uniform(*self._pause_s)
            kind = self._chooser.choice(list(self._faults))
            if not any(each.kind == kind for each in self._open) and self._faults[kind]():
                self.num_faults[kind] += 1

    def _revive_workers(self, now: float) -> None:
        """As systemd does: also those that ended by themselves, such as one that found no database when it started."""
        for name in WORKERS:
            if self._site.cluster.workers[name].exit_code() is None:
                self._revive_at.pop(name, None)
            elif now >= self._revive_at.setdefault(name, now + self._chooser.uniform(0.0, 9.0)):
                self._site.revive(name)

    def look(self) -> None:
        """Note what is well again."""
        for each in list(self._open):
            with contextlib.suppress(DljobsError):
                if each.is_over():
                    self.recoveries_s[each.kind].append(time.monotonic() - each.since)
                    self._open.remove(each)

    def stop(self) -> None:
        """End all faults."""
        for _at, end in self._later:
            end()
        self._later.clear()
        self._site.heal()

    # Faults; each returns whether it happened

    def _kill_worker(self) -> bool:
        name = self._choose_worker()
        if name is None:
            return False
        victims = self._victims(name)
        self._site.cluster.workers[name].kill()
        self._open.append(Open("worker killed", time.monotonic(), lambda: self._go_on(victims)))
        return True

    def _drain_worker(self) -> bool:
        name = self._choose_worker()
        if name is None:
            return False
        victims = self._victims(name)
        self._site.cluster.workers[name].terminate()
        self._open.append(Open("worker drained", time.monotonic(), lambda: self._go_on(victims)))
        return True

    def _freeze_worker(self) -> bool:
        name = self._choose_worker()
        if name is None:
            return False
        victims = self._victims(name)
        self._site.frozen[name] = family_of(self._site.cluster.workers[name].pid)
        for process in self._site.frozen[name]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        kind = "worker frozen past its lease"
        self._open.append(Open(kind, time.monotonic(), lambda: self._go_on(victims)))
        self._in(QUICK["lease_s"] + self._chooser.uniform(2.0, 8.0), lambda: self._site.thaw(name))
        return True

    def _kill_rank(self) -> bool:
        name = self._choose_worker()
        if name is None:
            return False
        ranks = self._site.ranks_of(name)
        if not ranks:
            return False
        victims = self._victims(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            self._chooser.choice(ranks).kill()
        self._open.append(Open("rank killed", time.monotonic(), lambda: self._go_on(victims)))
        return True

    def _kill_redis(self) -> bool:
        self._site.redis.kill()
        self._in(self._chooser.uniform(0.0, 5.0), self._site.redis.start)
        self._open.append(Open("Redis killed", time.monotonic(), self._consume))
        return True

    def _empty_redis(self) -> bool:
        from redis import Redis
        from redis.exceptions import RedisError

        with contextlib.suppress(RedisError), Redis.from_url(self._site.redis.url) as client:
            client.flushall()
            return True
        return False

    def _kill_postgres(self) -> bool:
        self._site.postgres.kill()
        killed_at, moment = time.monotonic(), time.time()
        self._in(self._chooser.uniform(0.0, 9.0), self._site.postgres.start)

        def is_over() -> bool:
            healthy = {name for name in WORKERS if self._is_healthy(name)}
            return healthy <= self._site.beating_since(moment)

        self._open.append(Open("Postgres killed", killed_at, is_over))
        return True

    # What they need

    def _in(self, delay_s: float, end: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + delay_s, end))

    def _is_healthy(self, name: str) -> bool:
        worker = self._site.cluster.workers[name]
        return worker.exit_code() is None and name not in self._site.frozen

    def _choose_worker(self) -> str | None:
        """One that has nothing wrong with it, and a job if any has; None while no other would be left."""
        healthy = [name for name in WORKERS if self._is_healthy(name)]
        if len(healthy) < 2:
            return None
        return self._chooser.choice([name for name in healthy if self._victims(name)] or healthy)

    def _victims(self, name: str) -> dict[int, int]:
        """The jobs on that worker, each with the number of its run; none while the database is away."""
        with contextlib.suppress(DljobsError):
            job_ids = self._site.live_jobs(name)
            return {job_id: self._site.cluster.job(job_id)["num_runs"] for job_id in job_ids}
        return {}

    def _go_on(self, victims: dict[int, int]) -> bool:
        """Whether each of these jobs has ended, or trains in a later run."""
        with self._site.cluster.database.read() as connection:
            ended = _ids(connection, select(jobs.c.id).where(jobs.c.id.in_(victims), jobs.c.state.in_(ENDED_JOBS)))
            training = select(runs.c.job_id, runs.c.number).where(
                runs.c.job_id.in_(victims), runs.c.first_step_at.is_not(None)
            )
            later = {row.job_id for row in connection.execute(training) if row.number > victims[row.job_id]}
        return victims.keys() <= ended | later

    def _consume(self) -> bool:
        return self._site.num_consumers() >= sum(self._is_healthy(name) for name in WORKERS)


def _ids(connection: object, query: object) -> set[int]:
    return set(connection.execute(query).scalars())  # type: ignore[attr-defined]


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
