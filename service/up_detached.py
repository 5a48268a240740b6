"""`dljobs up --detach`: the same `up` in the background, awaited until its worker takes work or it has failed.

It owns `HOME/up.log` and the pipe on which the background process says that it is ready.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from dljobs.errors import DljobsError, ExitCode, UsageError

from .settings import Settings
from .up import UpOptions, make_home
from .up_record import UpRecord, UpState
from .worker_process import child_environment

COMMAND = (sys.executable, "-P", "-m", "dljobs.service.up")
READY_TIMEOUT_S = 180.0
MAX_LOG_BYTES = 10 << 20


def log_path(home: Path) -> Path:
    """Where a background `up`, and the worker under it, write."""
    return home / "up.log"


def start_detached(settings: Settings, options: UpOptions, *, timeout_s: float = READY_TIMEOUT_S) -> UpState:
    """Start `up` in a session of its own and wait until it is ready; returns what runs.

    Raises:
        DljobsError: another `up` runs; or this one failed, with the last lines of its log and its exit code; or it is
            not ready within `timeout_s` (it goes on starting).
    """
    make_home(settings.home)
    record = UpRecord(settings.home)
    record.refuse_second()
    log = log_path(settings.home)
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    child, reader, since = _spawn(settings, options, log)
    try:
        outcome = _await_ready(reader, timeout_s)
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        raise
    finally:
        os.close(reader)
    if outcome == "late":
        raise DljobsError(
            f"dljobs up (pid {child.pid}) is not ready after {timeout_s:g} s, and still starting",
            f"watch it with `tail -f {log}`, or stop it with `dljobs down`",
        )
    if outcome == "failed":
        raise _failure(child.wait(), log, since)
    return record.read()


def _spawn(settings: Settings, options: UpOptions, log: Path) -> tuple[subprocess.Popen[bytes], int, int]:
    """The process, the pipe to read from, and where its part of the log begins."""
    reader, writer = os.pipe()
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    since = os.fstat(descriptor).st_size
    try:
        child = subprocess.Popen(
            [*COMMAND, options.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env=child_environment(settings, writer),
            pass_fds=(writer,),
            start_new_session=True,
        )
        return child, reader, since
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
        os.close(descriptor)


def _await_ready(reader: int, timeout_s: float) -> str:
    """Returns "ready", "failed" (the pipe ended without that word) or "late"."""
    deadline = time.monotonic() + timeout_s
    said = b""
    while b"\n" not in said:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([reader], [], [], left_s)[0]:
            return "late"
        chunk = os.read(reader, 4096)
        if not chunk:
            return "failed"
        said += chunk
    return "ready"


def _failure(code: int, log: Path, since: int) -> DljobsError:
    with log.open("rb") as file:
        file.seek(since)
        lines = file.read().decode(errors="replace").strip().splitlines()[-15:]
    words = "".join(f"\n  {line}" for line in lines)
    kind = UsageError if code == ExitCode.USAGE else DljobsError
    return kind(f"dljobs up failed with exit code {code}:{words}", f"the whole log: {log}")
