"""The Celery consumer: turns messages into calls of the worker, and signals into a drain.

Doorbells are hints. Whatever arrives, its types are checked first, and the worker believes only the database.
"""

from __future__ import annotations

import logging
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.platforms import SecurityWarning
from celery.worker import state as celery_state
from kombu.entity import Queue

from dljobs.errors import DljobsError
from dljobs.service.doorbell import ATTEND_TASK, EXECUTE_TASK, SCHEDULE_QUEUE, SCHEDULE_TASK, worker_queue
from dljobs.service.runs import RunKey

from .worker import Worker

# How long a consumer that broke off is left alone. Gently longer each time that it did not last: of what is no message
# each costs a start, and many may lie in a queue; but what stays wrong with the server is no reason to fill the log.
RESTART_AFTER_S = 0.5
RESTART_GROWTH = 1.2
RESTART_WITHIN_S = 30.0
# Rings that are answered at a time. One would do; but with as many on the way Celery stops listening, and its loop does
# not notice their end before its next look, up to a second later. Threads that are never needed are never started.
NUM_THREADS = 8
_TOKEN = re.compile("[0-9a-f]{1,64}")

logger = logging.getLogger(__name__)


class Stopping:
    """Whether the worker was asked to stop, and whether it was asked again."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.is_hurried = threading.Event()

    def take_signals(self) -> None:
        """Answer SIGTERM and SIGINT from now on; main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def ask(self, **_: Any) -> None:
        """Stop, with a drain; safe from any thread and from a signal handler."""
        self.is_asked.set()
        celery_state.should_stop = 0

    def hurry(self) -> None:
        """Stop at once."""
        self.is_hurried.set()
        self.ask()

    def _on_signal(self, _number: int, _frame: Any) -> None:
        (self.hurry if self.is_asked.is_set() else self.ask)()


class Consumer:
    """Consumes the doorbells of one worker in the main thread."""

    def __init__(self, app: Celery, worker: Worker, stopping: Stopping, on_ready: Callable[[], None]) -> None:
        self._app = app
        self._worker = worker
        self._stopping = stopping
        self._on_ready = on_ready
        self._is_ready = False  # it was, at least once
        queues = [SCHEDULE_QUEUE, worker_queue(worker.name)]
        app.conf.task_queues = [Queue(name) for name in queues]  # type: ignore[no-untyped-call]
        self._add_tasks()

    def run(self) -> None:
        """Consume until the worker is asked to stop. `on_ready` is called once, when messages are taken.

        What is no message at all ends Celery's consumer, though it is out of the queue by then: it is made anew.
        """
        # Celery warns of pickle as root; nothing here accepts pickle.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        signals.worker_ready.connect(self._become_ready, weak=False)
        signals.worker_shutting_down.connect(self._stopping.ask, weak=False)
        pause_s = RESTART_AFTER_S
        while not self._stopping.is_asked.is_set():
            started_at = time.monotonic()
            self._make_controller().start()
            self._stopping.take_signals()
            if self._stopping.is_asked.is_set():
                return
            has_lasted = time.monotonic() - started_at > RESTART_WITHIN_S
            pause_s = RESTART_AFTER_S if has_lasted else min(pause_s * RESTART_GROWTH, RESTART_WITHIN_S)
            text = "the consumer broke off: it starts again in %.1f s; meanwhile the sweep brings work"
            logger.error(text, pause_s)
            self._stopping.is_asked.wait(pause_s)

    def _make_controller(self) -> Any:
        return self._app.Worker(
            hostname=self._worker.name,
            pool="threads",
            concurrency=NUM_THREADS,
            quiet=True,
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )

    def _become_ready(self, **_: Any) -> None:
        # Celery has installed its own handlers while it started: to them a second SIGTERM is the same as the first.
        self._stopping.take_signals()
        if not self._is_ready:
            self._is_ready = True
            self._on_ready()

    def _add_tasks(self) -> None:
        worker = self._worker

        def schedule() -> None:
            _answer("schedule", worker.schedule)

        def execute(run_id: Any = None, token: Any = None) -> None:
            if not isinstance(run_id, int) or isinstance(run_id, bool) or not isinstance(token, str):
                logger.warning("refused a doorbell that carries no run and token")
                return
            if 0 < run_id < 2**63 and _TOKEN.fullmatch(token):
                _answer("execute", lambda: worker.execute(RunKey(run_id, token)))
            else:
                logger.warning("refused a doorbell for a run that cannot exist")

        def attend(_run_id: Any = None) -> None:
            _answer("attend", worker.attend)

        for name, task in ((SCHEDULE_TASK, schedule), (EXECUTE_TASK, execute), (ATTEND_TASK, attend)):
            self._app.task(name=name)(task)


def _answer(what: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except DljobsError as error:
        logger.warning("%s: %s (the sweep will try again)", what, error.message)
