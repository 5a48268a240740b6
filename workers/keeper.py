"""The keeper of the forkserver: there is always one that is warm, and has loaded what is on the disk.

One that was killed is replaced at once. One that has drifted (`drift.py`) is replaced by another that was warmed beside
it: launches go on from the old one until then, and it stays until its last rank has ended. It knows nothing of runs.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping

from dljobs.errors import DljobsError

from .drift import Drift, Stamp
from .folder import release
from .forkserver import Children, ForkServer, Killed, Preloaded

PRELOAD = f"{__package__}.preload"
LOOK_EVERY_S = 5.0
RETRY_S = 10.0
# Looking at thousands of files, maybe over a network, takes at most this share of the time.
_MAX_SHARE = 0.005
_FILE = re.compile(r'^ *File "([^"]+)"', re.MULTILINE)  # in a traceback

log = logging.getLogger(__name__)


class Keeper:
    """Keeps one forkserver in service. Safe in any thread."""

    def __init__(self, preload: str = PRELOAD, look_every_s: float = LOOK_EVERY_S) -> None:
        """`preload`: the module that a forkserver imports, and asks for its `report()`."""
        self._preload = preload
        self._look_every_s = look_every_s
        self._release = release()
        self._changed = threading.Condition()  # guards what follows
        self._server: ForkServer | None = None  # in service
        self._others: list[ForkServer] = []  # being warmed, or retired
        self._failure: DljobsError | None = None  # why there is none, and none being warmed just now
        self._is_closed = False
        # The thread's own.
        self._first: ForkServer | None = None
        self._preloaded = Preloaded({}, {}, [], "")
        self._drift = Drift(0, (), {})
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)

    @property
    def pid(self) -> int | None:
        """Of the forkserver that is in service; None while there is none."""
        server = self._server
        return None if server is None else server.pid

    def start(self) -> None:
        """Start the first forkserver; the environment it finds now is its own for ever."""
        self._first = self._start_one()

    def warm(self) -> None:
        """Wait until the first forkserver has imported everything (some seconds).

        Raises:
            DljobsError: a module that every rank needs cannot be imported; the message holds the traceback.
        """
        self._put_in_service(self._warm_one({}, self._first or self._start_one()))
        self._warn_of_zoo()
        self._thread.start()

    def fork(self, entry: str, argument: str, environments: list[dict[str, str]]) -> Children:
        """As `ForkServer.fork`, and wait until they are there. Where a forkserver was killed it waits for the next.

        Raises:
            DljobsError: there is none, and none can be had now; or it could not fork.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._server or self._failure or self._is_closed)
                if (server := self._server) is None:
                    raise self._failure or DljobsError("the worker is ending")
                children = server.fork(entry, argument, environments)
            try:
                children.await_fork()
            except DljobsError as error:
                children.close()
                if not isinstance(error, Killed):
                    raise
                with self._changed:
                    if self._server is server:
                        self._server = None  # the thread is about to see it
            else:
                return children

    def close(self) -> None:
        """End all forkservers, with whatever they have forked."""
        with self._changed:
            self._is_closed = True
            servers = [*self._others, *([self._server] if self._server else [])]
            self._server = None
            self._changed.notify_all()
        for server in servers:
            server.close()
        if self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        server, pause_s = self._server, self._look_every_s
        while server is not None:
            has_ended = server.has_ended(pause_s)
            if self._is_closed:
                return
            begin = time.monotonic()
            if has_ended:
                server = self._replace(server)
            elif reason := self._drift.look():
                server = self._renew(server, reason)
            else:
                pause_s = max(self._look_every_s, (time.monotonic() - begin) / _MAX_SHARE)
            self._forget_ended()

    def _replace(self, dead: ForkServer) -> ForkServer | None:
        """Another in the place of one that was killed, as soon as one can be had; None if the keeper was closed."""
        log.error("forkserver %d was killed, and its ranks with it: another is being warmed", dead.pid)
        with self._changed:
            self._server = None
        dead.close()
        while True:
            try:
                server = self._put_in_service(self._warm_one({}))
            except DljobsError as error:
                with self._changed:
                    if self._is_closed:
                        return None
                    log.error("no job can start, the next try is in %g s: %s", RETRY_S, error.message)
                    self._failure = error
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._is_closed, RETRY_S)
                    self._failure = None
            else:
                self._warn_of_zoo()
                return server

    def _renew(self, old: ForkServer, reason: str) -> ForkServer:
        """Another beside one that has drifted, or that one if it cannot be had."""
        # Warnings, for Celery shows nothing below.
        log.warning("another forkserver is being warmed: %s. Until then jobs start from forkserver %d", reason, old.pid)
        try:
            server = self._put_in_service(self._warm_one(self._drift.seen), instead_of=old)
        except DljobsError as error:
            self._drift.refuse(_FILE.findall(error.message))
            if not self._is_closed:
                log.error("jobs go on with what forkserver %d has loaded: %s", old.pid, error.message)
            return old
        log.warning("jobs start from forkserver %d now", server.pid)
        return server

    def _start_one(self) -> ForkServer:
        with self._changed:
            if self._is_closed:
                raise DljobsError("the worker is ending")
            try:
                server = ForkServer(self._preload)
            except OSError as error:
                raise DljobsError(f"the forkserver cannot be started: {error}") from None
            self._others.append(server)
        return server

    def _warm_one(self, before: Mapping[str, Stamp], server: ForkServer | None = None) -> ForkServer:
        """A new forkserver that has imported everything; `before`: what its files were before it began."""
        server = server or self._start_one()
        try:
            preloaded = server.read_preloaded()
            self._judge(preloaded, is_first=not before)
        except BaseException:
            server.close()
            raise
        self._preloaded = preloaded
        self._drift = Drift(server.pid, preloaded.files, before)
        return server

    def _judge(self, preloaded: Preloaded, *, is_first: bool) -> None:
        for name, trace in preloaded.failures.items():
            raise DljobsError(f"ranks cannot start: importing {name} failed\n{trace}")
        if is_first:
            return
        for name in preloaded.zoo_failures.keys() - self._preloaded.zoo_failures.keys():
            raise DljobsError(f"importing {name} failed\n{preloaded.zoo_failures[name]}")
        if preloaded.release != self._release:
            # It might not understand what this process writes for the ranks.
            raise DljobsError(f"dljobs is {preloaded.release} on disk, and {self._release} here: restart the worker")

    def _put_in_service(self, server: ForkServer, instead_of: ForkServer | None = None) -> ForkServer:
        with self._changed:
            self._others.remove(server)
            self._server = server
            if instead_of is not None:
                instead_of.retire()  # after all forks that were asked of it
                self._others.append(instead_of)
            self._changed.notify_all()
        return server

    def _forget_ended(self) -> None:
        with self._changed:
            self._others = [server for server in self._others if not server.reap()]

    def _warn_of_zoo(self) -> None:
        for name, trace in self._preloaded.zoo_failures.items():
            log.warning("%s cannot be imported, and jobs that need it will fail:\n%s", name, trace)
