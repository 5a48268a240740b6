"""The folder of one run: every path in it, what the ranks are told, and how a whole file gets there.

The supervisor writes `run.json` and `control.json` and reads the rest; the ranks do the opposite. Nothing here knows
what an event says (`channel.py`) or what an artifact holds (`weights.py`, `checkpoint.py`).
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib.metadata
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dljobs.errors import DljobsError, StorageFull
from dljobs.service.spec import JobSpec

RUN_VERSION = 1
FOLDERS = "runs"  # in the service's home
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def release() -> str:
    """Which dljobs is on the disk now, as far as a worker and its ranks must agree: what they tell each other."""
    spoken = (Path(__file__), Path(__file__).with_name("channel.py"), Path(inspect.getfile(JobSpec)))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in spoken)).hexdigest()
    return f"{importlib.metadata.version('dljobs')} ({digest[:8]})"


def folder_name(run_id: int, token: str, node_rank: int, num_parts: int) -> str:
    """What the folder of a run is called. Nodes may share a home: the parts of a run must not meet in one folder."""
    return f"{run_id}-{token[:8]}" + (f"-{node_rank}" if num_parts > 1 else "")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def run_json(self) -> Path:
        """What the ranks read first (`RunRequest`)."""
        return self.path / "run.json"

    @property
    def control_json(self) -> Path:
        """What the supervisor asks of the ranks while they run."""
        return self.path / "control.json"

    @property
    def bell(self) -> Path:
        """A pipe through which a rank says that there is something to read now."""
        return self.path / "bell"

    @property
    def artifacts(self) -> Path:
        """Whole files only; whoever has stored one may delete it."""
        return self.path / "artifacts"

    @property
    def resume_file(self) -> Path:
        """The checkpoint to continue from, put there by the supervisor."""
        return self.path / "resume.safetensors"

    @property
    def sources(self) -> Path:
        """Frozen files of the user's, each archive in a folder named by its digest."""
        return self.path / "sources"

    def events(self, rank: int) -> Path:
        """The events of a rank, one JSON object a line."""
        return self.path / f"rank-{rank}.jsonl"

    def log(self, rank: int) -> Path:
        """Standard output and standard error of a rank."""
        return self.path / f"rank-{rank}.log"

    def create(self) -> RunFolder:
        """Make the folder, readable by its owner only."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.artifacts.mkdir(mode=0o700, exist_ok=True)
        return self


@dataclass(frozen=True)
class RunRequest:
    """What a rank is told about its run; it holds no credential and no address of a server."""

    job_id: int
    run_number: int
    spec: JobSpec
    device_kind: Literal["cuda", "cpu"]
    devices: list[str]  # on this node: UUIDs of GPUs, or the names of CPU stand-ins
    world_size: int
    num_threads: int  # for each rank
    data_dir: str
    folder: str
    memory_bytes: int | None = None  # all that the run may take of a device that it shares
    resume: str | None = None  # a checkpoint to continue from
    resumes_other_job: bool = False  # whose settings may have been others
    state_dict: str | None = None  # the weights that a job of kind "evaluate" loads, and "verify" compares with
    state_dict_step: int = 0  # after which step they were those of the run
    interface: str = ""  # the network interface towards the run's other nodes; empty if there are none
    version: int = field(default=RUN_VERSION)

    def write(self) -> Path:
        """Write `run.json` into the run's folder and return its path."""
        fields = {**dataclasses.asdict(self), "spec": json.loads(self.spec.to_json())}
        path = RunFolder(Path(self.folder)).create().run_json
        path.write_text(json.dumps(fields))  # nobody reads it before it is whole, nor after a power cut
        return path

    @classmethod
    def read(cls, path: Path) -> RunRequest:
        """Read `run.json`.

        Raises:
            DljobsError: another version of dljobs wrote it.
        """
        fields: dict[str, Any] = json.loads(path.read_text())
        if fields.get("version") != RUN_VERSION:
            raise DljobsError(f"{path.name} has version {fields.get('version')!r}, this dljobs reads {RUN_VERSION}")
        return cls(**{**fields, "spec": JobSpec.from_json(json.dumps(fields["spec"]))})


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write `content` to `path` so that the file is there whole or not at all; if `durable`, also after a power cut.

    Raises:
        StorageFull: there is no room; nothing was left behind.
    """
    save_whole(path, lambda temporary: _write_bytes(temporary, content), durable=durable)


def save_whole(path: Path, save: Callable[[Path], None], *, durable: bool = True) -> None:
    """Let `save` write a temporary file beside `path`, then make it durable and give it its name.

    Raises:
        StorageFull: there is no room; nothing was left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save(temporary)
        if durable:
            _sync(temporary)
        temporary.replace(path)
        if durable:
            _sync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_no_room(error):
            raise StorageFull(
                f"no room left to write {path.name} in {path.parent}", hint="free space there, then retry the job"
            ) from error
        raise


def is_no_room(error: BaseException) -> bool:
    """Whether an error says that the disk, the quota or the file size limit is exhausted."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    # safetensors wraps the error of its own write in an exception that carries only text.
    return any(f"(os error {number})" in str(error) for number in _NO_ROOM)


def _write_bytes(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
