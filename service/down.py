"""`dljobs down`: stop what `dljobs up` runs on this home, and whatever a killed one has left.

It only ever signals processes whose mark it knows, never a name or a bare pid.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable

from .embedded_redis import EmbeddedRedis
from .process_mark import ProcessMark
from .settings import Settings
from .up import DRAIN_MARGIN_S, HURRY_MARGIN_S
from .up_record import UpRecord

# What `up` may need after its worker is gone: killing it, and Redis writing what it holds.
UP_MARGIN_S = 25.0
_POLL_S = 0.05

Tick = Callable[[float, float], None]  # seconds waited, seconds it may take at most


def stop_up(settings: Settings, *, now: bool = False, tick: Tick = lambda _waited_s, _limit_s: None) -> list[str]:
    """Stop it, waiting for running jobs to checkpoint unless `now`; what is left after its time is killed.

    Args:
        tick: called about every 50 ms while it waits.

    Returns:
        What was done, one line each; that nothing runs is a line too.
    """
    record = UpRecord(settings.home)
    limit_s = HURRY_MARGIN_S if now else settings.grace_s + DRAIN_MARGIN_S
    done: list[str] = []
    state = record.read()
    killed = False
    if state.up and state.up_is_alive:
        _ask(state.up, record, now=now)
        killed = not _wait(state.up, limit_s + UP_MARGIN_S, tick)
        if killed:
            state.up.send(signal.SIGKILL)
            state.up.wait(UP_MARGIN_S)
        along = [f"worker {state.worker_name}"] * bool(state.worker_name) + ["Redis"] * settings.embedded_redis
        with_them = " with " + " and ".join(along) if along and not killed else ""
        done.append(f"{'killed' if killed else 'stopped'} dljobs up (pid {state.up.pid}){with_them}")
        state = record.read() if killed else state  # its worker may have been another one by then
    if state.worker and state.worker_is_alive:
        done.append(_end_worker(state.worker, 5.0 if killed else limit_s, tick, now=now))
    if settings.embedded_redis:
        redis = EmbeddedRedis(settings.home)
        pid = redis.pid
        outcome = redis.stop()
        if pid and outcome != "gone":
            done.append(f"{outcome} Redis (pid {pid})")
    record.clear()
    if not done:
        elsewhere = f"; `dljobs up` last ran on {state.host}" if state.host not in {"", socket.gethostname()} else ""
        done.append(f"nothing is running on {settings.home}{elsewhere}")
    return done


def _ask(up: ProcessMark, record: UpRecord, *, now: bool) -> None:
    up.send(signal.SIGTERM)
    if now:
        # Two pending signals would be one: the second goes out when the first has been obeyed.
        deadline = time.monotonic() + 2.0
        while up.is_alive() and record.read().phase != "stopping" and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        up.send(signal.SIGTERM)


def _end_worker(worker: ProcessMark, limit_s: float, tick: Tick, *, now: bool) -> str:
    """End a worker whose `up` was killed. Linux has asked it to drain, so that asking again would mean: at once."""
    if now or sys.platform != "linux":
        worker.send(signal.SIGTERM)
    if _wait(worker, limit_s, tick):
        return f"stopped the worker that an earlier `dljobs up` left (pid {worker.pid})"
    worker.send(signal.SIGKILL)
    worker.wait(UP_MARGIN_S)
    return f"killed the worker that an earlier `dljobs up` left (pid {worker.pid})"


def _wait(process: ProcessMark, limit_s: float, tick: Tick) -> bool:
    started_at = time.monotonic()
    while not process.wait(_POLL_S):
        waited_s = time.monotonic() - started_at
        if waited_s > limit_s:
            return False
        tick(waited_s, limit_s)
    return True
