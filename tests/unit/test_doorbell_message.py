"""The message of a doorbell is what Celery itself would send, and what its worker reads."""

from __future__ import annotations

import json

from celery import Celery
from kombu import Connection
from kombu.transport.virtual import Message

from dljobs.service.doorbell import EXECUTE_TASK, make_message


def test_celery_reads_the_call_from_it() -> None:
    envelope = json.loads(make_message(EXECUTE_TASK, [7, "token"], "dljobs.worker.w1"))
    with Connection("memory://") as connection:
        message = Message(envelope, channel=connection.default_channel, accept=["application/json"])
    arguments, keywords, _embedded = message.payload
    assert (arguments, keywords) == ([7, "token"], {})
    assert message.delivery_info == {"exchange": "", "routing_key": "dljobs.worker.w1"}


def test_its_headers_are_celerys() -> None:
    envelope = json.loads(make_message(EXECUTE_TASK, [7, "token"], "dljobs.worker.w1"))
    headers = envelope["headers"]
    theirs = Celery().amqp.as_task_v2(headers["id"], EXECUTE_TASK, args=[7, "token"])
    assert headers == {name: theirs.headers[name] for name in headers}
    assert envelope["properties"]["correlation_id"] == theirs.properties["correlation_id"]
