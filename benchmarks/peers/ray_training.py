"""Ray Train: the loop of its introduction, on as many ranks as it is told. Run by the Python of Ray's own environment.

`python -m benchmarks.peers.ray_training JOB NUM_RANKS FILE` starts a head, trains the job's model, and writes to FILE
the seconds that it took, from before the first step to the end of the last evaluation, and those that the start took.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from .ray_head import running_head  # before Ray itself, which it gives its settings
from .training_loop import Job, evaluate, make_data, make_model, make_optimizer

from ray import train  # type: ignore[import-not-found]  # isort: skip
from ray.train.torch import TorchTrainer, prepare_data_loader, prepare_model  # type: ignore[import-not-found]  # isort: skip


def train_rank(config: dict[str, Any]) -> None:
    """One rank: the process group is there."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    job, context = Job(**config["job"]), train.get_context()
    model = prepare_model(make_model(job))
    size = job.batch_size // context.get_world_size()
    loader = prepare_data_loader(DataLoader(make_data(job, job.num_train), size, shuffle=True))
    test = prepare_data_loader(DataLoader(make_data(job, job.num_test), 256))
    optimizer = make_optimizer(model, job)
    begin = time.monotonic()
    for epoch in range(job.epochs):
        if context.get_world_size() > 1:
            loader.sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        evaluate(model, test)
    seconds = time.monotonic() - begin
    if context.get_world_rank() == 0:
        start_s = begin - config["begin"]
        Path(config["file"]).write_text(f"{seconds!r} {start_s!r}")


def main(job_json: str, num_ranks: int, file: str) -> None:
    """Train once; the start is that of the head, too."""
    begin = time.monotonic()
    with running_head(num_cpus=max(2, num_ranks)):
        TorchTrainer(
            train_rank,
            train_loop_config={"job": json.loads(job_json), "file": file, "begin": begin},
            scaling_config=train.ScalingConfig(num_workers=num_ranks),
            run_config=train.RunConfig(storage_path=str(Path(file).parent / "ray-results")),
        ).fit()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
