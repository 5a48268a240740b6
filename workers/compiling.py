"""A model as torch.compile makes it, held against the model as it is before a run trusts it.

Compilers have computed wrong gradients before, above all for a last, smaller batch after full ones: so the gradients of
both sizes are compared first, and the model runs as it is, with a sentence that says why, where they differ or where
there is no compiler. It does not know the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .narration import say
from .random_state import leaving_no_trace
from .strategies import Strategy
from .workload import Workload

# Of the gradient's length. Fused kernels add in another order (measured: 1e-6), and with half of the bits that shows.
_MAX_ERROR = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2, "fp16": 5e-2}

# Samples of the batches that are compared: enough for every kernel, few enough to fit.
_MOST = 32


def compiled_if_right(workload: Workload, strategy: Strategy, batch_size: int) -> nn.Module:
    """The compiled model, which shares the parameters of the workload's; or that itself, on all ranks alike."""
    if strategy.name == "dp":
        return _as_it_is(workload, strategy, "DataParallel copies the model in each step, and copies are not compiled")
    # Any batch size in one graph, the plain model's random numbers, no pool of compilers that would outlive a rank.
    options: dict[str, Any] = {"compile_threads": 1, "fallback_random": True}
    compiled: Any = torch.compile(workload.model, dynamic=True, options=options)
    full = min(_MOST, math.ceil(batch_size / strategy.world_size), len(workload.data.train))
    left = len(workload.data.train) % batch_size // strategy.world_size
    sizes = sorted({full, min(left or full, max(1, full - 1))}, reverse=True)
    why = _compare(workload, compiled, sizes, strategy.device)
    if reasons := [reason for reason in strategy.gather(why) if reason]:
        return _as_it_is(workload, strategy, reasons[0])
    if strategy.rank == 0:
        say(f"compiled; the gradients of {' and '.join(str(size) for size in sizes)} samples are the plain model's")
    return cast(nn.Module, compiled)


def _compare(workload: Workload, compiled: nn.Module, sizes: Sequence[int], device: torch.device) -> str:
    """Why the compiled model cannot be trusted, or nothing."""
    for size in sizes:
        plain = _gradient(workload, workload.model, size, device)
        try:
            ours = _gradient(workload, compiled, size, device)
        except Exception as error:  # whatever a compiler may raise: the plain model has just done the same
            first = next(iter(str(error).strip().splitlines()), "")
            return f"torch.compile failed: {first or type(error).__name__}"
        off = float((ours - plain).norm() / plain.norm().clamp(min=1e-12))
        if not off <= _MAX_ERROR[workload.precision.name]:
            return f"the compiled model's gradient of {size} samples is off by {off:.2g} of its length"
    return ""


def _gradient(workload: Workload, called: nn.Module, size: int, device: torch.device) -> Tensor:
    x, y = workload.data.train.batch(torch.arange(size))
    called.train()
    with leaving_no_trace(workload.model):
        with workload.precision.autocast():
            losses = workload.loss.per_sample(called(x.to(device)), y.to(device))
        torch.autograd.backward(losses.sum())
        gradients = [p.grad.detach().double().flatten() for p in workload.model.parameters() if p.grad is not None]
        return torch.cat(gradients) if gradients else torch.zeros(1, dtype=torch.float64)


def _as_it_is(workload: Workload, strategy: Strategy, why: str) -> nn.Module:
    if strategy.rank == 0:
        say(f"not compiled, the model runs as it is: {why}")
    return workload.model
