"""The supervisor of one run: it decides nothing about jobs, but sees one run through from launch to end.

It alone stands between the ranks, which hold no credentials, and the database. Every write it makes carries the run's
token; when the token is refused it kills the ranks and says nothing more.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from dataclasses import dataclass

from sqlalchemy import RowMapping

from dljobs.errors import CorruptArtifact, DljobsError, NotFound, StaleToken, Unreachable
from dljobs.service.artifacts import ArtifactStore
from dljobs.service.database import Database
from dljobs.service.evaluations import add_of_job
from dljobs.service.failures import FailureClass
from dljobs.service.runs import Outcome, RunKey, end_run, mark_running
from dljobs.service.settings import Settings
from dljobs.service.source_files import extract_all
from dljobs.service.spec import JobSpec

from .channel import Control, Event, write_control
from .folder import RunFolder, RunRequest
from .hang import HangWatch, dump_stacks
from .health import Health
from .launcher import Launch, Launcher
from .outcome import Evidence, classify, count_out_of_memory_kills
from .reports import Reports
from .uploads import Uploads

POLL_S = 0.02
RETRY_AFTER_S = 2.0
# What the ranks are told for each reason to stop; only a cancelled run writes no checkpoint.
_STOP_WORDS = {
    FailureClass.CANCELLED: "cancel",
    FailureClass.PREEMPTED: "drain",
    FailureClass.TIME_LIMIT: "time-limit",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assignment:
    """A claimed run: its rows, its devices, and its share of this node."""

    key: RunKey
    job: RowMapping
    run_number: int
    devices: list[RowMapping]
    num_ranks: int
    num_threads: int  # for each rank
    resume_from: list[RowMapping]  # checkpoints, in the order in which they are tried


class Supervisor:
    """Runs one assignment in a thread of its own."""

    def __init__(
        self, assignment: Assignment, database: Database, launcher: Launcher, health: Health, *, actor: str,
        settings: Settings,
    ) -> None:  # fmt: skip
        self.assignment = assignment
        self.key = assignment.key
        self.spec = JobSpec.from_json(assignment.job["spec_json"])
        self._database = database
        self._launcher = launcher
        self._health = health
        self._actor = actor
        self._data_dir = settings.data_dir
        self._grace_s = settings.grace_s
        self._folder = RunFolder(settings.home / "runs" / f"{self.key.run_id}-{self.key.token[:8]}")
        self._world_size = assignment.num_ranks
        self._evidence = Evidence()
        self._reports = Reports(database, self.key, self._folder, self._world_size, self._take_event)
        self._uploads = Uploads(database, self.key, assignment.job["id"], self.spec, self._reports.say)
        self._watch = HangWatch(settings.hung_after_s)
        self._started_ranks: set[int] = set()
        self._has_trained = False  # there is something to save
        self._is_marked_running = False
        self._asked = Control()  # of the ranks
        self._checkpoint_asked = 0.0  # when somebody last asked for one
        self._kill_at: float | None = None  # monotonic
        self._abandoned = threading.Event()
        self._launch: Launch | None = None
        self._deadline = self._time_limit()
        self.thread = threading.Thread(target=self._supervise, name=f"run-{self.key.run_id}", daemon=True)

    def request_stop(self, why: FailureClass, *, at_once: bool = False) -> None:
        """Ask the ranks to stop at a step they agree on; they are killed when the grace time is over.

        Ranks that have taken no step yet (data are loaded), or that do not train, have nothing to save: they are killed
        at once.
        """
        at_once = at_once or not self._has_trained
        if self._evidence.stop is None:
            self._evidence.stop = why
            self._reports.say(f"asked to stop: {why}")
        kill_at = time.monotonic() + (0.0 if at_once else self._grace_s)
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)

    def request_checkpoint(self, asked_at: float) -> None:
        """Ask the ranks for a checkpoint at a step they agree on; they go on after it."""
        self._checkpoint_asked = max(self._checkpoint_asked, asked_at)

    def abandon(self) -> None:
        """The lease is gone and another may run the job already: kill the ranks at once and write nothing more."""
        self._abandoned.set()

    def _time_limit(self) -> float | None:
        limit_s = self.assignment.job["time_limit_s"]
        return None if limit_s is None else time.monotonic() + limit_s

    def _supervise(self) -> None:
        try:
            outcome = self._run_ranks()
            # All of it is in the database: once the job has ended, nothing of it lies around.
            shutil.rmtree(self._folder.path, ignore_errors=True)
            self._end(outcome)
        except StaleToken:
            logger.warning("run %s was taken from this worker: its ranks are killed", self.key.run_id)
        except Exception:
            # A bug of ours must not leave a run that looks alive.
            logger.exception("the supervisor of run %s failed", self.key.run_id)
            self._kill_ranks()
            self._end(Outcome(FailureClass.NODE_LOST, "the supervisor failed; see the worker's log"))
        finally:
            self._kill_ranks()
            self._uploads.abandon()
            shutil.rmtree(self._folder.path, ignore_errors=True)

    def _run_ranks(self) -> Outcome:
        """From the folder to the outcome."""
        oom_kills_before = count_out_of_memory_kills()
        try:
            if refused := self._health.refuse(self.assignment.devices):
                return Outcome(FailureClass.DEVICE, f"not started: {refused}", was_refused=True)
            request = self._prepare()
        except StaleToken:
            raise
        except (NotFound, CorruptArtifact) as error:
            self._take_over_the_rest()  # what was said of it
            return Outcome(FailureClass.DATA, f"what the job begins with cannot be had: {error.message}")
        except (DljobsError, OSError) as error:
            return Outcome(FailureClass.STORAGE, f"the run's folder could not be prepared: {error}")
        request.write()
        launch = self._launch = self._launcher.launch(self._folder, self._world_size)
        while not launch.wait(POLL_S):
            self._pass_on()
            if self._deadline is not None and time.monotonic() > self._deadline and self._evidence.stop is None:
                self.request_stop(FailureClass.TIME_LIMIT)
            self._ask_ranks()
            self._end_if_hung(launch)
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                launch.kill()
        self._evidence.exits = launch.exits
        self._evidence.launch_error = launch.error
        self._evidence.out_of_memory_kills = count_out_of_memory_kills() - oom_kills_before
        self._take_over_the_rest()
        if self._evidence.finished is not None:
            self._evidence.storage = self._uploads.missing
        return classify(self._evidence)

    def _ask_ranks(self) -> None:
        """Write down for the ranks what somebody asks of them, if it is new."""
        stop = self._evidence.stop
        asked = Control("" if stop is None else _STOP_WORDS.get(stop, "drain"), self._checkpoint_asked)
        if asked != self._asked:
            write_control(self._folder.control_json, asked)
            self._asked = asked

    def _end_if_hung(self, launch: Launch) -> None:
        if self._evidence.hung or not (why := self._watch.overdue()):
            return
        self._evidence.hung = why
        self._reports.say(f"{why}: the stacks of all ranks follow, and then they are killed")
        logs = [self._folder.log(rank) for rank in range(self._world_size)]
        self._evidence.stacks = dump_stacks(launch.pids, logs)
        launch.kill()

    def _pass_on(self) -> None:
        """Take over what the ranks wrote, and say when they all run."""
        self._refuse_if_abandoned()
        self._reports.read()
        if not self._is_marked_running and len(self._started_ranks) == self._world_size:
            try:
                with self._database.write() as connection:
                    mark_running(connection, self.key, actor=self._actor)
                self._is_marked_running = True
            except Unreachable:
                return
        self._reports.ship()

    def _take_over_the_rest(self) -> None:
        """The ranks are gone: bring all they left into the database, however long that takes."""
        while True:
            is_more = self._reports.read(final=True)
            is_shipped = self._reports.ship(force=True)
            if is_shipped and not is_more and self._uploads.is_idle:
                return
            self._refuse_if_abandoned()
            if not is_more:
                time.sleep(POLL_S)

    def _refuse_if_abandoned(self) -> None:
        if self._abandoned.is_set():
            self._kill_ranks()
            raise StaleToken(f"the lease of run {self.key.run_id} is gone")

    def _prepare(self) -> RunRequest:
        """Make the folder and fetch what the ranks need from the store."""
        self._folder.create()
        extract_all(self._database, self.spec, self._folder.sources)
        resume = self._fetch_checkpoint()
        state_dict = None
        if self.spec.artifact_id is not None:
            state_dict = self._folder.path / "state_dict.safetensors"
            ArtifactStore(self._database).fetch(self.spec.artifact_id, state_dict)
        devices = self.assignment.devices
        return RunRequest(
            job_id=self.assignment.job["id"],
            run_number=self.assignment.run_number,
            spec=self.spec,
            device_kind=devices[0]["kind"],
            devices=[device["uuid"] for device in devices],
            world_size=self._world_size,
            num_threads=self.assignment.num_threads,
            memory_bytes=devices[0]["kept_bytes"] or None,
            data_dir=str(self._data_dir),
            folder=str(self._folder.path),
            resume=str(self._folder.resume_file) if resume else None,
            resumes_other_job=resume is not None and resume["job_id"] != self.assignment.job["id"],
            state_dict=str(state_dict) if state_dict else None,
        )

    def _fetch_checkpoint(self) -> RowMapping | None:
        """The first checkpoint that is whole, walking back over corrupt ones; None to start from the beginning.

        Raises:
            CorruptArtifact: the job is to continue another one, of which nothing is left.
        """
        job = self.assignment.job
        for row in self.assignment.resume_from:
            try:
                ArtifactStore(self._database).fetch(row["id"], self._folder.resume_file)
            except (CorruptArtifact, NotFound) as error:
                self._reports.say(f"{error}; going back to an earlier checkpoint")
                continue
            whose = "" if row["job_id"] == job["id"] else f"job {row['job_id']}, "
            self._reports.say(f"resuming from {row['name']} of {whose}run {row['run_number']}")
            return row
        if (other := job["resumed_from_job_id"]) is not None:
            raise CorruptArtifact(f"no checkpoint of job {other} that this job could continue from is whole any more")
        return None

    def _take_event(self, event: Event) -> None:
        self._watch.hear(event)
        match event["type"]:
            case "started":
                self._started_ranks.add(event["rank"])
            case "first_step":
                self._has_trained = True
            case "artifact":
                self._uploads.add(event)
            case "dropped":
                self._uploads.drop(event)
            case "error":
                self._evidence.errors.append(event)
            case "finished" if event["rank"] == 0:
                self._evidence.finished = event
            case "stopped":
                self._evidence.stopped = event

    def _end(self, outcome: Outcome) -> None:
        """Write the end of the run, however long the database takes to come back."""
        while True:
            self._refuse_if_abandoned()
            try:
                if not self._is_marked_running and outcome.failure is None:
                    with self._database.write() as connection:
                        mark_running(connection, self.key, actor=self._actor)
                    self._is_marked_running = True
                with self._database.write() as connection:
                    state = end_run(connection, self.key.run_id, outcome, actor=self._actor, token=self.key.token)
                    if outcome.failure is None:
                        add_of_job(connection, self.assignment.job, outcome.result or {})
                logger.info("run %s ended: %s; the job is %s", self.key.run_id, outcome.reason, state)
                return
            except Unreachable as error:
                logger.warning("the end of run %s cannot be written yet: %s", self.key.run_id, error)
                time.sleep(RETRY_AFTER_S)

    def _kill_ranks(self) -> None:
        if self._launch is not None and not self._launch.wait(0):
            self._launch.kill()
            self._launch.wait(10)
