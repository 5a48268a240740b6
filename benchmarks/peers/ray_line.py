"""Ray Jobs: a program, submitted to a head that runs already. Run by the Python of Ray's own environment.

`python -m benchmarks.peers.ray_line` starts a head, and answers `api` and `shell` with the seconds from submitting a
Python process (`ray job submit`) to its first line.
"""

from __future__ import annotations

import sys
import time

from .answers import answer_all, run_own
from .ray_head import running_head  # before Ray itself, which it gives its settings

from ray.job_submission import JobSubmissionClient  # type: ignore[import-not-found]  # isort: skip

LINE = "import time; print('at', time.time())"
POLL_S = 0.02


def measure(client: JobSubmissionClient, address: str, how: str) -> float:
    """Submit once, and wait for the end."""
    begin = time.time()
    if how == "shell":
        output = run_own("ray", "job", "submit", "--address", address, "--", sys.executable, "-c", LINE)
    else:
        job_id = client.submit_job(entrypoint=f'"{sys.executable}" -c "{LINE}"')
        while not client.get_job_status(job_id).is_terminal():
            time.sleep(POLL_S)
        output = client.get_job_logs(job_id)
    [line] = [line for line in output.splitlines() if line.startswith("at ")]
    return float(line.split()[1]) - begin


def main() -> None:
    """Answer while the head runs."""
    with running_head(with_dashboard=True) as address:
        client = JobSubmissionClient(address)
        measure(client, address, "api")  # the head's agent is there
        answer_all(lambda how: measure(client, address, how))


if __name__ == "__main__":
    main()
