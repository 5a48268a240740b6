"""The Redis server that dljobs runs itself, on a unix socket under its home.

It owns `HOME/redis`: configuration, password, append-only file, log and the mark of the running server. It knows
nothing of Celery's queues, and nothing of `up`, which supervises it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dljobs.errors import DljobsError, StorageFull, Unreachable

from .process_mark import ProcessMark
from .redis_binary import find_redis_binary
from .settings import SECRET_VARIABLES

if TYPE_CHECKING:
    from redis import Redis

# What fits in sockaddr_un.sun_path beside the final NUL.
SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103
MAX_LOG_BYTES = 1 << 20
START_TIMEOUT_S = 30.0
SILENCE_TIMEOUT_S = 10.0
STOP_PATIENCE_S = 10.0
_POLL_S = 0.01


class EmbeddedRedis:
    """The server of one home: started once, found by everyone else.

    Args:
        home: DLJOBS_HOME. Where its path is too long for a unix socket, the socket alone moves to a private folder
            under the temp folder.
    """

    def __init__(self, home: Path) -> None:
        self.folder = home.resolve() / "redis"
        self.config_path = self.folder / "redis.conf"
        self.log_path = self.folder / "redis.log"
        self._password_path = self.folder / "password"
        self._record_path = self.folder / "server.json"
        self._child: subprocess.Popen[bytes] | None = None  # kept to be reaped, if this process started the server

    @property
    def socket_path(self) -> Path:
        """Where the server listens, or will: what the running server wrote down wins, since TMPDIR may differ here."""
        recorded = self._read_record().get("socket")
        return Path(recorded) if isinstance(recorded, str) else choose_socket_path(self.folder)

    @property
    def password(self) -> str:
        """What AUTH wants.

        Raises:
            Unreachable: no server was ever started in this home.
        """
        try:
            return self._password_path.read_text().strip()
        except FileNotFoundError:
            hint = "start the service with `dljobs up`, or set DLJOBS_REDIS_URL"
            raise Unreachable(f"no embedded Redis was ever started in {self.folder.parent}", hint) from None

    @property
    def url(self) -> str:
        """The URL for redis-py; raises as `password`, which it holds: `settings.mask` before it is shown."""
        return f"unix://:{self.password}@{quote(str(self.socket_path))}?db=0"

    @property
    def broker_url(self) -> str:
        """The same server in kombu's words; it raises as `url` does. (kombu knows no `unix://`.)"""
        return f"redis+socket://:{self.password}@{quote(str(self.socket_path))}?virtual_host=0"

    def client(self, timeout_s: float = 5.0) -> Redis:
        """A redis-py client that fails at once instead of trying ten times; it raises as `url` does."""
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        retry = Retry(NoBackoff(), 0)
        return Redis.from_url(self.url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=retry)

    @property
    def pid(self) -> int | None:
        """The running server's process id."""
        mark = self._mark()
        return mark.pid if mark and mark.is_alive() else None

    def is_running(self) -> bool:
        """Whether our server's process lives: cheap, asks the kernel. `answers` asks the server."""
        if self._child is not None:
            self._child.poll()
        return self.pid is not None

    def answers(self, timeout_s: float = 5.0) -> bool:
        """Whether the server answers PING with our password."""
        return self._ping(timeout_s) == ""

    def start(self) -> bool:
        """Make sure the server runs and answers. It outlives this process: `stop` ends it.

        Returns:
            True if it was started now, False if it ran already.

        Raises:
            DljobsError: there is no redis-server, or it does not come up; with the server's own last words.
            StorageFull: the disk has no room for its files.
        """
        with _storage_errors(self.folder):
            for folder in (self.folder, choose_socket_path(self.folder).parent):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                _insist_private(folder)
            with self._lock():
                if self._find_running():
                    return False
                self._write_configuration()
                self._launch()
                return True

    def stop(self) -> str:
        """End the server, which writes what it holds to disk first.

        Returns:
            "gone" if it did not run, "stopped", or "killed" if SIGTERM was not enough.
        """
        if not self.folder.is_dir():
            return "gone"
        with self._lock():
            return self._end()

    def end_child(self) -> None:
        """End the server that this object started, whatever has become of its folder."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()

    def last_log_lines(self, since: int = 0, num_lines: int = 8) -> list[str]:
        """The server's last words, written after byte `since` of its log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(since, log.seek(0, os.SEEK_END) - 16384))
                return log.read().decode(errors="replace").strip().splitlines()[-num_lines:]
        except OSError:
            return []

    # ---- what is in the folder

    def _write_configuration(self) -> None:
        try:
            password = self.password
        except Unreachable:
            password = secrets.token_urlsafe(32)
            _write_private(self._password_path, password + "\n")
        lines = {
            "port": "0",  # no TCP at all
            "unixsocket": _quoted(str(choose_socket_path(self.folder))),
            "unixsocketperm": "600",
            "requirepass": password,
            "dir": _quoted(str(self.folder)),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "always-show-logo": "no",
        }
        _write_private(self.config_path, "".join(f"{name} {value}\n" for name, value in lines.items()))

    def _read_record(self) -> dict[str, Any]:
        try:
            record = json.loads(self._record_path.read_text())
        except (OSError, ValueError):
            return {}
        # A copy of a home must not take the original's server for its own.
        return record if isinstance(record, dict) and record.get("folder") == str(self.folder) else {}

    def _mark(self) -> ProcessMark | None:
        return ProcessMark.from_json(self._read_record())

    def _record(self, pid: int) -> None:
        mark = ProcessMark.of(pid)
        if mark is not None:
            where = {"folder": str(self.folder), "socket": str(choose_socket_path(self.folder))}
            _write_private(self._record_path, json.dumps(mark.to_json() | where) + "\n")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.folder / "start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # ---- starting and ending, under the lock

    def _find_running(self) -> bool:
        """Whether our server runs already; one that lives and does not answer is ended."""
        mark = self._mark()
        if mark and mark.is_alive():
            if not self._await_answer(mark.is_alive, SILENCE_TIMEOUT_S):
                return True
            self._end()  # it would go on writing the file that the next server reads
        elif self.answers():
            # Whoever started it died before writing that down.
            client = self.client()
            self._record(int(client.info("server")["process_id"]))
            client.close()
            return True
        socket_path = choose_socket_path(self.folder)
        stranger = _listener_pid(socket_path)
        if stranger is not None:
            raise DljobsError(
                f"process {stranger} listens on {socket_path} and does not take the password in {self._password_path}",
                hint=f"if it is a redis-server left from a deleted home, `kill {stranger}` and try again",
            )
        return False

    def _launch(self) -> None:
        binary = find_redis_binary()
        if self.log_path.exists() and self.log_path.stat().st_size > MAX_LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        descriptor = os.open(self.log_path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab") as log:
            since = log.seek(0, os.SEEK_END)
            child = self._child = subprocess.Popen(
                [binary.path, self.config_path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES},
                start_new_session=True,  # neither Ctrl-C nor the end of the starter's terminal reaches it
            )
        self._record(child.pid)
        reason = self._await_answer(lambda: child.poll() is None, START_TIMEOUT_S)
        if reason:
            self._end()
            words = "\n".join(f"  {line}" for line in self.last_log_lines(since))
            raise DljobsError(
                f"the embedded Redis ({binary.path}) {reason}" + (f"; its last words:\n{words}" if words else ""),
                hint=f"if its file is damaged, move {self.folder}/appendonly* away and run `dljobs up` again: "
                "it holds doorbells only, every job is in the database",
            )

    def _end(self) -> str:
        mark = self._mark()
        outcome = mark.end(STOP_PATIENCE_S) if mark else "gone"
        if self._child is not None:
            self._child.poll()
        self._record_path.unlink(missing_ok=True)
        return outcome

    def _await_answer(self, is_alive: Callable[[], bool], timeout_s: float) -> str:
        """Wait until the server answers. Returns why it does not, "" when it does."""
        deadline = time.monotonic() + timeout_s
        while is_alive():
            said = self._ping()
            if not said:
                return ""
            if said.startswith("loading"):  # a long file takes its time, and a death is noticed above
                deadline = time.monotonic() + timeout_s
            elif time.monotonic() > deadline:
                return f"did not answer within {timeout_s:g} s: {said}"
            time.sleep(_POLL_S)
        return "ended while it started"

    def _ping(self, timeout_s: float = 5.0) -> str:
        """What the server says to PING: "" is PONG, "loading: …" while it reads its file, else what went wrong."""
        from redis.exceptions import BusyLoadingError, RedisError

        try:
            with self.client(timeout_s) as client:
                client.ping()
        except BusyLoadingError as error:
            return f"loading: {error}"
        except (RedisError, OSError, Unreachable) as error:
            return str(error) or type(error).__name__
        return ""


def choose_socket_path(folder: Path) -> Path:
    """`folder/redis.sock`; where that is too long for a socket, a path under the temp folder named after `folder`."""
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    name = f"dljobs-{os.getuid()}-{digest}"
    path = Path(tempfile.gettempdir()) / name / "redis.sock"
    # A TMPDIR can be deep as well.
    return path if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT else Path("/tmp") / name / "redis.sock"  # noqa: S108


def _insist_private(folder: Path) -> None:
    """Raises DljobsError unless `folder` is a real directory of ours; takes everyone else's rights away."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        whose = "is a link or a file" if not stat.S_ISDIR(found.st_mode) else f"belongs to user {found.st_uid}"
        raise DljobsError(
            f"{folder} {whose}: no secret goes there", hint="remove it, or set DLJOBS_HOME to a folder of yours"
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)


def _write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _quoted(text: str) -> str:
    """A value in redis.conf: spaces and the like survive within double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _listener_pid(path: Path) -> int | None:
    """The process that listens on a unix socket (0 where the system does not tell), or None if nobody does."""
    import socket
    import struct

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
        except OSError:
            return None
        if not hasattr(socket, "SO_PEERCRED"):
            return 0
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull(
                f"no room for the embedded Redis in {folder}", "free some disk space and try again"
            ) from None
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
            raise DljobsError(
                f"cannot write {error.filename or folder}: {error.strerror}", "set DLJOBS_HOME to a folder of yours"
            ) from None
        raise
