"""The worker's process, from its first registration to its farewell: the order in which its parts begin and end."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import socket
import sys
import threading
import time

from dljobs.errors import ExitCode, UsageError
from dljobs.service.dispatch import rehearse
from dljobs.service.doorbell import Doorbell, make_app
from dljobs.service.process_mark import ProcessMark
from dljobs.service.redis_connection import check_accepted
from dljobs.service.registration import WorkerInfo
from dljobs.service.schema import open_checked
from dljobs.service.settings import Settings

from .consumer import Consumer, Stopping
from .devices import choose_devices
from .keeper import Keeper
from .launcher import Launcher
from .life_sign import life_sign_of
from .network import own_address
from .worker import Worker

# How long after the grace time the ends of runs are still written.
FAREWELL_S = 60.0

logger = logging.getLogger("dljobs.worker")


def run(settings: Settings, options: dict[str, object], ready_fd: int | None, keeper: Keeper) -> int:
    """Run a worker until it is asked to stop; returns its exit code. The keeper's forkserver may still be warming."""
    database = open_checked(settings)
    check_accepted(settings)
    info = _introduce(options, settings.node or socket.gethostname())
    logger.info("workers of other nodes reach this one at %s", own_address(settings))
    life_sign = life_sign_of(settings.home, info.name)
    rehearse(database, lease_s=settings.lease_s)
    launcher = Launcher(keeper=keeper)
    launcher.warm()
    stopping = Stopping()
    stopping.take_signals()
    worker = Worker(settings, database, Doorbell(settings), launcher, info)
    stop = threading.Event()
    threads = worker.run_periodically(stop, on_beat=life_sign.alive)
    for watch in (_watch_replaced, _watch_outdated):
        threading.Thread(target=watch, args=[worker, stopping], daemon=True, name=watch.__name__).start()
    worker.schedule()
    # Before the consumer: without Redis, too, the sweep brings work.
    life_sign.ready(f"worker {worker.name}: {len(info.devices)} {info.devices[0].kind} devices")
    Consumer(make_app(settings), worker, stopping, on_ready=lambda: _say_ready(worker.name, info, ready_fd)).run()
    life_sign.stopping(f"draining {worker.num_running} runs")
    _wind_up(worker, stopping, settings.grace_s)
    stop.set()
    for thread in threads:
        thread.join(timeout=5)
    is_replaced = worker.replaced.is_set()
    if not is_replaced:
        worker.sign_off()
    launcher.close()
    database.close()
    life_sign.end()
    return ExitCode.ERROR if is_replaced or worker.outdated.is_set() else ExitCode.OK


def _wind_up(worker: Worker, stopping: Stopping, grace_s: float) -> None:
    """Drain: ask all runs to checkpoint and stop, and wait for their ends; at once on a second signal."""
    logger.info("draining %d runs; a second signal stops them at once", worker.num_running)
    worker.drain()
    deadline = time.monotonic() + grace_s + FAREWELL_S
    is_told = False
    while worker.num_running and time.monotonic() < deadline:
        if not is_told and stopping.is_hurried.wait(0.1):
            worker.stop_at_once()
            is_told = True
        time.sleep(0.02)
    worker.give_back_unclaimed()


def _watch_replaced(worker: Worker, stopping: Stopping) -> None:
    worker.replaced.wait()
    logger.error("another process has registered as worker %s: this one ends", worker.name)
    stopping.hurry()


def _watch_outdated(worker: Worker, stopping: Stopping) -> None:
    worker.outdated.wait()
    stopping.ask()


def _introduce(options: dict[str, object], node: str) -> WorkerInfo:
    gpus, cpu_devices, name = options.get("gpus"), options.get("cpu_devices"), options.get("name")
    process = ProcessMark.of(os.getpid())
    assert process is not None
    default_name = node if gpus in (None, "all") else f"{node}-gpu-{str(gpus)[:60]}"
    worker_name = str(name) if name else re.sub(r"[^A-Za-z0-9_.-]+", "-", default_name)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", worker_name):
        raise UsageError(f"{worker_name!r} is no worker name", "use 1 to 100 letters, digits, dots, dashes")
    num_stand_ins = cpu_devices if isinstance(cpu_devices, int) else None
    devices = choose_devices(None if gpus is None else str(gpus), num_stand_ins, worker_name)
    if devices[0].kind == "cpu" and cpu_devices is None:
        logger.warning("no GPU found: this worker offers %d CPU stand-ins", len(devices))
    labels = options.get("labels")
    names = ("dljobs", "torch", "celery", "redis", "sqlalchemy")
    return WorkerInfo(
        name=worker_name,
        node=node,
        process=process,
        versions={"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in names}},
        devices=devices,
        labels=labels if isinstance(labels, dict) else {},
    )


def _say_ready(name: str, info: WorkerInfo, ready_fd: int | None) -> None:
    logger.info("worker %s is ready: %d %s devices", name, len(info.devices), info.devices[0].kind)
    if ready_fd is not None:
        with os.fdopen(ready_fd, "w") as pipe:
            pipe.write(f"ready {name} {len(info.devices)}\n")
