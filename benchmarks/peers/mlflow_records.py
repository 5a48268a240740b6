"""MLflow's store of records, asked through its Python API. Run by the Python of MLflow's own environment.

`python -m benchmarks.peers.mlflow_records FOLDER` answers `version`; `fill N` (up to so many finished runs); `points N`
(one run with so many values of its loss); and `newest 25`, `filtered 25`, `best 25`, `thinned curve` with the seconds
that these took.

Runs are inserted in bulk into the tables that MLflow itself has made: its API takes some 20 ms for each of them.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .answers import answer_all

logging.disable(logging.WARNING)  # it tells of each migration

import mlflow  # type: ignore[import-not-found]  # noqa: E402  # of its own environment

LONG_RUN = "f" * 32
STATES = ("FINISHED",) * 8 + ("FAILED", "KILLED")
RUN = "run_uuid, name, source_type, status, start_time, end_time, user_id, lifecycle_stage, artifact_uri, experiment_id"
METRIC = "key, value, timestamp, run_uuid, step, is_nan"
PAGE, MAX_POINTS = 25, 2000
NUM_USERS, NUM_MODELS = 40, 20


class Records:
    """A tracking store on SQLite, of one experiment."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "mlflow.db"
        self._client = mlflow.MlflowClient(f"sqlite:///{self._file}")
        self._experiment = self._client.create_experiment("benchmark", artifact_location=folder.as_uri())
        self._num_runs = 0

    def answer(self, question: str) -> object:
        """What was done or measured."""
        word, _, number = question.partition(" ")
        if word == "version":
            return mlflow.__version__
        if word == "fill":
            return self._fill(int(number))
        if word == "points":
            return self._write_points(int(number))
        return self._measured(question)

    def _measured(self, what: str) -> float:
        ask: dict[str, Callable[[], Any]] = {
            "newest 25": lambda: self._search(order_by=["attributes.start_time DESC"]),
            "filtered 25": lambda: self._search(
                "attributes.status = 'FAILED' AND tags.`mlflow.user` = 'user3'", order_by=["attributes.start_time DESC"]
            ),
            "best 25": lambda: self._search(order_by=["metrics.accuracy DESC"]),
            "thinned curve": self._read_curve,
        }
        begin = time.perf_counter()
        found = ask[what]()
        seconds = time.perf_counter() - begin
        assert found
        return seconds

    def _search(self, filter_string: str = "", order_by: Iterable[str] = ()) -> Any:
        return self._client.search_runs([self._experiment], filter_string, max_results=PAGE, order_by=list(order_by))

    def _read_curve(self) -> Any:
        """As the plots of its web page are made: `get_metric_history` would return all points."""
        store = self._client._tracking_client.store
        return store.get_metric_history_bulk_interval([LONG_RUN], "loss", MAX_POINTS, None, None)

    def _fill(self, number: int) -> int:
        """Insert finished runs until there are so many."""
        new = range(self._num_runs, number)
        run_ids = [f"{n:032x}" for n in new]
        values = [("accuracy", (n * 7919) % 100_003 / 100_003) for n in new], [("loss", n / number) for n in new]
        self._insert_runs(run_ids, list(new))
        for named in values:
            rows = [(name, value, 0, run_id, 1, 0) for run_id, (name, value) in zip(run_ids, named, strict=True)]
            self._insert("metrics", "key, value, timestamp, run_uuid, step, is_nan", rows)
            self._insert("latest_metrics", "key, value, timestamp, run_uuid, step, is_nan", rows)
        self._insert(
            "params", "key, value, run_uuid", [("model", f"model{n // 7 % NUM_MODELS}", f"{n:032x}") for n in new]
        )
        users = [("mlflow.user", f"user{n // 10 % NUM_USERS}", f"{n:032x}") for n in new]
        self._insert("tags", "key, value, run_uuid", users)
        self._num_runs = number
        return number

    def _write_points(self, number: int) -> int:
        self._insert_runs([LONG_RUN], [0])
        rows = [("loss", 1 / step, step, LONG_RUN, step, 0) for step in range(1, number + 1)]
        self._insert("metrics", METRIC, rows)
        self._insert("latest_metrics", METRIC, rows[-1:])
        return number

    def _insert_runs(self, run_ids: list[str], numbers: list[int]) -> None:
        common = ("active", self._file.parent.as_uri(), int(self._experiment))
        rows = [
            (run_id, run_id[-8:], "LOCAL", STATES[n % 10], 1000 * n, 1000 * n + 500, "ada", *common)
            for run_id, n in zip(run_ids, numbers, strict=True)
        ]
        self._insert("runs", RUN, rows)

    def _insert(self, table: str, columns: str, rows: list[tuple[Any, ...]]) -> None:
        marks = ", ".join("?" for _ in columns.split(","))
        with sqlite3.connect(self._file) as connection:
            connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)
        connection.close()


if __name__ == "__main__":
    answer_all(Records(Path(sys.argv[1])).answer)
