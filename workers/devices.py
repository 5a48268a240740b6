"""Devices: the GPUs of this node by NVML, or the CPU stand-ins that a worker declares on a machine without one.

It never touches CUDA: a CUDA context in the worker could not be carried over a fork, and would hold memory on each GPU.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from dljobs.errors import UnknownName, UsageError
from dljobs.service.gpus import list_gpus
from dljobs.service.registration import DeviceInfo

DEFAULT_CPU_DEVICES = 4
MAX_CPU_DEVICES = 1024

logger = logging.getLogger(__name__)


def choose_devices(gpus: str | None, cpu_devices: int | None, worker_name: str) -> list[DeviceInfo]:
    """The devices a worker is pinned to.

    Args:
        gpus: ids, ranges, UUIDs or `all`, separated by commas; None for all there are.
        cpu_devices: number of CPU stand-ins instead of GPUs.

    Raises:
        UsageError: there is no such GPU; the message says which there are.
    """
    if gpus is not None and cpu_devices is not None:
        raise UsageError("a worker offers GPUs or CPU stand-ins, not both", "give --gpus or --cpu-devices")
    if cpu_devices is not None:
        return stand_ins(cpu_devices, worker_name)
    found = find_gpus()
    if not found:
        if gpus not in (None, "all"):
            raise UsageError(f"--gpus {gpus}: this machine has no NVIDIA GPU", "try --cpu-devices 4")
        return stand_ins(DEFAULT_CPU_DEVICES, worker_name)
    return found if gpus is None else select_gpus(gpus, found)


def stand_ins(number: int, worker_name: str) -> list[DeviceInfo]:
    """CPU stand-ins of one worker: names to lease, which run on whatever cores the machine has."""
    if not 1 <= number <= MAX_CPU_DEVICES:
        raise UsageError(f"--cpu-devices must be between 1 and {MAX_CPU_DEVICES}, not {number}")
    return [DeviceInfo(f"cpu-{worker_name}-{i}", "cpu", "CPU stand-in", i, None) for i in range(number)]


def find_gpus() -> list[DeviceInfo]:
    """All GPUs of this node in PCI bus order; empty without NVIDIA's driver."""
    gpus, problem = list_gpus()
    if problem:
        logger.warning("%s", problem)
    return [DeviceInfo(gpu.uuid, "cuda", gpu.name, gpu.index, gpu.memory_bytes) for gpu in gpus]


def select_gpus(text: str, found: Sequence[DeviceInfo]) -> list[DeviceInfo]:
    """The GPUs that `text` names, in PCI order: `0,2-3`, `GPU-5a2…` (a prefix will do) or `all`.

    Raises:
        UnknownName, UsageError: a part of it names none, or more than one.
    """
    chosen: dict[str, DeviceInfo] = {}
    for part in (part.strip() for part in text.split(",")):
        for device in found if part == "all" else _named(part, found):
            chosen[device.uuid] = device
    return sorted(chosen.values(), key=lambda device: device.position)


def _named(part: str, found: Sequence[DeviceInfo]) -> list[DeviceInfo]:
    positions = [str(device.position) for device in found]
    if span := re.fullmatch(r"(\d+)-(\d+)", part):
        first, last = int(span[1]), int(span[2])
        if first > last:
            raise UsageError(f"--gpus {part}: the range runs backwards", f"write {last}-{first}")
        wanted = range(first, last + 1)
    elif part.isdigit():
        wanted = range(int(part), int(part) + 1)
    else:
        matching = [device for device in found if part and device.uuid.lower().startswith(part.lower())]
        if len(matching) > 1:
            raise UsageError(f"--gpus {part}: {len(matching)} GPUs have a UUID that begins so", "write more of it")
        if not matching:
            raise UnknownName("GPU", part, [*positions, *(device.uuid for device in found), "all"])
        return matching
    if wanted[-1] >= len(found):
        listed = ", ".join(f"{device.position} ({device.name})" for device in found)
        missing = max(wanted[0], len(found))
        raise UsageError(f"--gpus {part}: there is no GPU {missing} on this node", f"it has {listed}")
    return [found[position] for position in wanted]
