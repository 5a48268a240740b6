"""`python -m benchmarks.zoo [NAME…]`: every model of the zoo, trained through the service to the result it states.

A job for each entry and strategy, by its name alone; its weights are evaluated again from the store, on a worker, and
where the data have a true answer the learned weights are held against it. A whole run writes the table of
models/README.md. The exit code is 1 if any entry misses.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dljobs.errors import DljobsError
from dljobs.models import catalog
from dljobs.models.catalog import LOSS_TASKS, TASK_METRICS, ModelEntry
from dljobs.models.threshold import parse_threshold
from dljobs.service import jobs
from dljobs.service.artifacts import ArtifactStore
from dljobs.service.evaluation import evaluate_on_worker
from dljobs.service.submission import Request
from dljobs.service.weights import find_state_dict

from .benchmark import BenchmarkError
from .machine import describe_machine
from .service import Service, running_service

PAGE = Path(__file__).parents[1] / "models" / "README.md"
BEGIN, END = "<!-- begin results -->\n", "<!-- end results -->\n"
STRATEGIES = {"single": 1, "dp": 2, "ddp": 2}  # and the devices of each
TIMEOUT_S = 900.0
NEAR = 0.1  # how close to the truth learned weights must come
# Takes the place of images that would have to be fetched; nothing can be learned from it.
STAND_IN = Request("", data="fake", sets=("size=8000", "test_size=500"))


@dataclass(frozen=True)
class Trained:
    """What became of one job."""

    entry: ModelEntry
    sets: tuple[str, ...]  # of a variant
    strategy: str
    data: str
    num_steps: int
    seconds: float  # from placement to the stored end
    result: str
    is_met: bool | None  # None: on a stand-in nothing is to be reached

    @property
    def name(self) -> str:
        return " ".join([self.entry.name, *(f"--set {text}" for text in self.sets)])


def main(arguments: Sequence[str]) -> int:
    """Train, print a line for each, and write the page if all were trained."""
    options = _parse(arguments)
    for variable in [name for name in os.environ if name.startswith("DLJOBS_")]:
        del os.environ[variable]  # somebody's own service must not be filled with our jobs
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    names = options.names or [name for name, entry in catalog.models().items() if entry.reaches]
    found = []
    try:
        # A short path: there is a unix socket in it.
        with (
            tempfile.TemporaryDirectory(prefix="zoo-") as home,
            running_service(Path(home), cpu_devices=max(STRATEGIES.values())) as service,
        ):
            for entry, sets, strategy in _plan(names, options.strategies):
                found.append(_train(service, entry, sets, strategy, fetch=options.fetch))
                print(_line(found[-1]), flush=True)
    except (BenchmarkError, DljobsError) as error:
        print(f"zoo: {error}", file=sys.stderr)
        return 1
    if not options.names and options.strategies == list(STRATEGIES):
        PAGE.write_text(_with_table(PAGE.read_text(), _table(found)))
    return 1 if any(each.is_met is False for each in found) else 0


def _plan(names: Sequence[str], strategies: Sequence[str]) -> Iterator[tuple[ModelEntry, tuple[str, ...], str]]:
    for name in names:
        entry = catalog.find_model(name)
        for sets in ((), *((condition,) for condition in entry.variants)):
            for strategy in strategies:
                yield entry, sets, strategy


def _train(service: Service, entry: ModelEntry, sets: tuple[str, ...], strategy: str, *, fetch: bool) -> Trained:
    num_devices = STRATEGIES[strategy]
    is_stand_in = catalog.find_dataset(entry.data).downloads and not fetch
    data, more = (STAND_IN.data, STAND_IN.sets) if is_stand_in else (None, ())
    request = Request(entry.name, num_devices, strategy, data=data, sets=(*sets, *more))
    job_id = service.submit(request)
    run = service.wait_for_success(job_id, TIMEOUT_S)
    measured = _evaluate(service, job_id)
    result, is_met = _judge(service, entry, job_id, measured)
    return Trained(
        entry=entry,
        sets=sets,
        strategy=strategy,
        data=data or entry.data,
        num_steps=run["step"],
        seconds=run["ended_at"] - run["created_at"],
        result=result,
        is_met=None if is_stand_in else is_met,
    )


def _evaluate(service: Service, job_id: int) -> dict[str, Any]:
    """The last weights, loaded from the store and measured by a worker."""
    submitted = evaluate_on_worker(
        service.database, service.doorbell, service.settings, job_id, which="last", data=None
    )
    service.wait_for_success(submitted.job_id, TIMEOUT_S)
    with service.database.read() as connection:
        measured: dict[str, Any] = json.loads(jobs.get_job(connection, submitted.job_id)["result_json"])
    return measured


def _judge(service: Service, entry: ModelEntry, job_id: int, measured: dict[str, Any]) -> tuple[str, bool]:
    threshold = parse_threshold(entry.reaches, TASK_METRICS[LOSS_TASKS[entry.loss]])
    value = float(measured[threshold.metric])
    text, is_met = f"{threshold.metric} {value:.4g}", threshold.is_met(value)
    if entry.truth:
        distance = _distance_to_truth(service, entry, job_id)
        text, is_met = f"{text}, weights within {distance:.2g}", is_met and distance <= NEAR
    return text, is_met


def _distance_to_truth(service: Service, entry: ModelEntry, job_id: int) -> float:
    """The largest difference between a learned weight and the true one."""
    _spec, artifact = find_state_dict(service.database, job_id, "last")
    path = service.settings.home / "weights.safetensors"
    ArtifactStore(service.database).fetch(artifact["id"], path)
    learned = load_file(path)
    path.unlink()
    return max(
        (learned[name] - torch.tensor(values).view_as(learned[name])).abs().max().item()
        for name, values in entry.truth.items()
    )


def _line(trained: Trained) -> str:
    verdict = {True: "met", False: f"MISSED: {trained.entry.expected}", None: "ran"}[trained.is_met]
    return (
        f"{trained.name:<44} {trained.strategy:<7} {trained.num_steps:>7} steps {trained.seconds:>6.1f} s  "
        f"{trained.result}  {verdict}"
    )


def _table(found: Sequence[Trained]) -> str:
    """A row for each entry: its result on one device, and seconds and verdict on each strategy."""
    head = ["model", "parameters", "data", "steps", "result", *(f"{name} ×{n}" for name, n in STRATEGIES.items())]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name in dict.fromkeys(each.name for each in found):
        runs = {each.strategy: each for each in found if each.name == name}
        first = runs["single"]
        cells = [_seconds(runs[strategy]) for strategy in STRATEGIES]
        note = " (a stand-in: fetch cifar10 with `--fetch`)" if first.is_met is None else ""
        number = first.entry.num_parameters
        count = "" if number is None or first.sets else f"{number:,}"
        row = [f"`{name}`", count, first.data + note, f"{first.num_steps:,}", first.result, *cells]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([f"{describe_machine()}. Seconds are from a job's placement to its stored end.", "", *lines, ""])


def _seconds(trained: Trained) -> str:
    return f"{trained.seconds:.1f} s {({True: 'met', False: 'MISSED', None: 'ran'})[trained.is_met]}"


def _with_table(page: str, table: str) -> str:
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}{table}{END}{rest.split(END)[1]}"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo", description="Train the zoo to its stated results."
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="which models; all unless given")
    parser.add_argument(
        "--strategy", dest="strategies", action="append", choices=STRATEGIES, help="repeatable; all unless given"
    )
    parser.add_argument("--fetch", action="store_true", help="fetch data from the internet instead of a stand-in")
    options = parser.parse_args(arguments)
    options.strategies = options.strategies or list(STRATEGIES)
    unknown = [name for name in options.names if name not in catalog.models()]
    if unknown:
        parser.error(f"there is no model {unknown[0]!r}")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
