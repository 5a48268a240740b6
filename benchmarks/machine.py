"""The machine that measures: what it is, what is installed on it, and whether it has other work to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("dljobs", "torch", "celery", "kombu", "redis", "sqlalchemy")
_BUSY_SAMPLE_S = 1.0
# Above either of these, others have a say in the figures.
_LOADED_PER_CORE = 0.3
_LOADED_SHARE = 0.15


@dataclass(frozen=True)
class Machine:
    """What figures depend on; no name and no path of the machine."""

    system: str
    processor: str
    num_cores: int
    memory_gib: float
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        cores = f"{self.num_cores} core{'s' if self.num_cores > 1 else ''}"
        return f"{self.processor}, {cores}, {self.memory_gib:g} GiB, {self.system}; {versions}"


@dataclass(frozen=True)
class Load:
    """How busy the machine was before anything of ours ran."""

    load_average_1min: float
    busy_share: float  # of all cores, over one second
    num_cores: int

    @classmethod
    def read(cls) -> Load:
        """Look for a second; call it when nothing of ours runs."""
        busy = psutil.cpu_percent(_BUSY_SAMPLE_S) / 100
        return cls(round(os.getloadavg()[0], 2), round(busy, 3), num_cores())

    @property
    def is_loaded(self) -> bool:
        return self.load_average_1min > _LOADED_PER_CORE * self.num_cores or self.busy_share > _LOADED_SHARE

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_loaded": self.is_loaded}

    def __str__(self) -> str:
        figures = f"load average {self.load_average_1min:.2f}, {self.busy_share:.0%} of {self.num_cores} cores busy"
        if not self.is_loaded:
            return f"The machine was quiet before the start ({figures})."
        return (
            f"THE MACHINE WAS LOADED before the start ({figures}): ratios of interleaved rounds mean something, "
            "seconds little. Run it again when it is quiet."
        )


class OtherWork:
    """How much of the machine others took since this was made: the part of the load that a benchmark cannot know."""

    def __init__(self) -> None:
        self._busy_s, self._ours_s, self._at = _busy_s(), _ours_s(), time.monotonic()

    def share(self) -> float:
        """Of all cores, from 0 to 1; call it when all that was started has ended and was waited for."""
        others_s = (_busy_s() - self._busy_s) - (_ours_s() - self._ours_s)
        return round(max(0.0, others_s / (time.monotonic() - self._at) / (psutil.cpu_count() or 1)), 3)


def _busy_s() -> float:
    times = psutil.cpu_times()._asdict()
    # A guest's time is in the user's already.
    counted = ("user", "nice", "system", "irq", "softirq", "steal")
    return float(sum(times.get(name, 0.0) for name in counted))


def _ours_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> Machine:
    """This machine, and what is installed in this environment."""
    versions = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
    commit = _commit()
    return Machine(
        system=f"{platform.system()} {platform.release().partition('-')[0]}",
        processor=_processor(),
        num_cores=num_cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        versions=versions | ({"commit": commit} if commit else {}),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _commit() -> str:
    """What was measured; a `+` says that the working tree had changes. Empty outside of a clone."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
