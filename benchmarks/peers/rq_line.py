"""RQ: a function, in a process that its worker forks. Run by the Python of RQ's own environment.

`python -m benchmarks.peers.rq_line` starts a worker for the Redis at `RQ_REDIS_URL`, and answers `api` and `shell` with
the seconds from enqueueing (`rq enqueue`) to the function's first line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

from redis import Redis
from rq import Queue  # type: ignore[import-not-found]  # of its own environment

from .answers import answer_all, run_own

POLL_S = 0.005


def measure(queue: Queue, how: str) -> float:
    """Enqueue once, and wait for the end."""
    begin, job_id = time.time(), uuid.uuid4().hex
    if how == "shell":
        run_own("rq", "enqueue", "--quiet", "--queue", queue.name, "--job-id", job_id, "time.time")
        job = queue.fetch_job(job_id)
    else:
        job = queue.enqueue(time.time, job_id=job_id)
    while (result := job.latest_result()) is None:
        time.sleep(POLL_S)
    return float(result.return_value) - begin


def main() -> None:
    """Answer while the worker runs."""
    queue = Queue("line", connection=Redis.from_url(os.environ["RQ_REDIS_URL"]))
    command = [str(Path(sys.executable).with_name("rq")), "worker", "--quiet", queue.name]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as worker:
        try:
            measure(queue, "api")  # the worker is there
            answer_all(lambda how: measure(queue, how))
        finally:
            worker.terminate()


if __name__ == "__main__":
    main()
