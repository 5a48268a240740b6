"""The Celery consumer: turns messages into calls of the worker, and signals into a drain.

Doorbells are hints. Whatever arrives, its types are checked first, and the worker believes only the database.
"""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.platforms import SecurityWarning
from kombu.entity import Queue

from dljobs.errors import DljobsError
from dljobs.service.doorbell import ATTEND_TASK, EXECUTE_TASK, SCHEDULE_QUEUE, SCHEDULE_TASK, worker_queue
from dljobs.service.runs import RunKey

from .worker import Worker

logger = logging.getLogger(__name__)


class Consumer:
    """Consumes the doorbells of one worker in the main thread until a signal asks it to drain."""

    def __init__(self, app: Celery, worker: Worker) -> None:
        self._app = app
        self._worker = worker
        self.draining = threading.Event()
        self.immediate = threading.Event()
        queues = [SCHEDULE_QUEUE, worker_queue(worker.name)]
        app.conf.task_queues = [Queue(name) for name in queues]
        self._add_tasks()

    def run(self) -> None:
        """Consume until SIGTERM or SIGINT. A second signal sets `immediate`."""
        # Celery warns of pickle as root; nothing here accepts pickle.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        # Celery installs its own handlers while it starts: ours come after, or its second SIGTERM would only repeat.
        signals.worker_ready.connect(self._take_signals, weak=False)
        signals.worker_shutting_down.connect(self._on_shutdown, weak=False)
        controller = self._app.Worker(
            hostname=self._worker.name,
            pool="threads",
            concurrency=2,
            quiet=True,
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        controller.start()
        self._take_signals()

    def stop(self) -> None:
        """Leave `run` soon; safe from any thread and from a signal handler."""
        from celery.worker import state

        self.draining.set()
        state.should_stop = 0

    def _on_shutdown(self, **_: Any) -> None:
        self.draining.set()

    def _take_signals(self, **_: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: Any) -> None:
        if self.draining.is_set():
            self.immediate.set()
        self.stop()

    def _add_tasks(self) -> None:
        worker = self._worker

        def schedule() -> None:
            _answer("schedule", worker.schedule)

        def execute(run_id: Any = None, token: Any = None) -> None:
            if not isinstance(run_id, int) or isinstance(run_id, bool) or not isinstance(token, str):
                logger.warning("refused a doorbell that carries no run and token")
                return
            if 0 < run_id < 2**63 and len(token) <= 64:
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
