"""What a rank may take of a GPU that it shares, and what it took; a CPU knows neither."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dljobs.service.gpus import CUDA_CONTEXT_BYTES
from dljobs.workers import device_memory

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize(
    ("num_bytes", "fraction"), [(20_600_000_000, 0.25), (CUDA_CONTEXT_BYTES // 2, 0.0), (10**12, 1.0), (None, None)]
)
def test_pytorch_gets_what_cuda_leaves_it(
    monkeypatch: pytest.MonkeyPatch, num_bytes: int | None, fraction: float | None
) -> None:
    asked: list[tuple[float, torch.device]] = []
    of_80_gb = SimpleNamespace(total_memory=80_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: of_80_gb)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: asked.append(given))
    device_memory.cap(GPU, num_bytes)
    assert asked == ([] if fraction is None else [(fraction, GPU)])


def test_a_cpu_has_no_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", None)
    device_memory.cap(CPU, 10**9)
    assert device_memory.peak_bytes(CPU) is None
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _device: 7)
    assert device_memory.peak_bytes(GPU) == 7
