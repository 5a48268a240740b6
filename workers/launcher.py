"""The launcher: starts the ranks of a run warm, with torchrun's own agent, and knows how each of them ended.

It owns the forkserver, the agents' threads and the ranks' processes. It lives in the worker's process; it does not know
what ranks compute, nor jobs, leases or databases.

Why so: the agent must sit in the process that owns the forkserver, and the forkserver must stay single-threaded, so the
agent runs in a plain thread here and ranks are forked there, from a process that has torch imported and CUDA untouched.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.process
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs, MultiprocessContext

from dljobs.errors import DljobsError

from . import rank
from .folder import RunFolder
from .rendezvous import Rendezvous, host

log = logging.getLogger(__name__)

MONITOR_INTERVAL_S = 0.02
_TURN_S = 0.001  # torchrun sleeps this long before each look; ours waits for news instead
# After one rank has ended, the others get so long to write down what they noticed.
LAST_WORDS_S = 1.0
_PRELOAD = f"{__package__}.preload"
# multiprocessing keeps its children in a set that any start() may poll from its own thread: two threads that read the
# exit status of one rank at the same time make a success look like status 255.
_start_lock = threading.Lock()


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
        self._processes: list[BaseProcess] = []
        self._exits: list[RankExit] = []
        self._is_killed = False

    @property
    def exits(self) -> list[RankExit]:
        """The ranks that have ended, in the order in which they did; all of them once `done` is set."""
        with self._lock:
            return list(self._exits)

    @property
    def pids(self) -> list[int]:
        """The ranks' processes in the order of ranks; empty until they are started."""
        with self._lock:
            return [process.pid or 0 for process in self._processes]

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of all ranks; False if some still run after `timeout_s`."""
        return self.done.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL every rank and all that it started; returns at once, `done` follows. May be called at any time."""
        with self._lock:
            self._is_killed = True
            ended = {end.rank for end in self._exits}
            for number, process in enumerate(self._processes, self.first_rank):
                if number not in ended:
                    _kill_session(process.pid)

    def _started(self, processes: Sequence[BaseProcess]) -> None:
        with self._lock:
            self._processes = list(processes)
            is_killed = self._is_killed
        if is_killed:
            self.kill()

    def _look(self) -> bool:
        """Note which ranks have ended, and end what they left behind. True once all have. Agent's thread only."""
        with self._lock:
            ended = {end.rank for end in self._exits}
            for number, process in enumerate(self._processes, self.first_rank):
                if number not in ended and process.exitcode is not None:
                    pid = process.pid or 0
                    was_killed = self._is_killed and process.exitcode == -signal.SIGKILL
                    self._exits.append(RankExit(number, pid, process.exitcode, time.time(), was_killed))
                    _kill_session(pid, children_only=True)
            return len(self._exits) == len(self._processes)


class Launcher:
    """Starts runs. One for a process: it owns the process's forkserver."""

    def __init__(self, entry: Callable[[str], None] = rank.main) -> None:
        """`entry` is what each rank calls with the path of its `run.json`; a function that can be imported by name."""
        self._entry = entry
        self._launches: set[Launch] = set()
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Start the forkserver and wait until it has imported everything (some seconds).

        To be called in the main thread before any other is started; started later, it would hold up the first job.

        Raises:
            DljobsError: a module that every rank needs cannot be imported; the message holds the traceback.
        """
        _quieten_torchrun()
        multiprocessing.set_forkserver_preload([_PRELOAD])
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_report_preload, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        try:
            failures, zoo_failures = json.loads(ours.recv_bytes())
        except EOFError:
            raise DljobsError("the forkserver ended before it was ready", "its last words are in the log") from None
        finally:
            process.join()
        for name, trace in failures.items():
            raise DljobsError(f"ranks cannot start: importing {name} failed\n{trace}")
        for name, trace in zoo_failures.items():
            log.warning("%s cannot be imported, and jobs that need it will fail:\n%s", name, trace)

    def launch(
        self, folder: RunFolder, num_ranks: int, rendezvous: Rendezvous | None = None, *, first_rank: int = 0
    ) -> Launch:
        """Start the ranks of the run whose `run.json` is in `folder`; returns at once.

        Args:
            num_ranks: how many of them are on this node.
            rendezvous: with the other nodes of the run; None if there are none.
            first_rank: the first rank on this node.
        """
        launch = Launch(folder, num_ranks, rendezvous or host(), first_rank)
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
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]

    def _run(self, launch: Launch) -> None:
        try:
            _supervise(launch, self._entry)
        except BaseException as error:
            launch.error = f"{type(error).__name__}: {error}"
            log.exception("the agent of %s failed", launch.folder.path)
        finally:
            launch.kill()
            while not launch._look():
                time.sleep(MONITOR_INTERVAL_S)
            if launch.error is None and any(end.exitcode == 255 for end in launch.exits) and _forkserver_is_gone():
                # Nobody was there to collect the ranks' own exit status.
                launch.error = "the forkserver was killed, and all ranks with it"
            with self._lock:
                self._launches.discard(launch)
            launch.done.set()


class _NoLogs(LogsSpecs):
    """Ranks redirect their own output. torchrun's default would make folders, and threads that take 0.1 s to end."""

    @property
    def root_log_dir(self) -> str:
        return os.devnull

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        for environment in envs.values():
            environment["TORCHELASTIC_ERROR_FILE"] = ""
        return LogsDest(
            stdouts=dict.fromkeys(envs, ""),
            stderrs=dict.fromkeys(envs, ""),
            tee_stdouts={},
            tee_stderrs={},
            error_files=dict.fromkeys(envs, os.devnull),
            filtered_stdout="",
            filtered_stderr="",
        )


