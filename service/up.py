"""`dljobs up`: one process that keeps the embedded Redis and one worker running, until it is told to stop.

It owns who is started, restarted and stopped in which order. How a server or a worker is run is theirs
(`embedded_redis.py`, `worker_process.py`). `python -m dljobs.service.up OPTIONS` is the same in the background.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dljobs.errors import DljobsError, ExitCode, UsageError

from . import schema, worker_process
from .embedded_redis import EmbeddedRedis
from .gpus import list_gpus
from .settings import Settings, load_settings, mask
from .up_record import UpRecord
from .up_signals import UpSignals
from .worker_process import READY_VARIABLE, Ready, WorkerProcess

CPU_STAND_INS = 4
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
STEADY_S = 60.0  # who has lived for so long starts again without delay
# A worker that was asked to stop is killed when it takes longer than the grace time (for its ranks) and this (it gives
# itself 60 s to write down how its runs ended); one that was asked twice gets less.
DRAIN_MARGIN_S = 65.0
HURRY_MARGIN_S = 15.0
SPACING_S = 0.3
TICK_S = 0.5
_PR_SET_DUMPABLE = 4

Say = Callable[[str], None]


@dataclass(frozen=True)
class UpOptions:
    """What `dljobs up` was asked for. Neither `gpus` nor `cpu_devices`: all GPUs, or CPU stand-ins if there is none."""

    gpus: str | None = None
    cpu_devices: int | None = None
    name: str | None = None
    worker: bool = True

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> UpOptions:
        """Read the options of a process started in the background."""
        return cls(**json.loads(text))


class Restarts:
    """When something that keeps ending may start again: later each time, until it has run steadily."""

    def __init__(self) -> None:
        self._delay_s = FIRST_BACKOFF_S
        self._started_at = 0.0
        self.due_at: float | None = None  # on the monotonic clock; None while it runs

    def started(self) -> None:
        """It runs now."""
        self._started_at, self.due_at = time.monotonic(), None

    def ended(self) -> float:
        """It ended, or would not start; returns the seconds until it is due."""
        now = time.monotonic()
        if self.due_at is None and now - self._started_at > STEADY_S:
            self._delay_s = FIRST_BACKOFF_S
        delay_s, self._delay_s = self._delay_s, min(self._delay_s * 2, LONGEST_BACKOFF_S)
        self.due_at = now + delay_s
        return delay_s

    def are_due(self) -> bool:
        """Whether it is time to start it again."""
        return self.due_at is not None and time.monotonic() >= self.due_at


class Up:
    """The supervisor of one home; `run` is its whole life.

    Args:
        say: takes a line for the person (or the log) in front of it.
        on_ready: called once, when the worker takes work (or at once, without a worker).
    """

    def __init__(
        self,
        settings: Settings,
        options: UpOptions,
        say: Say,
        on_ready: Callable[[Ready | None], None] = lambda _: None,
    ) -> None:
        if options.gpus is not None and options.cpu_devices is not None:
            raise UsageError("a worker offers GPUs or CPU stand-ins, not both", "leave out --gpus or --cpu-devices")
        self._settings = settings
        self._options = options
        self._tell = say
        self._on_ready = on_ready
        self._record = UpRecord(settings.home)
        self._redis = EmbeddedRedis(settings.home) if settings.embedded_redis else None
        self._redis_restarts = Restarts()
        self._worker: WorkerProcess | None = None
        self._worker_restarts = Restarts()
        self._was_ready = False

    def run(self) -> int:
        """Start everything, keep it running, stop everything; returns the exit code.

        Raises:
            DljobsError: another `up` has this home, or something could not be started.
        """
        make_home(self._settings.home)
        _hide_environment()
        with UpSignals() as signals, self._record.claim():
            try:
                self._replace_leftover_worker(signals)
                self._note("starting")
                self._prepare()
                return self._supervise(signals)
            finally:
                self._drain(signals)
                self._stop_redis()
                if self._was_ready:
                    self._say("stopped")

    def _say(self, line: str) -> None:
        # A terminal that was closed, or a full disk under the log, is no reason to end.
        with contextlib.suppress(OSError):
            self._tell(line)

    def _note(self, phase: str, worker: WorkerProcess | None = None) -> None:
        """Write down how things stand; that a full disk prevents it is no reason to end either."""
        mark = worker.mark if worker else None
        ready = (worker and worker.ready) or Ready("", 0)
        try:
            self._record.write(phase, mark, ready.name, ready.num_devices)
        except OSError as error:
            self._say(f"cannot write down what runs: {error}")

    # ---- starting

    def _replace_leftover_worker(self, signals: UpSignals) -> None:
        """A killed `up` leaves a worker that drains: its devices are not ours before it is gone."""
        worker = self._record.read().worker
        if worker is None or not worker.is_alive():
            return
        self._say(f"an earlier `dljobs up` was killed; waiting for its worker (pid {worker.pid}) to end")
        if sys.platform != "linux":  # where no kernel has asked it to drain
            worker.send(signal.SIGTERM)
        deadline = time.monotonic() + self._settings.grace_s + DRAIN_MARGIN_S
        while worker.is_alive() and not signals.num_stops and time.monotonic() < deadline:
            signals.wait(0.1)
        if worker.end(HURRY_MARGIN_S) == "killed":
            self._say(f"the worker (pid {worker.pid}) did not end in time: killed")

    def _prepare(self) -> None:
        if self._redis:
            started = self._redis.start()
            self._redis_restarts.started()
            self._say(f"Redis {'started' if started else 'found running'} (pid {self._redis.pid})")
        else:
            self._say(f"Redis at {mask(self._settings.redis_url)}")
        if self._settings.embedded_database:
            schema.upgrade(self._settings)
            self._say(f"database {self._settings.sqlite_path}")
        else:
            schema.open_checked(self._settings).close()
            self._say(f"database {mask(self._settings.database_url)}")

    def _start_worker(self) -> None:
        self._worker = WorkerProcess(self._settings, self._worker_options(), worker_process.COMMAND)
        self._worker_restarts.started()
        self._note("starting", self._worker)

    def _worker_options(self) -> dict[str, Any]:
        options = self._options
        gpus, cpu_devices = options.gpus, options.cpu_devices
        if gpus is None and cpu_devices is None:
            found, problem = list_gpus()
            if found:
                gpus = "all"
            else:
                cpu_devices = CPU_STAND_INS
                why = f" ({problem})" if problem else ""
                self._say(f"no GPU found{why}: {CPU_STAND_INS} CPU stand-ins take the place of GPUs")
        return {"gpus": gpus, "cpu_devices": cpu_devices, "name": options.name}

    # ---- keeping it running

    def _supervise(self, signals: UpSignals) -> int:
        if not self._options.worker:
            self._now_ready(None)
        elif not signals.num_stops:
            self._start_worker()
        while not signals.num_stops:
            signals.wait(TICK_S, *(self._worker.descriptors if self._worker else ()))
            if not self._record.is_claimed():
                self._say(f"{self._settings.home} was deleted: stopping")
                return ExitCode.ERROR
            if self._redis and not signals.num_stops:
                self._keep_redis(self._redis)
            if self._options.worker and not signals.num_stops:
                exit_code = self._keep_worker()
                if exit_code is not None:
                    return exit_code
        return ExitCode.OK

    def _keep_redis(self, redis: EmbeddedRedis) -> None:
        if self._redis_restarts.due_at is None:
            if not redis.is_running():
                delay_s = self._redis_restarts.ended()
                self._say(f"Redis has died; starting it again in {delay_s:g} s (log: {redis.log_path})")
        elif self._redis_restarts.are_due():
            try:
                redis.start()
            except (DljobsError, OSError) as error:
                self._say(f"{error}; next try in {self._redis_restarts.ended():g} s")
            else:
                self._redis_restarts.started()
                self._say(f"Redis runs again (pid {redis.pid})")

    def _keep_worker(self) -> int | None:
        """Returns the exit code that `up` must end with, or None to go on."""
        worker = self._worker
        if worker is None:
            if self._worker_restarts.are_due():
                try:
                    self._start_worker()
                except OSError as error:  # no memory or no process left for now
                    self._say(f"cannot start the worker: {error}; next try in {self._worker_restarts.ended():g} s")
            return None
        if worker.read_ready() and worker.ready:
            self._note("running", worker)
            self._now_ready(worker.ready)
        code = worker.exit_code()
        if code is None:
            return None
        worker.close()
        self._worker = None
        # What stops a first start, or is a wrong option, would stop the next one as well.
        if code == ExitCode.USAGE or not self._was_ready:
            self._say(f"the worker ended with exit code {code}")
            return code or ExitCode.ERROR
        delay_s = self._worker_restarts.ended()
        self._note("starting")
        self._say(f"the worker ended with exit code {code}; starting it again in {delay_s:g} s")
        return None

    def _now_ready(self, ready: Ready | None) -> None:
        if ready:
            self._say(f"worker {ready.name} is ready with {ready.num_devices} device{'s' * (ready.num_devices != 1)}")
        else:
            self._note("running")
            self._say("running without a worker")
        if not self._was_ready:
            self._was_ready = True
            self._on_ready(ready)

    # ---- stopping

    def _drain(self, signals: UpSignals) -> None:
        """Ask the worker to stop and pass on each further signal; kill it when it takes longer than it was given."""
        worker = self._worker
        if worker is None or worker.exit_code() is not None:
            return
        worker.terminate()
        asked_at, passed_on = time.monotonic(), min(1, signals.num_stops)
        deadline = asked_at + self._settings.grace_s + DRAIN_MARGIN_S
        self._note("stopping", worker)
        self._say(
            f"stopping: a running job has {self._settings.grace_s:g} s to checkpoint and goes back in the queue "
            "(at once with another Ctrl-C, or `dljobs down --now`)"
        )
        while worker.exit_code() is None:
            if time.monotonic() > deadline:
                self._say(f"the worker (pid {worker.pid}) did not end in time: killed")
                worker.kill()
                deadline = math.inf
            signals.wait(TICK_S)
            # Two at once would be one to a process that has not got round to the first.
            if signals.num_stops > passed_on and time.monotonic() - asked_at > SPACING_S:
                asked_at, passed_on = time.monotonic(), signals.num_stops
                worker.terminate()
                deadline = min(deadline, asked_at + HURRY_MARGIN_S)
        worker.close()

    def _stop_redis(self) -> None:
        if self._redis and self._record.is_claimed():
            self._redis.stop()
        elif self._redis:
            self._redis.end_child()  # the one in a home made anew is not ours to stop


def make_home(home: Path) -> None:
    """Create the home, for its owner's eyes only.

    Raises:
        DljobsError: it cannot be made, or is no folder.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise DljobsError(f"cannot make {home}: {error.strerror}", "set DLJOBS_HOME to a folder of yours") from None
    if not os.access(home, os.W_OK | os.X_OK):
        raise DljobsError(f"cannot write in {home}", "set DLJOBS_HOME to a folder of yours")


def _hide_environment() -> None:
    """Ranks run as the same user: keep them from reading passwords in /proc/PID/environ of this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def main(arguments: list[str]) -> int:
    """The background process of `dljobs up --detach`: its lines carry the time, and it tells its starter when ready."""
    descriptor = int(os.environ.pop(READY_VARIABLE, "-1"))
    if descriptor >= 0:
        os.set_inheritable(descriptor, False)  # or a server started here would hold the starter's pipe open

    def say(line: str) -> None:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} up: {line}", file=sys.stderr, flush=True)

    def on_ready(ready: Ready | None) -> None:
        if descriptor >= 0:
            with contextlib.suppress(BrokenPipeError):  # the starter was interrupted
                os.write(descriptor, str(ready or Ready("-", 0)).encode())
            os.close(descriptor)

    try:
        return Up(load_settings(), UpOptions.from_json(arguments[0]), say, on_ready).run()
    except DljobsError as error:
        say(f"error: {error.message}" + (f"\n  {error.hint}" if error.hint else ""))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
