"""Doorbells: Celery messages that say "look at the database", and the Celery settings both ends share.

A message carries ids and a token, never a spec. Losing one costs a sweep's interval, a repeated or forged one nothing.
"""

from __future__ import annotations

import base64
import json
import logging
import uuid
from typing import TYPE_CHECKING, Any

from dljobs.errors import DljobsError

from .redis_connection import broker_url, open_line, refusal
from .settings import Settings

if TYPE_CHECKING:
    from celery import Celery
    from redis import Redis

    from .redis_line import RedisLine
    from .runs import RunKey

SCHEDULE_QUEUE = "dljobs.schedule"
SCHEDULE_TASK = "dljobs.schedule"
EXECUTE_TASK = "dljobs.execute"
ATTEND_TASK = "dljobs.attend"
KEY_PREFIX = "dljobs:"  # of all that Celery keeps in Redis

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
        "global_keyprefix": KEY_PREFIX,
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


def make_message(task: str, arguments: list[Any], queue: str) -> str:
    """What Celery puts into a list of Redis to have a worker call `task`.

    Loading Celery to write these lines would take a client longer than all else that it does, and a ring half a
    millisecond more. It is version 2 of Celery's protocol in the envelope of kombu's virtual transports; there is no
    `expires`: it would be judged by the clocks of two hosts, and an old ring does no harm.

    Source: https://docs.celeryq.dev/en/stable/internals/protocol.html
    """
    task_id = str(uuid.uuid4())
    call = json.dumps([arguments, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    message = {
        "body": base64.b64encode(call.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "parent_id": None, "group": None},
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": task_id,
        },
    }
    return json.dumps(message)


def worker_queue(worker_name: str) -> str:
    """The queue that only this worker reads."""
    return f"dljobs.worker.{worker_name}"


class Doorbell:
    """Rings as best it can: each method says whether the message got out, and never raises when Redis is down."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._line: RedisLine | Redis | None = None  # kept from ring to ring
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
            if self._line is None:
                self._line = open_line(self._settings)
            self._line.lpush(KEY_PREFIX + queue, make_message(task, arguments, queue))
        except Exception as error:  # a doorbell is a hint: nothing that keeps it from ringing may stop its caller
            found = error if isinstance(error, DljobsError) else refusal(error, self._settings)
            self.problem = found.message if found else "Redis does not answer"
            logger.warning("could not ring %s (the sweep will see it): %s", queue, found.message if found else error)
            return False
        return True
