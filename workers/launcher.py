"""The launcher: starts the ranks of a run warm, under torchrun's agent, and knows how each of them ended.

It owns the agents' threads and the ranks' processes. It lives in the worker's process; it does not know what ranks
compute, nor jobs, leases or databases, and leaves the forkserver, their parent, to its keeper.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Any

from torch.distributed.elastic.agent.server.api import (
    RunResult,
    SimpleElasticAgent,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.events.api import Event, EventSource

from dljobs.errors import DljobsError

from .folder import RunFolder
from .forkserver import Children, Killed
from .keeper import Keeper
from .rendezvous import Rendezvous, alone, host

log = logging.getLogger(__name__)

RANK = f"{__package__}.rank:main"
# After one rank has ended, the others get so long to write down what they noticed.
LAST_WORDS_S = 1.0
# Ranks that do next to nothing end within that after their first line: whoever hears of both at once has half the work.
_MOMENT_S = 0.004
_NO_EVENT = Event("", EventSource.AGENT)
_NO_PAUSE_S = 1e-6  # torchrun sleeps this long before each look; ours waits for news instead


@dataclass(frozen=True)
class RankExit:
    """How a rank ended: `exitcode` is 0, positive as the rank returned it, or the negative number of a signal."""

    rank: int
    pid: int
    exitcode: int
    at: float  # when the launcher noticed, in epoch seconds
    was_killed: bool  # by the launcher, for whatever reason: another exit came first, or `Launch.kill` was called


class Launch:
    """The ranks of one run on this node, from their start to the last one's end."""

    def __init__(self, folder: RunFolder, num_ranks: int, rendezvous: Rendezvous, first_rank: int) -> None:
        self.folder = folder
        self.num_ranks = num_ranks
        self.rendezvous = rendezvous
        self.first_rank = first_rank
        self.done = threading.Event()
        self.error: str | None = None  # the agent's own, such as no free port or no memory for a fork
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._bell = -1
        self._children: Children | None = None
        self._pids: list[int] = []
        self._exits: list[RankExit] = []
        self._is_killed = False
        self._left_at: float | None = None  # when the first rank did so without having returned; monotonic

    @property
    def exits(self) -> list[RankExit]:
        """The ranks that have ended, in the order in which they did; all of them once `done` is set."""
        with self._lock:
            return list(self._exits)

    @property
    def pids(self) -> list[int]:
        """The ranks' processes in the order of ranks; empty until they are started."""
        with self._lock:
            return list(self._pids)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of all ranks; False if some still run after `timeout_s`."""
        return self.done.wait(timeout_s)

    def wait_for_news(self, timeout_s: float) -> bool:
        """Wait until a rank rings, the last one ends, or the time is over; True once all have ended."""
        if self._news.wait(timeout_s):
            self._news.clear()
            self.done.wait(_MOMENT_S)
        return self.done.is_set()

    def kill(self) -> None:
        """SIGKILL every rank and all that it started; returns at once, `done` follows. May be called at any time."""
        with self._lock:
            self._is_killed = True
            ended = {end.rank for end in self._exits}
            for number, pid in enumerate(self._pids, self.first_rank):
                if number not in ended:
                    _kill_session(pid)

    def _start(self, keeper: Keeper, entry: str, environments: list[dict[str, str]]) -> None:
        """Agent's thread only, like all below."""
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self.folder.bell, 0o600)
        # To be written, too: without a writer it would count as readable when the first one has closed it.
        self._bell = os.open(self.folder.bell, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._children = keeper.fork(entry, str(self.folder.run_json), environments)
        with self._lock:
            self._pids = self._children.pids
            is_killed = self._is_killed
        if is_killed:
            self.kill()

    def _await_news(self) -> bool:
        """Wait until a rank ends; True once all have. The others do not long outlive one that has not returned."""
        assert self._children is not None
        due_s = None if self._left_at is None else self._left_at + LAST_WORDS_S - time.monotonic()
        if due_s is not None and due_s <= 0:
            self.kill()
            due_s = None
        ends = self._children.read_ends(due_s, self._bell)
        if not ends:
            self._answer_bell()
        for end in ends:
            self._note(end.number, end.exitcode)
            if not end.has_returned and self._left_at is None:
                self._left_at = time.monotonic()
        return len(self._exits) == len(self._pids)

    def _answer_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 1 << 12)
            self._news.set()

    def _note(self, number: int, exitcode: int) -> None:
        pid = self._pids[number]
        with self._lock:
            was_killed = self._is_killed and exitcode == -signal.SIGKILL
            self._exits.append(RankExit(number + self.first_rank, pid, exitcode, time.time(), was_killed))
        _kill_session(pid, children_only=True)

    def _finish(self) -> None:
        """Whatever became of the agent: no rank is left."""
        if len(self._exits) < len(self._pids):
            self.kill()
        try:
            while len(self._exits) < len(self._pids):
                self._await_news()
        except Killed:
            told = {end.rank - self.first_rank for end in self._exits}
            for number in set(range(len(self._pids))) - told:
                self._note(number, -signal.SIGKILL)
        if self._children is not None:
            self._children.close()
        if self._bell >= 0:
            os.close(self._bell)
        self.done.set()
        self._news.set()


