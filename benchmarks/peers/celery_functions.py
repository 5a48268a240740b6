"""Bare Celery: functions that do nothing, called by a worker in its own process, with no record of them.

`python -m benchmarks.peers.celery_functions NUMBER` sends that many to `BROKER_URL`, then prints the seconds in which a
worker called them all.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
import warnings

from celery import Celery

_QUEUE = "benchmark.functions"


def main(number: int) -> None:
    """Send, then work; the last call ends the process."""
    warnings.simplefilter("ignore")  # it warns of root
    app = Celery(broker=os.environ["BROKER_URL"])
    app.conf.update(task_ignore_result=True, task_default_queue=_QUEUE, worker_redirect_stdouts=False)
    counted, begin = itertools.count(1), [0.0]

    @app.task(name="nothing")  # type: ignore[untyped-decorator]
    def nothing() -> None:
        count = next(counted)
        if count == 1:
            begin[0] = time.monotonic()
        elif count == number:
            print(repr(time.monotonic() - begin[0]), flush=True)
            os._exit(0)

    for _ in range(number):
        nothing.apply_async()
    app.Worker(pool="solo", quiet=True, loglevel="ERROR", without_gossip=True, without_mingle=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
