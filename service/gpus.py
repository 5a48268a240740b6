"""The GPUs of this machine as NVML sees them: no torch, no CUDA context, no change to them.

What a worker does with them is the worker's; here they are only listed, for `up` and `doctor`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """A GPU; `index` is its place in PCI bus order."""

    index: int
    uuid: str
    name: str
    memory_bytes: int


def list_gpus() -> tuple[list[Gpu], str]:
    """The GPUs, and "" or what kept NVML from telling. A machine without a driver has none, and no problem."""
    try:
        import pynvml
    except ImportError:
        return [], "the package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return [], ""
    except pynvml.NVMLError as error:
        return [], f"NVML does not start: {error}"
    try:
        return [_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())], ""
    except pynvml.NVMLError as error:
        return [], f"NVML does not list the GPUs: {error}"
    finally:
        pynvml.nvmlShutdown()


def _read(pynvml: Any, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    return Gpu(index, str(uuid), str(name), int(pynvml.nvmlDeviceGetMemoryInfo(handle).total))