class Launcher:
    """Starts runs. One for a process, unless they share a keeper."""

    def __init__(self, entry: str = RANK, keeper: Keeper | None = None) -> None:
        """`entry`: what each rank calls with the path of its `run.json`, as "module:function"."""
        self._entry = entry
        self.keeper = keeper or Keeper()
        self._launches: set[Launch] = set()
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Start the forkserver and wait until it has imported everything (some seconds).

        Raises:
            DljobsError: a module that every rank needs cannot be imported; the message holds the traceback.
        """
        _quieten_torchrun()
        self.keeper.warm()

    def launch(
        self, folder: RunFolder, num_ranks: int, rendezvous: Rendezvous | None = None, *, first_rank: int = 0
    ) -> Launch:
        """Start the ranks of the run whose `run.json` is in `folder`; returns at once.

        Args:
            num_ranks: how many of them are on this node.
            rendezvous: with the other nodes of the run; None if there are none.
            first_rank: the first rank on this node.
        """
        if rendezvous is None:
            rendezvous = host() if num_ranks > 1 else alone()
        launch = Launch(folder, num_ranks, rendezvous, first_rank)
        with self._lock:
            self._launches.add(launch)
        # A daemon: a worker that ends must not wait for its ranks, which die with it.
        threading.Thread(target=self._run, args=(launch,), name=f"launch {folder.path.name}", daemon=True).start()
        return launch

    def close(self, timeout_s: float = 10.0) -> None:
        """Kill what still runs, and end the forkserver."""
        with self._lock:
            launches = list(self._launches)
        for launch in launches:
            launch.kill()
        for launch in launches:
            launch.wait(timeout_s)
        self.keeper.close()

    def _run(self, launch: Launch) -> None:
        spec = WorkerSpec(
            role="rank",
            local_world_size=launch.num_ranks,
            entrypoint=self._entry,
            rdzv_handler=launch.rendezvous,
            max_restarts=0,
            monitor_interval=_NO_PAUSE_S,
            local_addr=launch.rendezvous.address,
        )
        try:
            _Agent(spec, launch, self.keeper).run()
        except DljobsError as error:
            launch.error = error.message
            log.warning("%s: %s", launch.folder.path.name, error.message)
        except BaseException as error:
            launch.error = f"{type(error).__name__}: {error}"
            log.exception("the agent of %s failed", launch.folder.path)
        finally:
            with self._lock:
                self._launches.discard(launch)
            launch._finish()


class _Agent(SimpleElasticAgent):
    """torchrun's agent over the forkserver: it gives the ranks their numbers and environment, and awaits their end."""

    def __init__(self, spec: WorkerSpec, launch: Launch, keeper: Keeper) -> None:
        super().__init__(spec)
        self._launch = launch
        self._keeper = keeper

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        spec = worker_group.spec
        environments = [
            {
                "RANK": str(worker.global_rank),
                "LOCAL_RANK": str(worker.local_rank),
                "GROUP_RANK": str(worker_group.group_rank),
                "ROLE_RANK": str(worker.role_rank),
                "ROLE_NAME": spec.role,
                "WORLD_SIZE": str(worker.world_size),
                "LOCAL_WORLD_SIZE": str(spec.local_world_size),
                "GROUP_WORLD_SIZE": str(worker_group.group_world_size),
                "ROLE_WORLD_SIZE": str(worker.role_world_size),
                "MASTER_ADDR": str(worker_group.master_addr),
                "MASTER_PORT": str(worker_group.master_port),
                "TORCHELASTIC_RESTART_COUNT": "0",
                "TORCHELASTIC_MAX_RESTARTS": str(spec.max_restarts),
                "TORCHELASTIC_RUN_ID": spec.rdzv_handler.get_run_id(),
                "TORCHELASTIC_USE_AGENT_STORE": str(spec.rdzv_handler.use_agent_store),
                "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.getenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
            }
            for worker in worker_group.workers
        ]
        self._launch._start(self._keeper, str(spec.entrypoint), environments)
        return dict(enumerate(self._launch.pids))

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        if not self._launch._await_news():
            return RunResult(state=WorkerState.HEALTHY)
        exits = self._launch.exits
        if any(end.exitcode for end in exits):
            return RunResult(state=WorkerState.FAILED)
        return RunResult(state=WorkerState.SUCCEEDED, return_values={end.rank: None for end in exits})

    def _construct_event(self, *_: Any, **__: Any) -> Event:
        """Nobody reads torchrun's own events, and for each it would ask the name service who this host is."""
        return _NO_EVENT

    def _exit_barrier(self) -> None:
        """No waiting for other nodes, which may be gone: their supervisors tell each other through the database."""

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        """All have ended."""

    def _shutdown(self, death_sig: signal.Signals = signal.SIGKILL, timeout: int = 0) -> None:
        """The launch sees to it."""


def _kill_session(pid: int | None, *, children_only: bool = False) -> None:
    """SIGKILL a rank and its session; `children_only` where the rank itself has ended, and its pid may be anyone's."""
    if not pid:
        return
    # A rank that was only just forked has no session of its own yet.
    if not children_only:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _quieten_torchrun() -> None:
    """Its agent warns of threads, and logs each failed rank with a traceback of its own: the events say it better."""
    logger = logging.getLogger("torch.distributed.elastic")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
