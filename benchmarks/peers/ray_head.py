"""A Ray head on this machine, for as long as a program asks it something. Run in Ray's own environment."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

# Before the import, which reads them: nothing is sent anywhere, and a head on two cores is no mistake.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}

import ray  # type: ignore[import-not-found]


@contextlib.contextmanager
def running_head(num_cpus: int = 2, *, with_dashboard: bool = False) -> Iterator[str]:
    """A head with so many CPUs to give away, to which this process is connected.

    Args:
        with_dashboard: with the server that jobs are submitted to; yields its address.
    """
    head = ray.init(
        num_cpus=num_cpus, include_dashboard=with_dashboard, dashboard_host="127.0.0.1", log_to_driver=False,
        logging_level="ERROR", _temp_dir=f"{tempfile.gettempdir()}/ray",
    )  # fmt: skip
    try:
        yield f"http://{head.dashboard_url}"
    finally:
        ray.shutdown()
