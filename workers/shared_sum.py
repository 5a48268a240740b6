"""The sum of a tensor over the ranks of one host, in memory that they share.

gloo sends it through the loopback interface, by threads of its own, which have no core to themselves where each has a
rank: the gradients of a LeNet took 1.4 ms, and take 0.05 ms here. Each rank writes its numbers into a slot of its own,
waits until all have done so, and adds up the slots in the order of the ranks, so that the sum has the same bits on all
of them. It does not know what is summed.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import platform
import select
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

# Beyond this each rank would read too many slots: a ring, as gloo has it, moves less.
MOST_RANKS = 8
_SLOT_BYTES = 4 << 20  # a large tensor goes through in pieces that stay in the processor's cache
_PAGE = 4096
_COUNTER_STRIDE = 8  # in numbers of 8 bytes: each rank's counter has a cache line to itself
# A rank looks out for the others for so long, as most are there by then, and then sleeps until they wake it.
_AWAKE_S = 0.00005
_LOOK_AROUND_S = 0.1  # asleep, it looks so often whether they all live
# futex(2) has no place in the standard library. Other processors may show a counter before the numbers that it stands
# for, as x86 never does: there gloo has to do.
_MACHINE, _SYS_FUTEX = "x86_64", 202
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_EVERYBODY = 0x7FFF_FFFF
_LIBC = ctypes.CDLL(None)


class SharedSum:
    """Sums over all ranks; each method is to be called by all of them in the same order, with the same shapes."""

    def __init__(self, rank: int, memory: int, pids: list[int]) -> None:
        """`memory`: a descriptor of what they share; `pids`: of all ranks, in order. Raises OSError."""
        world_size = len(pids)
        mapped = mmap.mmap(memory, _num_bytes(world_size))
        self._rank = rank
        self._world_size = world_size
        self._round = 0
        self._arrived = memoryview(mapped).cast("q")[: world_size * _COUNTER_STRIDE : _COUNTER_STRIDE]
        shared = torch.frombuffer(mapped, dtype=torch.uint8)
        self._counters_at = shared.data_ptr()
        # Two sets in turns: whoever fills one knows that all have read it, since they have come for the other.
        self._slots = shared[_PAGE:].view(2, world_size, _SLOT_BYTES)
        # Readable once its process has ended, however it did.
        self._ends = [os.pidfd_open(pid) for pid in pids if pid != os.getpid()]

    @classmethod
    def open(cls, rank: int, world_size: int, gather: Callable[[str], list[str]]) -> SharedSum | None:
        """Share memory with the other ranks of this host; None, on all of them, where that cannot be.

        Args:
            gather: gives each rank the texts of all, in order.
        """
        if world_size > MOST_RANKS or sys.platform != "linux" or platform.machine() != _MACHINE:
            return None
        memory = _make(world_size) if rank == 0 else -1
        abouts = [json.loads(text) for text in gather(json.dumps([os.getpid(), memory]))]
        shared, why = None, ""
        try:
            pid, descriptor = abouts[0]
            theirs = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
            shared = cls(rank, theirs, [pid for pid, _ in abouts])
            os.close(theirs)
        except OSError as error:
            why = str(error)
        answers = gather(why)
        if memory >= 0:
            os.close(memory)
        return None if any(answers) else shared

    def sum(self, tensor: Tensor) -> None:
        """Put the sum of all ranks' tensors into the place of each; contiguous, on the CPU, of any type."""
        for part in self._parts(tensor):
            self._own_slot(part).copy_(part)
            self._add_up(part)

    def mean(self, tensor: Tensor) -> None:
        """As `sum`, of what each rank has divided by their number first, as DistributedDataParallel does."""
        for part in self._parts(tensor):
            torch.div(part, self._world_size, out=self._own_slot(part))
            self._add_up(part)

    def _parts(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return torch.split(tensor.view(-1), _SLOT_BYTES // tensor.element_size())

    def _own_slot(self, part: Tensor) -> Tensor:
        return self._filled(part)[self._rank]

    def _filled(self, part: Tensor) -> Tensor:
        """[ranks, numbers of the part]: the slots of this round."""
        return self._slots[self._round % 2].view(part.dtype)[:, : part.numel()]

    def _add_up(self, part: Tensor) -> None:
        first, second, *others = self._filled(part).unbind()
        self._meet()
        torch.add(first, second, out=part)
        for other in others:
            part.add_(other)

    def _meet(self) -> None:
        """Wait until every rank has filled its slot.

        Raises:
            ConnectionError: a rank has ended before.
        """
        self._round += 1
        self._arrived[self._rank] = self._round
        self._futex(self._rank, _FUTEX_WAKE, _EVERYBODY)
        awake_until = time.perf_counter() + _AWAKE_S
        for other in range(self._world_size):
            while (seen := self._arrived[other]) < self._round:
                if time.perf_counter() > awake_until:
                    self._sleep_until_news_of(other, seen)

    def _sleep_until_news_of(self, other: int, seen: int) -> None:
        self._futex(other, _FUTEX_WAIT, seen & 0xFFFF_FFFF, _Timespec(0, int(_LOOK_AROUND_S * 1e9)))
        # Its last act may have been to arrive.
        if self._arrived[other] == seen and select.select(self._ends, [], [], 0)[0] and self._arrived[other] == seen:
            raise ConnectionError("connection was closed: another rank has ended")

    def _futex(self, rank: int, operation: int, value: int, timeout: _Timespec | None = None) -> None:
        """Wake who sleeps on a rank's counter, or sleep while its lower half is `value`; others' memory counts, too."""
        address = ctypes.c_void_p(self._counters_at + rank * _COUNTER_STRIDE * 8)
        until = None if timeout is None else ctypes.byref(timeout)
        _LIBC.syscall(_SYS_FUTEX, address, operation, ctypes.c_uint32(value), until, None, 0)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def _make(world_size: int) -> int:
    """Memory without a name, of which nothing is left however the ranks end; -1 where there is none to be had."""
    try:
        memory = os.memfd_create("dljobs-sum")
        os.ftruncate(memory, _num_bytes(world_size))
    except OSError:
        return -1
    return memory


def _num_bytes(world_size: int) -> int:
    return _PAGE + 2 * world_size * _SLOT_BYTES
