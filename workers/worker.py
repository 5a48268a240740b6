"""The worker: the runs that one process supervises on the devices it is pinned to, and what it does for the queue.

`schedule`, `execute` and `attend` answer doorbells; `beat`, `sweep` and `look_after_devices` come round by themselves.
All of them are safe to call at any time, from any thread, any number of times: each acts only through guarded
operations on the database.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from dljobs.errors import OUTAGES, DljobsError, SchemaMismatch
from dljobs.service import leases, nodes, preemption, registration, runs, schema, sweep
from dljobs.service.database import Database
from dljobs.service.dispatch import Claimant, dispatch
from dljobs.service.doorbell import Doorbell
from dljobs.service.ends import Notice, take_notices
from dljobs.service.failures import FailureClass
from dljobs.service.policy import write_policy
from dljobs.service.preemption import Asked
from dljobs.service.process_mark import ProcessMark
from dljobs.service.registration import Registration, WorkerInfo
from dljobs.service.runs import Outcome, RunKey
from dljobs.service.settings import Settings
from dljobs.service.states import JobState, WorkerState

from .assignment import Assignment, make_assignments
from .contact import Contact
from .folder import FOLDERS
from .health import Health, make_checks
from .judge import Judge
from .launcher import Launcher
from .leftovers import remove_leftovers
from .notices import Notices
from .supervisor import Supervisor

TIDY_EVERY_S = 600.0

logger = logging.getLogger(__name__)


class Worker:
    """One registered worker."""

    def __init__(
        self, settings: Settings, database: Database, doorbell: Doorbell, launcher: Launcher, info: WorkerInfo
    ) -> None:
        self.name = info.name
        self._settings = settings
        self._database = database
        self._doorbell = doorbell
        self._launcher = launcher
        self._info = info
        checks = make_checks(settings)  # first: a worker that cannot check its devices should not appear
        self._registration = self._register()
        self._health = Health(
            database, checks, worker_id=self._registration.worker_id, actor=self.name, retry_s=settings.health_s
        )
        self._supervisors: dict[int, Supervisor] = {}
        self._lock = threading.Lock()  # guards the dict above
        self._notices = Notices(database, actor=self.name)
        self._turn = threading.Lock()  # whoever has it writes the notices of all runs, and schedules
        self._is_rung = threading.Event()  # there may be something to place
        self._is_draining = False
        self._contact = Contact(settings.heartbeat_s)
        self._tidied_at = 0.0
        self.replaced = threading.Event()
        self.outdated = threading.Event()  # the database was migrated to a schema that this release does not speak

    def _register(self) -> Registration:
        with self._database.write() as connection:
            registered = registration.register(
                connection, self._info, stale_after_s=self._settings.lease_s, is_alive=ProcessMark.is_alive
            )
            if write_policy(connection, self._settings):
                logger.info("the settings of this worker for scheduling are now in force")
        # After a kill -9 and a restart the old ranks are dead (they die with their worker): no need to wait for leases.
        sweep.end_runs_of_restarted(self._database, registered.worker_id, actor=self.name)
        remove_leftovers(self._database, self._settings.home / FOLDERS, registered.worker_id)
        return registered

    # Doorbells

    def schedule(self) -> None:
        """Place what can be placed and ring whoever got something. Rings that come meanwhile become one more round."""
        self._is_rung.set()
        self._take_turn()

    def _take_turn(self) -> None:
        """Do all that is to be written and placed, unless somebody is at it, who then sees what has come meanwhile."""
        while self._notices or self._is_rung.is_set():
            if not self._turn.acquire(blocking=False):
                return
            failure = None
            try:
                if self._notices.write():
                    self._is_rung.set()  # devices are free
                if self._is_rung.is_set():
                    self._is_rung.clear()
                    self._dispatch()
            except Exception as error:
                failure = error
            finally:
                self._turn.release()
            # Not before it was released: whoever comes from then on takes the turn.
            if failure is not None and not (self._notices or self._is_rung.is_set()):
                raise failure

    def _dispatch(self) -> None:
        taken: list[Assignment] = []
        claimant = Claimant(
            self._registration.worker_id, lambda connection, keys: taken.extend(self._assigned(connection, keys))
        )
        placed = dispatch(
            self._database,
            lease_s=self._settings.lease_s,
            notify=self._tell,
            claimant=None if self._is_draining else claimant,
        )
        for assignment in taken:
            self._start(assignment)
        for each in placed:
            self._doorbell.ring_execute(each.worker_name, each.key)

    def _tell(self, asked: Asked) -> None:
        """A run is to go: its worker may be this one."""
        if asked.worker_name == self.name:
            self.attend()
        else:
            self._doorbell.ring_attend(asked.worker_name, asked.run_id)

    def _assigned(self, connection: Connection, keys: Sequence[RunKey]) -> list[Assignment]:
        return make_assignments(connection, keys, self._registration.worker_id, num_devices=len(self._info.devices))

    def execute(self, key: RunKey) -> bool:
        """Claim a run and start supervising it; False if it is not this worker's to claim."""
        if self._is_draining:
            return False
        with self._database.write() as connection:
            if not runs.claim(connection, key, self._registration.worker_id):
                logger.warning("refused a doorbell for run %s: nothing here waits under that id and token", key.run_id)
                return False
            # With the claim: an outage between them would lose the run.
            [assignment] = self._assigned(connection, [key])
        return self._start(assignment)

    def _start(self, assignment: Assignment) -> bool:
        """Supervise a claimed run; False if it cannot be run here."""
        key = assignment.key
        try:
            supervisor = self._make_supervisor(assignment)
        except DljobsError as error:
            # Such as the spec of a newer release: another worker may know it.
            outcome = Outcome(FailureClass.NODE_LOST, f"worker {self.name} cannot run it: {error.message}")
            self._notices.add(Notice(key.run_id, outcome, key.token))
            self._take_turn()
            return False
        with self._lock:
            self._supervisors[key.run_id] = supervisor
        name = f"run-{key.run_id}"
        threading.Thread(target=self._see_through, args=[supervisor], daemon=True, name=name).start()
        if self._is_draining:  # since it was claimed
            supervisor.request_stop(FailureClass.PREEMPTED)
        return True

    def _make_supervisor(self, assignment: Assignment) -> Supervisor:
        job, rule = assignment.job, assignment.halving
        return Supervisor(
            assignment,
            self._database,
            self._launcher,
            self._health,
            actor=self.name,
            settings=self._settings,
            write_notice=self._write_notice,
            judge=None if rule is None else Judge(job["set_id"], rule, self._ring_attend),
        )

    def _write_notice(self, notice: Notice) -> JobState:
        """Write what is said of a run, together with others that have just come; if it ended, place what is next."""
        written = self._notices.add(notice)
        try:
            self._take_turn()
        except Exception as error:
            logger.warning("could not place the next job: %s", error, exc_info=not isinstance(error, DljobsError))
        return written.result()

    def _ring_attend(self, worker_name: str, run_id: int) -> None:
        if worker_name == self.name:
            self.attend()
        else:
            self._doorbell.ring_attend(worker_name, run_id)

    def attend(self) -> None:
        """Look whether somebody has asked something of a run that is on here: its end, or a checkpoint."""
        with self._lock:
            mine = dict(self._supervisors)
        if not mine:
            return
        with self._database.read() as connection:
            live = runs.live_runs_of(connection, self._registration.worker_id)
            must_leave = nodes.is_evicted(connection, self._info.node)
            for_whom = {run["id"]: run["preempted_for_id"] for run in live if run["preempted_for_id"] is not None}
            preempted = {run_id: preemption.describe(connection, job_id) for run_id, job_id in for_whom.items()}
        for run in live:
            if run["id"] in mine and run["cancel_requested_at"] is not None:
                mine[run["id"]].request_stop(FailureClass.CANCELLED)
            elif run["id"] in mine and run["prune_reason"] is not None:
                mine[run["id"]].request_stop(FailureClass.PRUNED)
            elif run["id"] in mine and run["id"] in preempted:
                mine[run["id"]].request_stop(FailureClass.PREEMPTED, because=preempted[run["id"]])
            elif run["id"] in mine and must_leave:
                mine[run["id"]].request_stop(FailureClass.PREEMPTED)
            elif run["id"] in mine and run["checkpoint_requested_at"] is not None:
                mine[run["id"]].request_checkpoint(run["checkpoint_requested_at"])

    # What comes round by itself

    def beat(self) -> None:
        """Renew the worker's row and all its leases; give up the runs whose lease is no longer ours."""
        with self._lock:
            mine = {supervisor.key.token: supervisor for supervisor in self._supervisors.values()}
        with self._database.write() as connection:
            is_current = registration.beat(connection, self._registration)
            valid = (
                leases.renew(connection, self._registration.worker_id, mine, self._settings.lease_s) if mine else set()
            )
        self._contact.made()
        for token, supervisor in mine.items():
            if token not in valid:
                supervisor.abandon()
        if not is_current:
            self.replaced.set()

    def sweep(self) -> None:
        """See what a lost message or a dead process left waiting.

        Raises:
            SchemaMismatch: the database was migrated under us.
        """
        schema.check(self._database)
        sweep.expire_leases(self._database, actor=self.name, is_judge=lambda: self._contact.is_steady)
        self.schedule()
        with self._database.read() as connection:
            waiting = runs.unclaimed_keys(connection, self._registration.worker_id)
        for key in waiting:
            self.execute(key)
        self.attend()
        if time.monotonic() - self._tidied_at > TIDY_EVERY_S:
            sweep.tidy(self._database)
            self._tidied_at = time.monotonic()
        if self._database.is_sqlite:
            sweep.checkpoint_wal(self._database)

    def look_after_devices(self) -> None:
        """Check the devices that nobody uses; one that is well again takes work at once."""
        if self._health.look_round():
            self.schedule()

    def run_periodically(self, stop: threading.Event, on_beat: Callable[[], None]) -> list[threading.Thread]:
        """Start the threads that beat, sweep and check the devices until `stop` is set.

        Args:
            on_beat: called after each beat, also after one that failed.
        """
        rounds = (
            (self.beat, self._settings.heartbeat_s, on_beat),
            (self.sweep, self._settings.sweep_s, lambda: None),
            (self.look_after_devices, self._settings.health_s, lambda: None),
        )
        threads = [
            threading.Thread(target=self._repeat, args=[work, interval_s, then, stop], name=work.__name__, daemon=True)
            for work, interval_s, then in rounds
        ]
        for thread in threads:
            thread.start()
        return threads

    def _repeat(
        self, work: Callable[[], None], interval_s: float, then: Callable[[], None], stop: threading.Event
    ) -> None:
        while not stop.wait(interval_s):
            try:
                work()
            except OUTAGES as error:
                self._contact.lost()
                logger.warning("%s: %s", work.__name__, error.message)
            except SchemaMismatch as error:
                if not self.outdated.is_set():
                    logger.error("%s: this worker drains and ends (%s)", error.message, error.hint)
                    self.outdated.set()
            except Exception:
                logger.exception("%s failed; it comes round again in %g s", work.__name__, interval_s)
            then()

    # The end

    @property
    def num_running(self) -> int:
        """Runs that are on here now."""
        with self._lock:
            return len(self._supervisors)

    def drain(self) -> None:
        """Take nothing new, and ask all runs to checkpoint and stop; their jobs go back in the queue."""
        self._is_draining = True
        self._say(WorkerState.DRAINING, "draining: it takes nothing new")
        with self._lock:
            mine = list(self._supervisors.values())
        for supervisor in mine:
            supervisor.request_stop(FailureClass.PREEMPTED)
        self.give_back_unclaimed()

    def give_back_unclaimed(self) -> None:
        """Runs that were placed here just before the drain go back in the queue at once."""
        try:
            with self._database.write() as connection:
                outcome = Outcome(FailureClass.PREEMPTED, f"worker {self.name} is draining")
                waiting = runs.unclaimed_keys(connection, self._registration.worker_id)
                unclaimed = [Notice(key.run_id, outcome, key.token) for key in waiting]
                take_notices(connection, unclaimed, actor=self.name)
        except OUTAGES as error:
            logger.warning("could not give back what waits: %s", error)

    def stop_at_once(self) -> None:
        """Kill all ranks now; their jobs go back in the queue and continue from their last checkpoint."""
        with self._lock:
            mine = list(self._supervisors.values())
        for supervisor in mine:
            supervisor.request_stop(FailureClass.PREEMPTED, at_once=True)

    def sign_off(self) -> None:
        """Say that the worker is gone, and tell the others that there is something to place."""
        self._say(WorkerState.OFFLINE, "stopped")
        self._doorbell.ring_schedule()

    def _say(self, state: WorkerState, reason: str) -> None:
        try:
            with self._database.write() as connection:
                registration.set_state(connection, self._registration, state, reason=reason)
        except DljobsError as error:
            logger.warning("could not say that the worker is %s: %s", state, error)

    def _see_through(self, supervisor: Supervisor) -> None:
        supervisor.run()
        with self._lock:
            self._supervisors.pop(supervisor.key.run_id, None)
