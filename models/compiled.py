"""A forward as one compiled graph: what `torch.compile` makes of it, and a clear word where it cannot.

It owns how models of the zoo are compiled. It does not know which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dljobs.errors import UsageError

Forward = Callable[[Tensor], Tensor]


def compile_whole(forward: Forward, backend: str = "inductor") -> Forward:
    """`forward` traced at its first call, compiled as a whole, and from then on run without Python.

    Raises (when it is called):
        UsageError: the graph cannot be compiled here, or has a part that no graph can hold.
    """
    # One thread, in this process: a pool of compilers would outlive a rank. Any batch size in one graph: one that was
    # compiled for full batches may be wrong about a last, ragged one.
    options: dict[str, Any] | None = {"compile_threads": 1} if backend == "inductor" else None
    compiled = torch.compile(forward, fullgraph=True, dynamic=True, backend=backend, options=options)

    def run(x: Tensor) -> Tensor:
        try:
            return compiled(x)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = str(error).strip().split("\n", 1)[0]
            raise UsageError(
                f"this model cannot be compiled here: {cause}",
                "torch.compile needs a C++ compiler (g++ or clang++) on the worker; other implementations do not",
            ) from error

    return run
