"""The strategies: the one place where a model is wrapped for its devices, and where ranks speak to each other.

The raw model stays in the hands of the trainer, so that no state_dict ever carries a `module.` prefix. This file knows
neither optimizers nor data. Collectives must be called by all ranks in the same order.
"""

from __future__ import annotations

import datetime
import inspect
import os
from collections import defaultdict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from dljobs.service import spec

from .shared_sum import SharedSum

# Longer than any wait of a healthy run (a rank that prepares data while the others wait for it), shorter than a night.
_COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)


# PyTorch 2.15 renamed the option, and warns of the old name in the log of every rank.
_NEW_NAME, _OLD_NAME = "forward_sync_buffers", "broadcast_buffers"
_SYNC_BUFFERS = _NEW_NAME if _NEW_NAME in inspect.signature(DistributedDataParallel).parameters else _OLD_NAME

_NORMALISATIONS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip


@dataclass(frozen=True)
class Strategy:
    """One process on one device; also what the other strategies share."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    num_devices: int = 1  # of the whole run

    name = "single"

    def describe(self) -> str:
        """For the log: the strategy, and what one cannot see of it from outside."""
        return self.name

    def wrap(self, model: nn.Module) -> nn.Module:
        """What the training step calls, for a raw model that is already on `device`."""
        return model

    def without_collectives(self, model: nn.Module, wrapped: nn.Module) -> nn.Module:
        """Which of the two to call where ranks may do so different numbers of times."""
        del wrapped
        return model

    def without_sync(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """A block in which gradients add up on this rank alone; the next backward pass brings them together."""
        del wrapped
        return nullcontext()

    def all_sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all ranks."""
        return values

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give all ranks the buffers (such as running means) of rank 0, whose weights are the ones that are saved."""

    def gather(self, text: str) -> list[str]:
        """The texts of all ranks, in order."""
        return [text]

    def warm_up(self, wrapped: nn.Module, inputs: Tensor) -> None:
        """Before loading a checkpoint: bring the wrapper into the state that it has after its first step."""

    def close(self) -> None:
        """Leave the process group."""


class SplitOverDevices(Strategy):
    """nn.DataParallel: one process, the batch split over all placed devices, the output gathered on the first."""

    name = "dp"

    def wrap(self, model: nn.Module) -> nn.Module:
        """On a CPU DataParallel would silently pass through: there the module itself runs, and the log says so."""
        if self.device.type == "cuda":
            return DataParallel(model, device_ids=list(range(torch.cuda.device_count())))
        if hasattr(model, "see_outside"):
            print(
                "dp on CPU stand-ins: torch splits nothing here; one process computes, one after the other, the shares"
                f" that DataParallel's scatter would give to {self.num_devices} devices",
                flush=True,
            )
            return _Shared(model, self.num_devices)
        print("dp on CPU stand-ins: the model runs unsplit in one process", flush=True)
        return model

    def without_collectives(self, model: nn.Module, wrapped: nn.Module) -> nn.Module:
        """No collective is involved: the wrapper is safe, and uses all devices."""
        return wrapped


class _Shared(nn.Module):
    """What DataParallel does to a batch, in one process: for a model that shows it. Others need not pay for it."""

    def __init__(self, model: nn.Module, num_devices: int) -> None:
        super().__init__()
        self.model = model
        self.num_devices = num_devices

    def forward(self, x: Tensor) -> Tensor:
        # As DataParallel scatters: equal shares of a rounded-up size, so that the last devices may get less or nothing.
        return torch.cat([self.model(share) for share in x.chunk(self.num_devices)])


@dataclass(frozen=True)
class Distributed(Strategy):
    """DistributedDataParallel: one process for each device, gradients averaged in the backward pass."""

    shared: SharedSum | None = None  # how CPU ranks of one host sum; the others go through the process group

    name = "ddp"

    def describe(self) -> str:
        """See `Strategy.describe`."""
        return self.name if self.shared is None else f"{self.name}, sums in shared memory"

    def wrap(self, model: nn.Module) -> nn.Module:
        """A model without a parameter to train would be refused by DDP, and needs none of it."""
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        sync_buffers: dict[str, Any] = {_SYNC_BUFFERS: _has_buffers_that_matter(model)}
        wrapped = DistributedDataParallel(
            model,
            device_ids=device_ids,
            gradient_as_bucket_view=True,
            **sync_buffers,
            # A model that does not use all its parameters in each forward says so; looking for them costs time.
            find_unused_parameters=bool(getattr(model, "find_unused_parameters", False)),
        )
        if self.shared is not None:
            # Not the function itself: DDP looks at annotations, and takes them for wrong where they are text.
            wrapped.register_comm_hook(self.shared, lambda shared, bucket: _average(shared, bucket))  # noqa: PLW0108
        return wrapped

    def without_sync(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """See `Strategy.without_sync`."""
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def all_sum(self, values: Tensor) -> Tensor:
        """See `Strategy.all_sum`."""
        summed = values.to(self.device, copy=True)
        if self.shared is not None:
            self.shared.sum(summed)
        else:
            dist.all_reduce(summed)
        return summed.to(values.device)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """See `Strategy.broadcast_buffers`: all of a type at once, since each call costs a round trip."""
        by_type: defaultdict[torch.dtype, list[Tensor]] = defaultdict(list)
        for buffer in model.buffers():
            by_type[buffer.dtype].append(buffer)
        for buffers in by_type.values():
            flat = torch.cat([buffer.flatten() for buffer in buffers])
            dist.broadcast(flat, src=0)
            for buffer, values in zip(buffers, torch.split(flat, [each.numel() for each in buffers]), strict=True):
                buffer.copy_(values.view_as(buffer))

    def gather(self, text: str) -> list[str]:
        """As bytes, each rank's in a row of its own: torch's own gathering of objects would pickle them."""
        content = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)  # which must not be empty
        sizes = torch.zeros(self.world_size, dtype=torch.int64)
        sizes[self.rank] = len(content)
        sizes = self.all_sum(sizes)
        rows = torch.zeros(self.world_size, int(sizes.max()), dtype=torch.uint8)
        rows[self.rank, : len(content)] = content
        sized = zip(self.all_sum(rows), sizes.tolist(), strict=True)
        return [bytes(row[: size - 1].numpy()).decode() for row, size in sized]

    def warm_up(self, wrapped: nn.Module, inputs: Tensor) -> None:
        """DDP rebuilds its buckets after the first step, and with three or more ranks the layout of the buckets decides
        the order of sums: without two passes before loading, a resumed run would differ in the last bits."""
        for _ in range(2):
            torch.autograd.backward(wrapped(inputs).sum() * 0)
            wrapped.zero_grad(set_to_none=True)

    def close(self) -> None:
        """See `Strategy.close`."""
        dist.destroy_process_group()


def _has_buffers_that_matter(model: nn.Module) -> bool:
    """Whether a training step may read a buffer, so that DDP has to make them equal before each.

    Normalisation in training mode only writes its running means; evaluation and checkpoints take those of rank 0.
    """
    only_written = {
        id(buffer)
        for module in model.modules()
        if type(module) in _NORMALISATIONS
        for buffer in module.buffers(recurse=False)
    }
    return any(id(buffer) not in only_written for buffer in model.buffers())


def join(name: spec.Strategy, device_kind: Literal["cuda", "cpu"], num_devices: int, interface: str = "") -> Strategy:
    """The strategy of this rank; with several ranks it joins the process group that torchrun's agent announces.

    The one reader of torchrun's variables (RANK, LOCAL_RANK, WORLD_SIZE).

    Args:
        interface: the network interface towards ranks on other nodes; empty if there are none.
    """
    rank, local_rank, world_size = (int(os.environ.get(key, at_least)) for key, at_least in _VARIABLES)
    device = torch.device("cuda", local_rank) if device_kind == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size > 1:
        # gloo would look up the host's own name to choose an interface, which fails where that name has no address.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface or "lo")
        if interface:
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # exactly this one
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            timeout=_COLLECTIVE_TIMEOUT,
            device_id=device if device.type == "cuda" else None,
        )
    kinds = {"single": Strategy, "dp": SplitOverDevices, "ddp": Distributed if world_size > 1 else Strategy}
    strategy = kinds[name](rank, world_size, local_rank, device, num_devices)
    if isinstance(strategy, Distributed) and device.type == "cpu" and not interface:
        return replace(strategy, shared=SharedSum.open(rank, world_size, strategy.gather))
    return strategy


def _average(shared: SharedSum, bucket: Any) -> torch.futures.Future[Tensor]:
    """The gradients of a bucket, averaged over all ranks where they are; DDP calls it in the backward pass."""
    shared.mean(bucket.buffer())
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


_VARIABLES = (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))