class _Agent(LocalElasticAgent):
    """torchrun's agent, which tells the launch what it started, and never waits for a rank that will not end."""

    def __init__(self, spec: WorkerSpec, launch: Launch) -> None:
        super().__init__(spec, _NoLogs(), start_method="forkserver")
        self._launch = launch

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        with _start_lock:
            pids: dict[int, Any] = super()._start_workers(worker_group)
            processes = self._context().processes
            for process in processes:
                multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]
        self._launch._started(processes)
        return pids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Let torchrun judge only what is over: it would wait 30 s for each rank that ignores SIGTERM."""
        self._wait_for_news()
        all_ended = self._launch._look()
        exits = self._launch.exits
        if exits and not all_ended:
            if time.time() - exits[0].at > LAST_WORDS_S:
                self._launch.kill()
            return RunResult(state=WorkerState.HEALTHY)
        result: RunResult = super()._monitor_workers(worker_group)
        if all_ended and result.state == WorkerState.HEALTHY:
            # Every rank left with status 0 but without returning (a model that called os._exit): torchrun waits on.
            return RunResult(state=WorkerState.FAILED)
        return result

    def _exit_barrier(self) -> None:
        """No waiting for other nodes, which may be gone: their supervisors tell each other through the database."""

    def _wait_for_news(self) -> None:
        """Until a rank ends or returns, but no longer than torchrun's own interval. The order of ends is evidence."""
        running = [process.sentinel for process in self._context().processes if process.exitcode is None]
        context: Any = self._pcontext
        returned = [] if self._launch.exits else [queue._reader for queue in context._ret_vals.values()]
        multiprocessing.connection.wait([*running, *returned], MONITOR_INTERVAL_S)

    def _context(self) -> Any:
        assert isinstance(self._pcontext, MultiprocessContext)
        assert self._pcontext._pc is not None
        return self._pcontext._pc


def _supervise(launch: Launch, entry: Callable[[str], None]) -> None:
    """Run torchrun's agent in this thread until all ranks have ended."""
    spec = WorkerSpec(
        role="rank",
        local_world_size=launch.num_ranks,
        entrypoint=entry,
        args=(str(launch.folder.run_json),),
        rdzv_handler=launch.rendezvous,
        max_restarts=0,
        monitor_interval=_TURN_S,
        local_addr=launch.rendezvous.address,
    )
    _Agent(spec, launch).run()


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


def _forkserver_is_gone() -> bool:
    """Whether the forkserver has ended, or does so right now: its pipes close a little before."""
    server: Any = multiprocessing.forkserver._forkserver
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        try:
            # WNOWAIT: multiprocessing wants to collect it itself before it starts another.
            if os.waitid(os.P_PID, server._forkserver_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return True
        except ChildProcessError:
            return True
        time.sleep(MONITOR_INTERVAL_S)
    return False


def _report_preload(answer: Connection) -> None:
    """In a child of the forkserver: what its preloading could not import."""
    preload = sys.modules.get(_PRELOAD)
    untold = {_PRELOAD: "the forkserver passed over an ImportError"}
    failures = (preload.failures, preload.zoo_failures) if preload else (untold, {})
    answer.send_bytes(json.dumps(failures).encode())
    answer.close()


def _quieten_torchrun() -> None:
    """Its agent warns of threads, and logs each failed rank with a traceback of its own: the events say it better."""
    logger = logging.getLogger("torch.distributed.elastic")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
