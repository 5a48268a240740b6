"""Training loops as users write them: over tensors, over a DataLoader, in Lightning, with Accelerate, under DDP.

`python -m benchmarks.peers.training_loop JOB LOOP FILE`, or the same under torchrun, trains the job's model as often as
it says and writes to FILE the seconds that it took: from before the first step to the end of the last epoch's
evaluation. Data and model are made before. All loops have the same model, optimizer, batch and number of threads, and
evaluate after each epoch; none but Lightning's saves anything.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from .lenet import LeNet


@dataclass(frozen=True)
class Job:
    """What is trained: the fields that dljobs is given, too."""

    model: str
    channels: int
    num_train: int
    num_test: int
    batch_size: int  # global
    epochs: int
    lr: float
    momentum: float


@dataclass(frozen=True)
class Ranks:
    """This process among its like; they compute together, or each for itself."""

    rank: int
    world_size: int


def main(job_json: str, loop: str, file: str) -> None:
    """Train once, and write down how long it took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    job = Job(**json.loads(job_json))
    ranks = Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    if ranks.world_size > 1:
        dist.init_process_group("gloo")
    seconds = _LOOPS[loop](job, ranks)
    if ranks.world_size > 1:
        slowest = torch.tensor([seconds], dtype=torch.float64)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        seconds = float(slowest)
    if ranks.rank == 0:
        Path(file).write_text(repr(seconds))
    if ranks.world_size > 1:
        dist.barrier()
    os._exit(0)  # gloo's teardown with the interpreter's aborts once in a while


def make_model(job: Job) -> nn.Module:
    """The job's network, new."""
    if job.model == "resnet18":
        from torchvision.models import resnet18

        return resnet18(num_classes=10)  # type: ignore[no-any-return]
    return LeNet(job.channels)


def make_data(job: Job, num: int) -> TensorDataset:
    """Random numbers in the shape of the data: what they show does not change how long a step takes."""
    return TensorDataset(torch.randn(num, job.channels, 32, 32), torch.randint(10, (num,)))


def make_optimizer(model: nn.Module, job: Job) -> torch.optim.Optimizer:
    """SGD as the job has it."""
    return torch.optim.SGD(model.parameters(), lr=job.lr, momentum=job.momentum)


def train_on_tensors(job: Job, ranks: Ranks, *, together: bool = True) -> float:
    """The shortest loop: tensors in memory, batches by index. Several ranks: DDP, or processes that do not speak."""
    model = make_model(job)
    x, y = make_data(job, job.num_train).tensors
    x_test, y_test = (part[ranks.rank :: ranks.world_size] for part in make_data(job, job.num_test).tensors)
    called = nn.parallel.DistributedDataParallel(model) if ranks.world_size > 1 and together else model
    optimizer = make_optimizer(model, job)
    _start_together(ranks)
    begin = time.monotonic()
    for epoch in range(job.epochs):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for batch in torch.split(order, job.batch_size):
            mine = batch.tensor_split(ranks.world_size)[ranks.rank]
            optimizer.zero_grad()
            functional.cross_entropy(called(x[mine]), y[mine]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        evaluate(model, [(x_test, y_test)])
    return time.monotonic() - begin


def train_alone(job: Job, ranks: Ranks) -> float:
    """As many processes, each on its share of every batch: how fast DDP would be if speaking took no time."""
    return train_on_tensors(job, ranks, together=False)


def train_with_loader(job: Job, ranks: Ranks, num_workers: int = 0) -> float:
    """The loop of the tutorials: a DataLoader, and the running loss by `.item()` in each step."""
    model = make_model(job)
    train, test = _loaders(job, ranks, num_workers)
    optimizer = make_optimizer(model, job)
    begin = time.monotonic()
    for _ in range(job.epochs):
        running = 0.0
        for x, y in train:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            running += loss.item()
        evaluate(model, test)
    return time.monotonic() - begin


def train_with_lightning(job: Job, ranks: Ranks) -> float:
    """Lightning with its defaults (a checkpoint after each epoch), less what it prints."""
    import lightning  # type: ignore[import-not-found]

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model(job)

        def training_step(self, batch: Any, _number: int) -> Tensor:
            loss = functional.cross_entropy(self.model(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, _number: int) -> None:
            self.log("accuracy", (self.model(batch[0]).argmax(1) == batch[1]).float().mean(), sync_dist=True)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make_optimizer(self.model, job)

    class Clock(lightning.Callback):  # type: ignore[misc]
        begin = end = 0.0

        def on_train_start(self, *_: Any) -> None:
            self.begin = time.monotonic()

        def on_train_end(self, *_: Any) -> None:
            self.end = time.monotonic()

    clock = Clock()
    trainer = lightning.Trainer(
        max_epochs=job.epochs, accelerator="cpu", devices=ranks.world_size, callbacks=[clock], num_sanity_val_steps=0,
        strategy="ddp" if ranks.world_size > 1 else "auto", enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=os.environ.get("TMPDIR", "."),
    )  # fmt: skip
    trainer.fit(Module(), *_loaders(job, ranks, 0))
    return clock.end - clock.begin


def train_with_accelerate(job: Job, ranks: Ranks) -> float:
    """The loop of Accelerate's introduction."""
    from accelerate import Accelerator  # type: ignore[import-not-found]

    accelerator = Accelerator(cpu=True)
    model = make_model(job)
    # Accelerate shares the batches out among the ranks by itself.
    loaders = _loaders(job, ranks, 0, is_shared_out=False)
    model, optimizer, train, test = accelerator.prepare(model, make_optimizer(model, job), *loaders)
    begin = time.monotonic()
    for _ in range(job.epochs):
        for x, y in train:
            optimizer.zero_grad()
            accelerator.backward(functional.cross_entropy(model(x), y))
            optimizer.step()
        evaluate(accelerator.unwrap_model(model), test)
    return time.monotonic() - begin


def _loaders(job: Job, ranks: Ranks, num_workers: int, *, is_shared_out: bool = True) -> tuple[Any, Any]:
    options: dict[str, Any] = {"num_workers": num_workers, "persistent_workers": num_workers > 0}
    train, test = make_data(job, job.num_train), make_data(job, job.num_test)
    size = job.batch_size // ranks.world_size
    if ranks.world_size == 1 or not is_shared_out:
        return DataLoader(train, size, shuffle=True, **options), DataLoader(test, 256)
    samplers: list[Any] = [
        DistributedSampler(each, ranks.world_size, ranks.rank, shuffle=each is train) for each in (train, test)
    ]
    return DataLoader(train, size, sampler=samplers[0], **options), DataLoader(test, 256, sampler=samplers[1])


def evaluate(model: nn.Module, batches: Any) -> None:
    """What everybody does after an epoch: count what is right."""
    model.eval()
    with torch.no_grad():
        correct = sum((model(x).argmax(1) == y).sum() for x, y in batches)
    int(correct)
    model.train()


def _start_together(ranks: Ranks) -> None:
    if ranks.world_size > 1:
        dist.barrier()


_LOOPS = {
    "tensors": train_on_tensors,
    "alone": train_alone,
    "loader-0": train_with_loader,
    "loader-2": lambda job, ranks: train_with_loader(job, ranks, 2),
    "lightning": train_with_lightning,
    "accelerate": train_with_accelerate,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
