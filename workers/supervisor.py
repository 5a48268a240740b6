"""The supervisor of one run, or of one node's part in it: it sees it through from launch to end.

It alone stands between the ranks, which hold no credentials, and the database. Every write it makes carries the run's
token; when the token is refused it kills the ranks and says nothing more.
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from sqlalchemy import Connection

from dljobs.errors import CorruptArtifact, DljobsError, NotFound, StaleToken
from dljobs.service import evaluations, verifications
from dljobs.service.artifacts import ArtifactStore, get_artifact
from dljobs.service.clock import now
from dljobs.service.database import Database
from dljobs.service.ends import Notice
from dljobs.service.failures import FailureClass
from dljobs.service.runs import Outcome, record_late_return
from dljobs.service.settings import Settings
from dljobs.service.source_files import extract_all
from dljobs.service.spec import JobSpec
from dljobs.service.states import JobState

from .assignment import Assignment
from .beginning import fetch_checkpoint
from .channel import Control, Event, write_control
from .folder import FOLDERS, RunFolder, RunRequest, folder_name
from .gang import Gang
from .hang import HangWatch, dump_stacks
from .health import Health
from .judge import Judge
from .launcher import Launch, Launcher
from .network import interface_of, own_address
from .outages import outlast
from .outcome import Evidence, classify, count_out_of_memory_kills
from .reports import Reports, Write
from .uploads import Uploads

POLL_S = 0.02
# After another node has lost its ranks, those here get so long to notice it and to write down what they saw.
LAST_WORDS_S = 5.0
# What the ranks are told for each reason to stop; only a cancelled run writes no checkpoint.
_STOP_WORDS = {
    FailureClass.CANCELLED: "cancel",
    FailureClass.PRUNED: "cancel",
    FailureClass.PREEMPTED: "drain",
    FailureClass.TIME_LIMIT: "time-limit",
}

logger = logging.getLogger(__name__)


class Supervisor:
    """Sees one assignment through."""

    def __init__(
        self, assignment: Assignment, database: Database, launcher: Launcher, health: Health, *, actor: str,
        settings: Settings, write_notice: Callable[[Notice], JobState], judge: Judge | None = None,
    ) -> None:  # fmt: skip
        self.assignment = assignment
        self.key = assignment.key
        self.spec = JobSpec.from_json(assignment.job["spec_json"])
        self._database = database
        self._launcher = launcher
        self._health = health
        self._actor = actor
        self._write_notice = write_notice
        self._data_dir = settings.data_dir
        self._grace_s = settings.grace_s
        name = folder_name(self.key.run_id, self.key.token, assignment.node_rank, len(assignment.parts))
        self._folder = RunFolder(settings.home / FOLDERS / name)
        first_rank = assignment.node_rank * assignment.num_ranks
        self._ranks = range(first_rank, first_rank + assignment.num_ranks)  # those on this node
        self._gang = None
        self._address = ""  # where the others of the gang reach this node
        if len(assignment.parts) > 1:
            self._gang = Gang(database, self.key, assignment.node_rank, assignment.parts)
            self._address = own_address(settings)
        self._evidence = Evidence()
        self._reports = Reports(
            database, self.key, self._folder, self._ranks, self._take_event, node_rank=assignment.node_rank,
            voice=f"{actor}: " if self._gang else "", judge=judge,
        )  # fmt: skip
        self._uploads = Uploads(database, self.key, assignment.job["id"], self.spec, self._reports.say)
        self._watch = HangWatch(settings.hung_after_s)
        self._started_ranks: set[int] = set()
        self._has_trained = False  # there is something to save
        self._is_marked_running = False
        self._has_told_start = self._has_told_stop = self._has_lost_a_part = False  # in a gang
        self._asked = Control()  # of the ranks
        self._checkpoint_asked = 0.0  # when somebody last asked for one
        self._kill_at = math.inf  # monotonic
        self._abandoned = threading.Event()
        self._launch: Launch | None = None
        self._deadline = self._time_limit()

    def request_stop(self, why: FailureClass, *, because: str = "", at_once: bool = False) -> None:
        """Ask the ranks to stop at a step they agree on; they are killed when the grace time is over.

        Ranks that have taken no step yet (data are loaded), or that do not train, have nothing to save: they are killed
        at once.
        """
        at_once = at_once or (self._is_head and not self._has_trained)
        if self._evidence.stop is None:
            self._evidence.stop, self._evidence.stopped_because = why, because
            if self._is_head:
                self._reports.say(f"asked to stop: {because or why}")
        self._kill_at = min(self._kill_at, time.monotonic() + (0.0 if at_once else self._grace_s))

    def request_checkpoint(self, asked_at: float) -> None:
        """Ask the ranks for a checkpoint at a step they agree on; they go on after it."""
        self._checkpoint_asked = max(self._checkpoint_asked, asked_at)

    def abandon(self) -> None:
        """The lease is gone and another may run the job already: kill the ranks at once and write nothing more."""
        self._abandoned.set()

    @property
    def _is_head(self) -> bool:
        """Whether rank 0 is here, which hears what is asked of all ranks, and tells of their training."""
        return self._gang is None or self._gang.is_head

    def _time_limit(self) -> float:
        limit_s = self.assignment.job["time_limit_s"]
        return math.inf if limit_s is None or not self._is_head else time.monotonic() + float(limit_s)

    def run(self) -> None:
        """From the folder to the end of the run; returns once its ranks are gone, and nothing of it lies around."""
        try:
            outcome = self._run_ranks()
            shutil.rmtree(self._folder.path, ignore_errors=True)
            if outcome is None:
                self._leave_the_end_to_the_head()
            else:
                self._end(outcome)
        except StaleToken as error:
            logger.warning("run %s was taken from this worker, its ranks are killed: %s", self.key.run_id, error)
            self._kill_ranks()
            with suppress(DljobsError), self._database.write() as connection:
                record_late_return(connection, self.key.run_id, actor=self._actor)
        except Exception:
            # A bug of ours must not leave a run that looks alive.
            logger.exception("the supervisor of run %s failed", self.key.run_id)
            self._kill_ranks()
            with suppress(StaleToken):
                self._end(Outcome(FailureClass.NODE_LOST, "the supervisor failed; see the worker's log"))
        finally:
            self._kill_ranks()
            self._uploads.abandon()
            shutil.rmtree(self._folder.path, ignore_errors=True)

    def _run_ranks(self) -> Outcome | None:
        """From the folder to the outcome; None where the run's head is another node, and tells it."""
        oom_kills_before = count_out_of_memory_kills()
        try:
            check = partial(self._health.refuse, self.assignment.devices)
            if refused := outlast(check, f"run {self.key.run_id}", check=self._refuse_if_abandoned):
                return Outcome(FailureClass.DEVICE, f"not started: {refused}", was_refused=True)
            request = outlast(self._prepare, f"run {self.key.run_id}", check=self._refuse_if_abandoned)
        except StaleToken:
            raise
        except (NotFound, CorruptArtifact) as error:
            self._take_over_the_rest()  # what was said of it
            return Outcome(FailureClass.DATA, f"what the job begins with cannot be had: {error.message}")
        except (DljobsError, OSError) as error:
            return Outcome(FailureClass.STORAGE, f"the run's folder could not be prepared: {error}")
        request.write()
        try:
            rendezvous = None if self._gang is None else self._gang.meet(self._address, self._may_start)
        except StaleToken:
            raise
        except DljobsError as error:
            return Outcome(FailureClass.NODE_LOST, error.message)
        if self._gang is None or rendezvous is not None:
            self._launch = self._launcher.launch(
                self._folder, len(self._ranks), rendezvous, first_rank=self._ranks.start
            )
            self._attend_until_ended(self._launch)
        self._evidence.out_of_memory_kills = count_out_of_memory_kills() - oom_kills_before
        self._take_over_the_rest()
        if not self._is_head:
            return None
        if self._gang is not None:
            self._await_other_parts(self._gang)
        if self._evidence.finished is not None:
            self._evidence.storage = self._uploads.missing
        return classify(self._evidence)

    def _attend_until_ended(self, launch: Launch) -> None:
        while not launch.wait_for_news(POLL_S):
            self._pass_on()
            if time.monotonic() > self._deadline and self._evidence.stop is None:
                self.request_stop(FailureClass.TIME_LIMIT)
            self._heed_other_parts()
            self._ask_ranks()
            self._end_if_hung()
            if time.monotonic() > self._kill_at:
                launch.kill()
        self._evidence.exits = launch.exits
        self._evidence.launch_error = launch.error

    def _may_start(self) -> bool:
        """Whether nobody has asked for the end while the parts of the run wait for each other."""
        self._heed_other_parts()
        return self._evidence.stop is None

    def _heed_other_parts(self) -> None:
        """Tell the other nodes of the run what is asked here, and do what they ask."""
        self._refuse_if_abandoned()
        gang = self._gang
        if gang is None:
            return
        if self._evidence.stop is not None and not self._has_told_stop:
            gang.tell(stop=self._evidence.stop)
            self._has_told_stop = True
        gang.look()
        if gang.over:
            self._kill_ranks()
            raise StaleToken(gang.over)
        if gang.stop is FailureClass.HUNG:
            self._find_hung("another node's supervisor found it to hang")
        elif gang.stop is not None and self._evidence.stop is None:
            self._has_told_stop = True
            self.request_stop(gang.stop)
        if gang.broken and not self._has_lost_a_part:
            self._has_lost_a_part = True
            self._kill_at = min(self._kill_at, time.monotonic() + LAST_WORDS_S)

    def _await_other_parts(self, gang: Gang) -> None:
        """Wait until all ranks of the run are gone, everywhere; a node that is lost ends the wait with the run."""
        gang.end(self._evidence)
        while not gang.all_ended:
            self._heed_other_parts()
            time.sleep(POLL_S)
        gang.add_to(self._evidence)

    def _leave_the_end_to_the_head(self) -> None:
        """Keep the lease until the run ends: its end is the head's to write."""
        assert self._gang is not None
        self._gang.end(self._evidence)
        while not (self._gang.over or self._abandoned.is_set()):
            self._gang.look()
            time.sleep(POLL_S)
        logger.info("part %d of run %s ended: %s", self.assignment.node_rank, self.key.run_id, self._gang.over)

    def _ask_ranks(self) -> None:
        """Write down for the ranks what somebody asks of them, if it is new."""
        stop = self._evidence.stop
        asked = Control("" if stop is None else _STOP_WORDS.get(stop, "drain"), self._checkpoint_asked)
        if asked != self._asked:
            write_control(self._folder.control_json, asked)
            self._asked = asked

    def _end_if_hung(self) -> None:
        if self._reports.is_behind:  # as in a long outage of the database
            self._watch.excuse()
        if self._is_head and (why := self._watch.overdue()):
            self._find_hung(why)

    def _find_hung(self, why: str) -> None:
        if self._evidence.hung or self._launch is None:
            return
        self._evidence.hung = why
        self._reports.say(f"{why}: the stacks of all ranks follow, and then they are killed")
        if self._gang is not None and self._is_head:
            self._gang.tell(stop=FailureClass.HUNG)
        places = dump_stacks(self._launch.pids, [self._folder.log(rank) for rank in self._ranks])
        self._evidence.stacks = {self._ranks[number]: place for number, place in places.items()}
        self._launch.kill()

    def _pass_on(self) -> None:
        """Take over what the ranks wrote, and say when they all run."""
        self._refuse_if_abandoned()
        self._reports.read()
        if self._evidence.finished is not None and self._gang is None:
            return  # the end comes at once, and brings it all
        has_started = len(self._started_ranks) == len(self._ranks) and self._all_started()
        if has_started and not self._is_marked_running:
            begin = partial(self._write, has_started=True)
            self._is_marked_running = self._reports.ship(begin, force=True, even_nothing=True)
        else:
            self._reports.ship(self._write)

    def _write(self, write: Write, *, has_started: bool = False) -> None:
        """Have something written of the run, together with other runs' if it is little."""
        is_shared = self._reports.is_small
        if is_shared or has_started:
            self._write_notice(Notice(self.key.run_id, None, self.key.token, has_started, write if is_shared else None))
        if not is_shared:
            with self._database.write() as connection:
                write(connection)

    def _all_started(self) -> bool:
        """The ranks here run: whether the run is to be marked as running, now and from here."""
        if self._gang is None:
            return True
        if not self._has_told_start:
            self._has_told_start = True
            self._gang.tell(started_at=now())
        return self._gang.is_head and self._gang.all_started

    def _take_over_the_rest(self) -> None:
        """The ranks are gone: take over all they left, however long that takes; the last of it goes with the end."""
        while True:
            is_more = self._reports.read(final=True)
            if not is_more and self._uploads.is_idle and self._reports.is_small:
                return
            is_shipped = self._reports.ship(self._write, force=True)
            if is_shipped and not is_more and self._uploads.is_idle:
                return
            self._refuse_if_abandoned()
            if not self._uploads.is_idle:
                self._uploads.wait(POLL_S)
            elif not is_more:
                time.sleep(POLL_S)

    def _refuse_if_abandoned(self) -> None:
        if self._abandoned.is_set():
            self._kill_ranks()
            raise StaleToken(f"the lease of run {self.key.run_id} is gone")

    def _prepare(self) -> RunRequest:
        """Make the folder and fetch what the ranks need from the store."""
        self._folder.create()
        extract_all(self._database, self.spec, self._folder.sources)
        job, candidates = self.assignment.job, self.assignment.resume_from
        resume = fetch_checkpoint(self._database, job, candidates, self._folder.resume_file, self._reports.say)
        state_dict, step = None, 0
        if self.spec.artifact_id is not None:
            state_dict = self._folder.path / "state_dict.safetensors"
            ArtifactStore(self._database).fetch(self.spec.artifact_id, state_dict, durable=False)
            with self._database.read() as connection:
                step = get_artifact(connection, self.spec.artifact_id)["step"]
        devices = self.assignment.devices
        return RunRequest(
            job_id=job["id"],
            run_number=self.assignment.run_number,
            spec=self.spec,
            device_kind=devices[0]["kind"],
            devices=[device["uuid"] for device in devices],
            world_size=len(self._ranks) * len(self.assignment.parts),
            num_threads=self.assignment.num_threads,
            memory_bytes=devices[0]["kept_bytes"] or None,
            data_dir=str(self._data_dir),
            folder=str(self._folder.path),
            resume=str(self._folder.resume_file) if resume else None,
            resumes_other_job=resume is not None and resume["job_id"] != job["id"],
            state_dict=str(state_dict) if state_dict else None,
            interface=interface_of(self._address) if self._address else "",
            state_dict_step=step,
        )

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
        end = Notice(
            self.key.run_id,
            outcome,
            self.key.token,
            has_started=outcome.failure is None,
            write_rest=partial(self._write_rest, outcome),
        )
        state = outlast(partial(self._write_notice, end), f"run {self.key.run_id}", check=self._refuse_if_abandoned)
        logger.info("run %s ended: %s; the job is %s", self.key.run_id, outcome.reason, state)

    def _write_rest(self, outcome: Outcome, connection: Connection) -> None:
        self._reports.write(connection, is_last=True)
        if outcome.failure is None and self.spec.kind in ("evaluate", "verify"):
            evaluations.add_of_job(connection, self.assignment.job, outcome.result or {})
            verifications.add_of_job(connection, self.assignment.job, outcome.result or {})

    def _kill_ranks(self) -> None:
        if self._launch is not None and not self._launch.wait(0):
            self._launch.kill()
            self._launch.wait(10)
