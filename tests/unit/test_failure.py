from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dljobs.errors import DataError, DljobsError, StorageFull
from dljobs.workers.failure import describe


def caught(error: BaseException) -> dict[str, object]:
    try:
        raise error
    except BaseException as raised:
        return describe(raised)


@pytest.mark.parametrize(
    ("error", "failure_class"),
    [
        (ValueError("no"), "user"),
        (DljobsError("no"), "user"),
        (DataError("no mnist"), "data"),
        (StorageFull("full"), "storage"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage"),
        (OSError(errno.ENOENT, "No such file"), "user"),
        (MemoryError(), "oom"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 TB"), "oom"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "device"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "user"),
        (ValueError("the GPU is lost"), "user"),
        (SystemExit(0), "user"),
    ],
)
def test_classes(error: BaseException, failure_class: str) -> None:
    described = caught(error)
    assert described["failure_class"] == failure_class
    assert described["secondary"] is False
    json.dumps(described)


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (MemoryError(), "host"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "host"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 TB"), "host"),
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), "CUDA"),
        (RuntimeError("CUDA error: out of memory"), "CUDA"),
        (ValueError("out of memory"), ""),
    ],
)
def test_whose_memory_ran_out(error: BaseException, whose: str) -> None:
    assert caught(error)["memory"] == whose


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:4242"),
        RuntimeError("[unbound_buffer.cc] Timed out waiting 1800000ms for recv operation to complete"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        dist.DistBackendError("NCCL error: remote process exited or there was a network error"),
    ],
)
def test_echoes_of_another_ranks_end_are_secondary(error: Exception) -> None:
    assert caught(error)["secondary"] is True


def test_a_users_own_words_are_not_taken_for_an_echo() -> None:
    assert caught(ValueError("connection closed by peer"))["secondary"] is False
    assert caught(DljobsError("timed out waiting"))["secondary"] is False


def test_the_place_is_in_the_users_code_and_the_traceback_whole() -> None:
    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, torch.ones(3, 5))

    with pytest.raises(RuntimeError) as raised:
        Wrong()(torch.ones(2, 4))
    described = describe(raised.value)
    assert described["exception"] == "RuntimeError"
    assert described["file"] == __file__
    assert "nn.functional.linear" in Path(__file__).read_text().splitlines()[described["line"] - 1]
    assert "shapes cannot be multiplied" in described["traceback"]


def test_exceptions_are_named_as_a_user_would() -> None:
    described = caught(DataError("no", hint="put it there"))
    assert (described["exception"], described["message"], described["hint"]) == ("DataError", "no", "put it there")
    assert caught(torch.OutOfMemoryError("x"))["exception"] == "torch.OutOfMemoryError"


def test_an_endless_traceback_is_cut_in_the_middle() -> None:
    described = caught(ValueError("x" * 1_000_000))
    assert len(str(described["traceback"])) < 70_000
    assert "characters left out" in str(described["traceback"])


def test_an_error_without_traceback_has_no_place() -> None:
    described = describe(ValueError("no"))
    assert (described["file"], described["line"]) == (None, None)
