"""RQ: functions that do nothing, each in a process that its worker forks. Run by the Python of RQ's own environment.

`python rq_functions.py NUMBER` sends that many to `REDIS_URL`, then prints the seconds in which a worker
called them all.
"""

import os
import sys
import time

from redis import Redis
from rq import Queue, Worker  # type: ignore[import-not-found]  # of its own environment

if __name__ == "__main__":
    connection = Redis.from_url(os.environ["REDIS_URL"])
    queue = Queue("benchmark", connection=connection)
    for _ in range(int(sys.argv[1])):
        queue.enqueue("os.getpid", result_ttl=0)
    worker = Worker([queue], connection=connection)
    begin = time.monotonic()
    worker.work(burst=True, logging_level="ERROR")
    print(repr(time.monotonic() - begin))
