"""Health: whether the devices of a worker may be used, checked before each run and now and then while they are idle.

A GPU has to answer, to be free of uncorrected memory errors and of processes that are not ours; and a program of the
site's own (`health_command`) may have the last word on any device. What fails goes into quarantine
(`service/quarantine.py`), the worker's other devices stay.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
from sqlalchemy import Connection

from dljobs.errors import UsageError
from dljobs.service import offers, quarantine
from dljobs.service.database import Database
from dljobs.service.gpus import GpuFault, GpuState, Nvml
from dljobs.service.quarantine import Fault
from dljobs.service.settings import Settings
from dljobs.service.statements import Row

# The memory of a process that has just died, such as a rank of the run before, is free a moment later.
PATIENCE_S = 3.0
POLL_S = 0.1
COMMAND_TIMEOUT_S = 30.0
MAX_AT_ONCE = 8

Check = Callable[[Row], list[Fault]]  # of a device's row

logger = logging.getLogger(__name__)


@dataclass
class Examined:
    """What was found: devices (by id) with a fault, and those without; one with an accepted fault is neither."""

    faults: dict[int, Fault] = field(default_factory=dict)
    well: set[int] = field(default_factory=set)


class Health:
    """The health of one worker's devices.

    Args:
        retry_s: a device that failed is checked again after so long, then after twice that, and so on.
    """

    def __init__(
        self, database: Database, checks: Sequence[Check], *, worker_id: int, actor: str, retry_s: float
    ) -> None:
        self._database = database
        self._checks = checks
        self._worker_id = worker_id
        self._actor = actor
        self._retry_s = retry_s

    def refuse(self, devices: Sequence[Row]) -> str:
        """Check devices that a run is about to use; those that fail go into quarantine. "" if all may be used."""
        faults = self._look_at(devices)
        if not any(faults.values()):
            return ""  # what is known against them is asked for only where it matters
        with self._database.read() as connection:
            known = quarantine.list_known(connection, list(faults))
        found = _judge(faults, known)
        failed = [device for device in devices if device["id"] in found.faults]
        if failed:
            with self._database.write() as connection:
                self._quarantine(connection, failed, found)
        return "; ".join(f"device {each['uuid']} cannot be used: {found.faults[each['id']].text}" for each in failed)

    def look_round(self) -> bool:
        """Check the devices that nobody uses; whether one of them has come out of quarantine."""
        with self._database.read() as connection:
            idle = self._list_idle(connection)
            known = quarantine.list_known(connection, [device["id"] for device in idle])
        # One that failed has an interval of its own, which grows.
        due = [each for each in idle if each["id"] not in known or known[each["id"]]["is_due"]]
        found = _judge(self._look_at(due), known)
        recovered = [device for device in due if device["id"] in found.well and device["id"] in known]
        if not found.faults and not recovered:
            return False
        with self._database.write() as connection:
            still_idle = {device["id"] for device in self._list_idle(connection)}
            # Of a device that has been given to a run since, it is the run's own processes that may have been seen.
            failed = [each for each in due if each["id"] in found.faults and each["id"] in still_idle]
            self._quarantine(connection, failed, found)
            lifted = [quarantine.lift(connection, device, actor=self._actor) for device in recovered]
        return any(lifted)

    def _list_idle(self, connection: Connection) -> list[Row]:
        held = {row["device_id"] for row in offers.held_devices(connection)}
        offered = offers.list_devices(connection)
        return [row for row in offered if row["worker_id"] == self._worker_id and row["id"] not in held]

    def _quarantine(self, connection: Connection, devices: Sequence[Row], found: Examined) -> None:
        for device in devices:
            fault = found.faults[device["id"]]
            logger.warning("device %s is quarantined: %s", device["uuid"], fault.text)
            quarantine.quarantine(connection, device, fault, actor=self._actor, retry_s=self._retry_s)

    def _look_at(self, devices: Sequence[Row]) -> dict[int, list[Fault]]:
        """What is wrong with each of these devices, by id."""
        if len(devices) < 2:
            return {device["id"]: self._faults_of(device) for device in devices}
        with ThreadPoolExecutor(min(len(devices), MAX_AT_ONCE)) as pool:
            return dict(zip((device["id"] for device in devices), pool.map(self._faults_of, devices), strict=True))

    def _faults_of(self, device: Row) -> list[Fault]:
        return [fault for check in self._checks for fault in check(device)]


def _judge(faults_of: Mapping[int, list[Fault]], known: Mapping[int, Row]) -> Examined:
    """Which devices may be used, where some faults were accepted."""
    found = Examined()
    for device_id, faults in faults_of.items():
        row = known.get(device_id)
        accepted = row["fault_key"] if row is not None and row["released_at"] is not None else ""
        held_against = next((fault for fault in faults if not fault.key or fault.key[:200] != accepted), None)
        if held_against is not None:
            found.faults[device_id] = held_against
        elif not faults:
            found.well.add(device_id)
    return found


def make_checks(settings: Settings) -> list[Check]:
    """The checks that these settings ask for.

    Raises:
        UsageError: `health_command` is no command.
    """
    checks: list[Check] = [GpuCheck(Nvml().state)]
    if settings.health_command:
        checks.append(CommandCheck(settings.health_command))
    return checks


class GpuCheck:
    """What NVML says of a GPU; a CPU stand-in is always well.

    In a container without the host's pid namespace NVML may name processes by numbers that mean nothing here, those of
    our own ranks among them. Whose they are cannot be told: only a process that can be found here counts as foreign.

    Args:
        look: tells how the GPU of a UUID is, or raises GpuFault.
    """

    def __init__(self, look: Callable[[str], GpuState], patience_s: float = PATIENCE_S) -> None:
        self._look = look
        self._patience_s = patience_s
        self._has_told_of_unknown = False

    def __call__(self, device: Row) -> list[Fault]:
        if device["kind"] != "cuda":
            return []
        deadline = time.monotonic() + self._patience_s
        try:
            state = self._look(device["uuid"])
            while foreign := self._foreign(state):
                if time.monotonic() >= deadline:
                    break
                time.sleep(POLL_S)
                state = self._look(device["uuid"])
        except GpuFault as fault:
            return [Fault(f"it does not answer: {fault}")]
        faults = [Fault(_describe_process(pid, used), f"process {pid}") for pid, used in foreign]
        if state.has_bad_rows:
            faults.append(Fault("a row of its memory failed and could not be replaced", "bad rows"))
        if state.uncorrected_errors:
            number = state.uncorrected_errors
            text = f"{number} uncorrected memory error{'s' if number > 1 else ''} since its last reset"
            faults.append(Fault(text, f"errors {number}"))
        elif state.awaits_reset:
            faults.append(Fault("a row of its memory failed; it has to be reset to replace it", "awaits reset"))
        return faults

    def _foreign(self, state: GpuState) -> list[tuple[int, int | None]]:
        """The processes on a GPU that can be found here, and that this worker has not started."""
        if not state.processes:
            return []
        ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        others = [(pid, used) for pid, used in state.processes if pid not in ours]
        found = [(pid, used) for pid, used in others if _is_here(pid)]
        if len(found) < len(others) and not self._has_told_of_unknown:
            self._has_told_of_unknown = True
            logger.info(
                "NVML names processes that cannot be found here: they have just ended, or are of another pid "
                "namespace, and then nothing can be held against their device (a container can share the host's: "
                "--pid=host)"
            )
        return found


class CommandCheck:
    """A program of the site's own, called with the device's UUID: all is well if it exits with 0."""

    def __init__(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"health_command {command!r} cannot be read: {error}") from None
        self._timeout_s = timeout_s

    def __call__(self, device: Row) -> list[Fault]:
        try:
            with subprocess.Popen(
                [*self._command, device["uuid"]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            ) as process:
                try:
                    said, _nothing = process.communicate(timeout=self._timeout_s)
                except subprocess.TimeoutExpired:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
                    return [Fault(f"{self._command[0]} did not end within {self._timeout_s:g} s")]
        except OSError as error:
            return [Fault(f"{self._command[0]} cannot be run: {error.strerror}")]
        if process.returncode == 0:
            return []
        lines = [*filter(None, map(str.strip, said.splitlines())), f"it exits with {process.returncode}"]
        return [Fault(f"{self._command[0]}: {lines[0][:300]}", lines[0])]


def _is_here(pid: int) -> bool:
    """Whether a process of this pid namespace has that number, be it one that is hidden from us."""
    if not 0 < pid < 2**31:  # NVML has an unsigned one, and os.kill takes 0 for all of us
        return False
    try:
        os.kill(pid, 0)  # signals nobody
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _describe_process(pid: int, used_bytes: int | None) -> str:
    try:
        process = psutil.Process(pid)
        who = f"process {pid} ({process.name()}) of {process.username()}"
    except psutil.Error:
        who = f"process {pid}, of which nothing can be seen here,"
    return f"{who} holds {'its memory' if used_bytes is None else f'{used_bytes / 1e9:.1f} GB of its memory'}"
