"""The forkserver: a process of one thread that has imported all that ranks need, and forks them. Both ends of it.

`ForkServer` is the worker's handle of it, `main` the process. They speak over a pair of sockets that nobody else can
reach, with a further pair for each launch. It knows neither runs nor what ranks compute, and imports no torch: what is
to be loaded is the preload module's business.

Why not multiprocessing's own: that one is one for a process and for ever, each rank would be pickled, watched through
pipes and semaphores of a third process, and it cannot say whether a rank returned or merely left with status 0.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from dljobs.errors import DljobsError

from .temporary import use_temporary, used_temporary

_PROGRAM = """import json, sys
about = json.loads(sys.argv[1])
sys.path[:0] = [place for place in about["path"] if place not in sys.path]
from dljobs.workers.forkserver import main
main(about["socket"], about["preload"], about["temporary"])"""
# Sent over the control socket: with a launch's socket, or alone.
_FORK, _RETIRE = b"f", b"r"
_END_WITHIN_S = 10.0
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # Linux
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Killed(DljobsError):
    """The forkserver is gone, and its children with it: nobody can tell how they ended."""


@dataclass(frozen=True)
class Preloaded:
    """What a new forkserver says of its imports."""

    failures: dict[str, str]  # of a module that every rank needs: its traceback
    zoo_failures: dict[str, str]  # of one that only some jobs need
    files: list[str]  # of all modules
    release: str  # of dljobs


class ForkServer:
    """A forkserver that was started by this process, and ends with it."""

    def __init__(self, preload: str) -> None:
        """Start it; it imports the module `preload`, whose `report()` fills in a `Preloaded`. Safe in any thread."""
        self._control, theirs = socket.socketpair()
        about = {"socket": theirs.fileno(), "path": sys.path, "preload": preload, "temporary": used_temporary()}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, json.dumps(about)],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # A terminal's Ctrl-C and hang-up go to its whole session; ranks end by their supervisor's word only.
                start_new_session=True,
                # OpenMP reads this when torch is loaded. Its threads would else spin where they wait for each other,
                # and on a host with other work they spin in the way of the very thread they wait for: LeNet on two
                # threads of two busy cores made 8 to 70 steps a second, with this 90 to 200. Whoever has the machine
                # to himself may set ACTIVE.
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
            )
        self.pid = self._process.pid
        self._is_warm = False

    def read_preloaded(self) -> Preloaded:
        """Wait until everything is imported (some seconds).

        Raises:
            DljobsError: it has ended before.
        """
        with self._control.makefile("rb") as words:
            line = words.readline()
        if not line.endswith(b"\n"):
            raise DljobsError("the forkserver ended before it was ready", "its last words are in the worker's log")
        self._is_warm = True
        return Preloaded(**json.loads(line))

    def fork(self, entry: str, argument: str, environments: list[dict[str, str]]) -> Children:
        """Ask for a process for each environment, which is to call `entry` ("module:function") with the argument."""
        ours, theirs = socket.socketpair()
        with theirs:
            request = {"entry": entry, "argument": argument, "environments": environments}
            # Before its socket: the forkserver never has to wait for it.
            ours.sendall(json.dumps(request).encode() + b"\n")
            with suppress(OSError):  # it is gone: so says the other end
                socket.send_fds(self._control, [_FORK], [theirs.fileno()])
        return Children(ours)

    def retire(self) -> None:
        """Let it end once its last child has ended."""
        with suppress(OSError):
            self._control.sendall(_RETIRE)

    def has_ended(self, within_s: float = 0.0) -> bool:
        """Whether it is gone, or is soon; at once when it goes."""
        return bool(_readable([self._control.fileno()], within_s))

    def reap(self) -> bool:
        """Take note of its end, if it has ended: else a zombie stays."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End it, and all its children with their sessions."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        if not self._is_warm:  # it has no children, and hears nothing before it is
            self._process.kill()
        try:
            self._process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True)
class End:
    """How a child ended."""

    number: int  # of its environment in the request
    exitcode: int  # as of subprocess: negative for a signal
    has_returned: bool  # from `entry`; a child may also leave with status 0 on its own


class Children:
    """The children of one request, as the worker sees them. For one thread."""

    def __init__(self, words: socket.socket) -> None:
        self._words = words
        self._unread = b""
        self._ends: list[End] = []
        self.pids: list[int] = []  # in the order of their environments

    def await_fork(self) -> None:
        """Wait until they are there.

        Raises:
            Killed: they are not, and never will be.
            DljobsError: not all of them could be forked (no memory, too many processes), and so none is left.
        """
        told, *ends = self._read()
        if told["error"]:
            raise DljobsError(f"could not fork: {told['error']}")
        self.pids = list(told["pids"])
        self._ends = [End(**end) for end in ends]

    def read_ends(self, timeout_s: float | None = None, bell: int | None = None) -> list[End]:
        """Wait for ends, and return them in their order: none after `timeout_s`, or when `bell` can be read.

        Raises:
            Killed: no more will come.
        """
        ends, self._ends = self._ends, []
        if not ends and self._words.fileno() in _readable([self._words.fileno(), bell], timeout_s):
            ends = [End(**told) for told in self._read()]
        return ends

    def close(self) -> None:
        """Ask nothing more."""
        self._words.close()

    def _read(self) -> list[dict[str, Any]]:
        while b"\n" not in self._unread:
            try:
                more = self._words.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                raise Killed("the forkserver was killed, and all ranks with it")
            self._unread += more
        lines, _newline, self._unread = self._unread.rpartition(b"\n")
        return [json.loads(line) for line in lines.splitlines()]


