"""What went wrong in a rank, as the `error` event tells it: class, message, and the place in the user's own code.

It judges one exception in one process; which rank failed first, and what a death without any exception means, is for
the supervisor to find out.
"""

from __future__ import annotations

import errno
import sysconfig
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dljobs.errors import DataError, DljobsError, StorageFull

from .folder import is_no_room
from .loader import ReaderLost

_MAX_TRACEBACK_CHARS = 64 << 10
# Where nobody's model lives: the standard library, installed packages, and this side of dljobs.
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
_ZOO = str(Path("dljobs", "models"))
_OURS = str(Path(__file__).parent)
_CUDA_IS_FULL = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
# What CUDA and NCCL say of a GPU, a link or a driver that has failed. Not among them: illegal addresses and assertions
# of a kernel, which are bugs of whoever wrote or called it.
_DEVICE_FAILED = (
    "uncorrectable ecc error",
    "hardware stack error",
    "gpu is lost",
    "fallen off the bus",
    "no cuda-capable device",
    "devices are busy or unavailable",
    "device(s) is/are busy or unavailable",
    "cuda driver initialization failed",
    "system not yet initialized",
    "system has unsupported display driver",
    "unspecified launch failure",
    "nvlink",
    "unhandled system error",
    "unhandled cuda error",
)
# How gloo, NCCL and the store tell that another rank is gone.
_PEER_IS_GONE = (
    "connection closed by peer",
    "connection reset by peer",
    "connection was closed",
    "broken pipe",
    "socket closed",
    "remote process exited",
    "timed out waiting",
    "failed to recv",
    "connection refused",
)


def describe(error: BaseException) -> dict[str, Any]:
    """The fields of an `error` event, less the rank.

    `secondary` is true where the error only tells that another rank went away: the cause is elsewhere.
    """
    file, line = _place(error)
    text = "".join(traceback.format_exception(error))
    if len(text) > _MAX_TRACEBACK_CHARS:
        half = _MAX_TRACEBACK_CHARS // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return {
        "exception": _name(type(error)),
        "message": error.message if isinstance(error, DljobsError) else str(error),
        "hint": error.hint if isinstance(error, DljobsError) else "",
        "file": file,
        "line": line,
        "traceback": text,
        "failure_class": classify(error),
        "memory": exhausted_memory(error),
        "secondary": is_secondary(error),
    }


def classify(error: BaseException) -> str:
    """One of "data", "oom", "storage", "killed", "device" and "user"."""
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, StorageFull) or is_no_room(error):
        return "storage"
    if isinstance(error, ReaderLost):
        return "killed"
    if exhausted_memory(error):
        return "oom"
    text = str(error).lower()
    if isinstance(error, RuntimeError) and any(sign in text for sign in _DEVICE_FAILED):
        return "device"
    return "user"


def exhausted_memory(error: BaseException) -> str:
    """Whose memory ran out, "host" or "CUDA"; empty if none did."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "CUDA"
    if isinstance(error, RuntimeError) and any(sign in text for sign in _CUDA_IS_FULL):
        return "CUDA"
    # The CPU allocator has no exception of its own.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in text):
        return "host"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "host"
    return ""


def is_secondary(error: BaseException) -> bool:
    """Whether the error is only the echo of another rank's end."""
    if isinstance(error, DljobsError):
        return False
    from_torch = isinstance(error, dist.DistError | ConnectionError) or type(error) is RuntimeError
    return from_torch and any(sign in str(error).lower() for sign in _PEER_IS_GONE)


def _place(error: BaseException) -> tuple[str | None, int | None]:
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if not frames:
        return None, None
    for is_wanted in (is_users, lambda file: file.startswith(_OURS)):
        for file, line in reversed(frames):
            if is_wanted(file):
                return file, line
    return frames[-1]


def is_users(file: str) -> bool:
    """Whether a source file is the user's own, or a model's."""
    if _ZOO in file:
        return True
    return not file.startswith((*_LIBRARIES, _OURS, "<"))


def _name(kind: type[BaseException]) -> str:
    is_known = kind.__module__ == "builtins" or issubclass(kind, DljobsError)
    return kind.__qualname__ if is_known else f"{kind.__module__}.{kind.__qualname__}"
