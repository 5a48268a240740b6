"""The GPUs of this machine as NVML sees them: no torch, no CUDA context, no change to them.

What a worker does with them is the worker's; here they are listed, for `up` and `doctor`, and one is looked at.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

# What CUDA itself takes of a GPU for each process that uses it: about so much on an A100 or H100.
CUDA_CONTEXT_BYTES = 600_000_000


@dataclass(frozen=True)
class Gpu:
    """A GPU; `index` is its place in PCI bus order."""

    index: int
    uuid: str
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class GpuState:
    """How a GPU is, at one moment."""

    processes: tuple[tuple[int, int | None], ...]  # that compute on it: pid, and bytes of its memory where NVML tells
    uncorrected_errors: int  # of ECC memory, since the driver was loaded or the GPU reset
    awaits_reset: bool  # rows of its memory are to be replaced by spare ones at the next reset
    has_bad_rows: bool  # a row could not be replaced


class GpuFault(Exception):
    """The GPU does not answer; the text says what NVML had to say."""


class Nvml:
    """A session of NVML that stays open: each opening may cost a second where the driver is not kept loaded."""

    def __init__(self) -> None:
        self._nvml: Any = None

    def state(self, uuid: str) -> GpuState:
        """Look at one GPU.

        Raises:
            GpuFault: it does not answer.
        """
        try:
            import pynvml
        except ImportError:
            raise GpuFault("the package nvidia-ml-py is not installed") from None
        try:
            if self._nvml is None:
                pynvml.nvmlInit()
                self._nvml = pynvml
            return _look(pynvml, uuid)
        except pynvml.NVMLError as error:
            self.close()  # the driver may have been reloaded: a new session may know better
            raise GpuFault(str(error)) from None

    def close(self) -> None:
        """End the session; the next look begins another."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with suppress(nvml.NVMLError):
                nvml.nvmlShutdown()


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


def _look(pynvml: Any, uuid: str) -> GpuState:
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    pynvml.nvmlDeviceGetMemoryInfo(handle)  # which a GPU that fell off the bus does not answer
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    errors, awaits_reset, has_bad_rows = 0, False, False
    # Cards without ECC or spare rows, and old drivers, do not know the question.
    unknown = pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound
    with suppress(*unknown):
        kinds = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        errors = int(pynvml.nvmlDeviceGetTotalEccErrors(handle, *kinds))
    with suppress(*unknown):
        _corrected, _uncorrected, awaits_reset, has_bad_rows = pynvml.nvmlDeviceGetRemappedRows(handle)
    used = tuple((int(each.pid), each.usedGpuMemory) for each in processes)
    return GpuState(used, errors, bool(awaits_reset), bool(has_bad_rows))
