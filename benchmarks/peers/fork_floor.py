"""The physical floor of a start: ranks forked from a process that has torch loaded, with nobody to supervise them.

`python -m benchmarks.peers.fork_floor` reads a number of ranks from each line of its input, and answers with the
seconds from before the first fork to the end of rank 0's first step.
"""

from __future__ import annotations

import datetime
import os
import socket
import time
import traceback

import torch
import torch._dynamo  # the first optimizer would import it, in each rank
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from .answers import answer_all
from .one_step import take_first_step

_TIMEOUT = datetime.timedelta(seconds=60)


def measure(world_size: int) -> float:
    """Seconds from before the first fork to the end of rank 0's first step.

    Raises:
        RuntimeError: a rank failed; it has written why to standard error.
    """
    reader, writer = os.pipe()
    # Bound before the fork, so that all ranks know the port and none has to wait for another to tell it.
    listener = socket.create_server(("127.0.0.1", 0))
    begin = time.monotonic()
    pids = [_fork_rank(rank, world_size, listener, writer) for rank in range(world_size)]
    os.close(writer)
    listener.close()
    with os.fdopen(reader) as answers:
        end = answers.read()
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    if any(statuses) or not end:
        raise RuntimeError(f"the ranks ended with {statuses}")
    return float(end) - begin


def _fork_rank(rank: int, world_size: int, listener: socket.socket, writer: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world_size))
        if world_size > 1:
            store = _join(rank, world_size, listener)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
        at = take_first_step(world_size)
        if rank == 0:
            os.write(writer, repr(at).encode())
        if world_size > 1:
            dist.barrier()  # rank 0 holds the store: nobody leaves before the others are done with it
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # never on with the parent's questions


def _join(rank: int, world_size: int, listener: socket.socket) -> Store:
    port = listener.getsockname()[1]
    if rank == 0:
        return TCPStore(
            "127.0.0.1", port, world_size, True, _TIMEOUT, wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )  # fmt: skip
    listener.close()
    return TCPStore("127.0.0.1", port, world_size, False, _TIMEOUT, wait_for_workers=False)


if __name__ == "__main__":
    answer_all(lambda line: measure(int(line)))