def _readable(descriptors: Sequence[int | None], within_s: float | None) -> set[int]:
    poll = select.poll()  # not `select.select`: a worker may have more than 1024 files open
    for descriptor in descriptors:
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _event in poll.poll(None if within_s is None else max(within_s, 0) * 1000)}


def main(control: int, preload: str, temporary: str | None) -> NoReturn:
    """The forkserver's process: import, say so, and fork until the worker is gone or wants no more."""
    use_temporary(temporary)
    preloaded = _preload(preload)
    with socket.socket(fileno=control) as connection:
        connection.set_inheritable(False)
        with suppress(OSError):  # the worker is gone: the first read will say so
            connection.sendall(json.dumps(asdict(preloaded)).encode() + b"\n")
        _Server(connection).serve()
    # A teardown takes long, and complains of leaks in Triton.
    os._exit(0)


def _preload(name: str) -> Preloaded:
    try:
        preloaded: Preloaded = importlib.import_module(name).report()
    except BaseException:
        return Preloaded({name: traceback.format_exc()}, {}, [], "")
    return preloaded


@dataclass
class _Request:
    """What a worker asked for, and to whom its children's ends are told."""

    words: socket.socket
    num_running: int = 0

    def tell(self, **told: Any) -> None:
        with suppress(OSError):  # nobody listens any more
            self.words.sendall(json.dumps(told).encode() + b"\n")


@dataclass
class _Child:
    request: _Request
    number: int
    returned: int  # reading end of a pipe into which the child writes that it has returned


@dataclass
class _Server:
    control: socket.socket
    children: dict[int, _Child] = field(default_factory=dict)  # by pid

    def serve(self) -> None:
        """Until the worker is gone; or until it wants no more children and the last one has ended."""
        awake, self._waker = socket.socketpair()
        for end in (awake, self._waker):
            end.setblocking(False)
        self._awake = awake
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self._waker.fileno())
        may_come = True
        while self.children or may_come:
            ready, _, _ = select.select([self.control, awake], [], [])
            if awake in ready:
                awake.recv(1 << 12)
                for pid, status in _ended_children():
                    self._note_end(pid, status)
            if self.control in ready:
                word, files = self._listen()
                if word == _FORK:
                    self._fork_all(socket.socket(fileno=files[0]))
                elif word == _RETIRE:
                    may_come = False
                else:
                    self._kill_all()
                    return

    def _listen(self) -> tuple[bytes, list[int]]:
        try:
            # One at a time: so a socket cannot be taken for that of another request.
            word, files, _flags, _address = socket.recv_fds(self.control, 1, 1, _CLOSE_ON_EXEC)
        except OSError:
            return b"", []
        return word, list(files)

    def _fork_all(self, words: socket.socket) -> None:
        with words.makefile("rb") as file:
            line = file.readline()
        if not line:  # the worker died in the middle of it
            return
        asked = json.loads(line)
        request, pids, error = _Request(words), [], ""
        try:
            for number, environment in enumerate(asked["environments"]):
                pids.append(self._fork(request, number, environment, asked["entry"], asked["argument"]))
        except OSError as failure:
            error = str(failure)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        request.tell(pids=pids, error=error)

    def _fork(self, request: _Request, number: int, environment: dict[str, str], entry: str, argument: str) -> int:
        told, tells = os.pipe()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os.close(told)
            os.close(tells)
            raise
        if not pid:
            self._leave(request, told)
            _be_child(parent, tells, environment, entry, argument)
        os.close(tells)
        os.set_blocking(told, False)
        self.children[pid] = _Child(request, number, told)
        request.num_running += 1
        return pid

    def _leave(self, request: _Request, told: int) -> None:
        """In a child: give up what is the forkserver's, so that its end is seen by all who wait for it."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.default_int_handler)
        for end in (self.control, self._awake, self._waker, request.words):
            end.close()
        os.close(told)
        for child in self.children.values():
            child.request.words.close()
            os.close(child.returned)

    def _note_end(self, pid: int, status: int) -> None:
        child = self.children.pop(pid, None)
        if child is None:
            return
        try:
            has_returned = os.read(child.returned, 1) != b""
        except BlockingIOError:  # a process that the child left behind holds the pipe
            has_returned = False
        os.close(child.returned)
        request = child.request
        exitcode = os.waitstatus_to_exitcode(status)
        request.tell(number=child.number, exitcode=exitcode, has_returned=has_returned)
        request.num_running -= 1
        if not request.num_running:
            request.words.close()

    def _kill_all(self) -> None:
        """The worker is gone. The children die by PR_SET_PDEATHSIG, and what they have started by this."""
        for pid in self.children:
            for kill in (os.kill, os.killpg):
                with suppress(ProcessLookupError, PermissionError):
                    kill(pid, signal.SIGKILL)


def _ended_children() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, status


def _be_child(parent: int, tells: int, environment: dict[str, str], entry: str, argument: str) -> NoReturn:
    status = 1
    try:
        _die_with(parent)
        os.environ.update(environment)
        _find(entry)(argument)
        sys.stdout.flush()
        os.write(tells, b"r")
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        # Threads and children of a model could keep the process for long, and a teardown of torch costs 0.6 s.
        os._exit(status)


def _die_with(parent: int) -> None:
    """Make sure that this process ends when the forkserver does, which ends with the worker."""
    os.setsid()  # its own session: the launcher kills this process with all its children
    if sys.platform == "linux":
        # The parent has a single thread, so this is not about one that may end.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have ended before that call.
    if os.getppid() != parent:
        os._exit(1)


def _find(entry: str) -> Callable[[str], None]:
    module, _colon, name = entry.partition(":")
    found: Callable[[str], None] = getattr(importlib.import_module(module), name)
    return found
