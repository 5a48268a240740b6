"""Ray Train: the first step of LeNet, on a head that runs already. Run by the Python of Ray's own environment.

`python -m benchmarks.peers.ray_step FOLDER` starts a head, and answers a number of ranks with the seconds from before
`TorchTrainer.fit` to the end of rank 0's first step.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from .answers import answer_all
from .one_step import take_first_step
from .ray_head import running_head  # before Ray itself, which it gives its settings

from ray import train  # type: ignore[import-not-found]  # isort: skip
from ray.train.torch import TorchTrainer  # type: ignore[import-not-found]  # isort: skip

ANSWER = "first-step"
NUM_CPUS = 4


def take_step(config: dict[str, str]) -> None:
    """One rank; the process group is there."""
    context = train.get_context()
    at = take_first_step(context.get_world_size())
    if context.get_world_rank() == 0:
        Path(config["answer"]).write_text(repr(at))


def measure(folder: Path, num_ranks: int) -> float:
    """Train once, to its end."""
    answer = folder / ANSWER
    begin = time.monotonic()
    TorchTrainer(
        take_step,
        train_loop_config={"answer": str(answer)},
        scaling_config=train.ScalingConfig(num_workers=num_ranks),
        run_config=train.RunConfig(storage_path=str(folder)),
    ).fit()
    return float(answer.read_text()) - begin


if __name__ == "__main__":
    with running_head(NUM_CPUS):
        answer_all(lambda line: measure(Path(sys.argv[1]), int(line)))
