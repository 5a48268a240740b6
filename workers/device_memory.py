"""The memory of a rank's GPU: how much of it the rank may take where it shares it, and the most that it took.

A CPU stand-in has none of its own: there both are nothing.
"""

from __future__ import annotations

import torch

from dljobs.service.gpus import CUDA_CONTEXT_BYTES


def cap(device: torch.device, num_bytes: int | None) -> None:
    """Let this process take no more of the device than so many bytes; beyond them it is out of memory.

    Args:
        num_bytes: of which PyTorch gets what CUDA itself leaves it; None: all of the device.

    Source: torch.cuda.set_per_process_memory_fraction, which limits PyTorch's caching allocator.
    """
    if num_bytes is None or device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(max(num_bytes - CUDA_CONTEXT_BYTES, 0) / total, 1.0), device)


def peak_bytes(device: torch.device) -> int | None:
    """The most that PyTorch held of the device at a time, free blocks of its cache included; None of a CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
