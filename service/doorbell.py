"""Doorbells: Celery messages that say "look at the database", and the Celery settings both ends share.

A message carries ids and a token, never a spec. Losing one costs a sweep's interval, a repeated or forged one nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from dljobs.errors import DljobsError

from .redis_connection import broker_url, refusal
from .runs import RunKey
from .settings import Settings

if TYPE_CHECKING:
    from celery import Celery

SCHEDULE_QUEUE = "dljobs.schedule"
SCHEDULE_TASK = "dljobs.schedule"
EXECUTE_TASK = "dljobs.execute"
ATTEND_TASK = "dljobs.attend"

# What Celery on Redis does with other values is told in ARCHITECTURE.md, "What Celery is allowed to do".
CELERY_SETTINGS: dict[str, Any] = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
    "result_backend": None,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_send_task_events": False,
    "worker_enable_remote_control": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_connection_timeout": 5,
    "broker_transport_options": {
        "global_keyprefix": "dljobs:",
        # A half-open connection never recovers without these.
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
    },
}

logger = logging.getLogger(__name__)


def make_app(settings: Settings) -> Celery:
    """A Celery application on these settings' Redis."""
    from celery import Celery

    app = Celery("dljobs", broker=broker_url(settings), set_as_current=False)
    app.conf.update(CELERY_SETTINGS)
    return app


def worker_queue(worker_name: str) -> str:
    """The queue that only this worker reads."""
    return f"dljobs.worker.{worker_name}"


class Doorbell:
    """Rings as best it can: each method says whether the message got out, and never raises when Redis is down."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app: Celery | None = None  # made on the first ring: a client that only reads never loads Celery
        self.problem = ""  # why the last ring did not get out, in words for a user

    def ring_schedule(self) -> bool:
        """Something in the queue or on the devices has changed."""
        return self._ring(SCHEDULE_TASK, [], SCHEDULE_QUEUE)

    def ring_execute(self, worker_name: str, key: RunKey) -> bool:
        """A run was placed on this worker."""
        return self._ring(EXECUTE_TASK, [key.run_id, key.token], worker_queue(worker_name))

    def ring_attend(self, worker_name: str, run_id: int) -> bool:
        """Somebody asked something of a run on this worker, such as its end."""
        return self._ring(ATTEND_TASK, [run_id], worker_queue(worker_name))

    def _ring(self, task: str, arguments: list[Any], queue: str) -> bool:
        try:
            if self._app is None:
                self._app = make_app(self._settings)
                # kombu would go on trying for 6 s, and a user waits.
                options = {**CELERY_SETTINGS["broker_transport_options"], "max_retries": 0}
                self._app.conf.broker_transport_options = options
            # No `expires`: it would be judged by the clocks of two hosts, and an old ring does no harm.
            self._app.send_task(task, args=arguments, queue=queue, retry=False)
        except Exception as error:  # a doorbell is a hint: nothing that keeps it from ringing may stop its caller
            found = error if isinstance(error, DljobsError) else refusal(error, self._settings)
            self.problem = found.message if found else "Redis does not answer"
            logger.warning("could not ring %s (the sweep will see it): %s", queue, found.message if found else error)
            return False
        return True
