"""A rank: one training process, from the fork to its last event.

It owns the order of its first steps (nothing may be printed before the log is open, no CUDA before the devices are
chosen) and of its last ones. That it dies with its worker is the forkserver's care, what it trains is the trainer's.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

import torch

from . import device_memory, host_memory, strategies, workload
from .all_reduce import run_all_reduce
from .channel import EventWriter
from .failure import describe
from .folder import RunFolder, RunRequest
from .replay import Replay
from .trainer import Trainer

# How long a rank that only noticed another one's end outlives it, so that the launcher sees the cause end first.
_ECHO_DELAY_S = 0.2
_SECRETS = ("DLJOBS_DATABASE_URL", "DLJOBS_REDIS_URL")


def main(run_json: str) -> None:
    """Run one rank; the forkserver calls it in a new process, with RANK and the like of torchrun in the environment.

    Returns only after success. Any error ends the process with status 1, after its `error` event was written.
    """
    request = RunRequest.read(Path(run_json))
    rank = int(os.environ.get("RANK", "0"))
    folder = RunFolder(Path(request.folder))
    _redirect_output(folder.log(rank))
    _choose_devices(request)
    channel = EventWriter(folder.events(rank), folder.bell)
    channel.write("started", rank=rank, pid=os.getpid())
    try:
        _run(request, channel)
    except BaseException as error:  # a model that calls sys.exit() has failed, too
        failure = describe(error)
        channel.write("error", rank=rank, **failure)
        channel.close()
        _write_to_log(failure["traceback"])
        if failure["secondary"]:
            time.sleep(_ECHO_DELAY_S)
        # Not sys.exit: threads and children of a failed model could keep the process, and its device, for long.
        os._exit(1)
    channel.close()


def _run(request: RunRequest, channel: EventWriter) -> None:
    torch.set_num_threads(request.num_threads)
    torch.set_num_interop_threads(request.num_threads)
    strategy = strategies.join(request.spec.strategy, request.device_kind, len(request.devices), request.interface)
    threads = f"{request.num_threads} thread{'s' if request.num_threads > 1 else ''}"
    how = f"{strategy.device}, {threads}, {strategy.describe()}"
    print(f"rank {strategy.rank} of {strategy.world_size} on {how}", flush=True)
    channel.ring()
    device_memory.cap(strategy.device, request.memory_bytes)
    try:
        if request.spec.kind == "evaluate":
            workload.run_evaluation(request, strategy, channel)
        elif request.spec.kind == "verify":
            Replay(request, strategy, channel).run()
        elif request.spec.kind == "all-reduce":
            run_all_reduce(strategy, channel)
        else:
            trainer = Trainer(request, strategy, channel)
            host_memory.keep_freed()
            trainer.run()
    finally:
        if (peak := device_memory.peak_bytes(strategy.device)) is not None:
            channel.write("memory", peak_bytes=peak)


def _redirect_output(log: Path) -> None:
    """Send standard output and error, also those of C code and of children, to the rank's log, line by line."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    faulthandler.enable(file=2)
    if hasattr(faulthandler, "register"):
        # `kill -USR1` writes the stacks of all threads to the log: for a rank that hangs.
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)


def _choose_devices(request: RunRequest) -> None:
    """Show the run's devices, and only those, to CUDA, which reads the environment when it is first used."""
    for secret in _SECRETS:
        os.environ.pop(secret, None)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(request.devices) if request.device_kind == "cuda" else ""
    # For libraries and children that the model brings along.
    os.environ["OMP_NUM_THREADS"] = str(request.num_threads)


def _write_to_log(text: str) -> None:
    with contextlib.suppress(OSError):  # the disk is full; the event says it all
        print(text, file=sys.stderr, flush=True)
        sys.stdout.flush()
