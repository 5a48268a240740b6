"""The protocol of jobs and leases as a state machine over the real store: in whatever order things come, truths hold.

Doorbells are lost, repeated and late; leases run out at every point; workers freeze, come back and restart; people
cancel, hold and retry. The model knows little: which runs were claimed, and how often a write was accepted. What has to
be true at each moment is `check_truths`. DLJOBS_TEST_EXAMPLES makes it look longer.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, delete, select, update

from dljobs.errors import DljobsError, StaleToken
from dljobs.service import ends, jobs, offers, runs, sweep
from dljobs.service import leases as lease_store
from dljobs.service.clock import now
from dljobs.service.database import Database
from dljobs.service.dispatch import dispatch
from dljobs.service.failures import FailureClass
from dljobs.service.runs import Outcome, RunKey
from dljobs.service.states import (
    ENDED_JOBS,
    JOB_TRANSITIONS,
    LIVE_RUNS,
    PLACED_JOBS,
    JobState,
    RunState,
)
from dljobs.service.tables import devices, events, leases, metadata
from dljobs.service.tables import jobs as job_table
from dljobs.service.tables import runs as run_table

from .rows import LEASE_S, add_worker, make_eligible, submit

EXAMPLES = int(os.environ.get("DLJOBS_TEST_EXAMPLES", "12"))
NUM_WORKERS, NUM_DEVICES, MAX_JOBS = 2, 2, 6
OUTCOMES = st.sampled_from([None, *(failure for failure in FailureClass)])


class Protocol(RuleBasedStateMachine):
    """Everybody who acts on the queue; `database` is set by the test."""

    database: Database

    doorbells = Bundle("doorbells")  # messages on their way
    supervisors = Bundle("supervisors")  # (worker, key): who believes that the run is his, rightly or not

    def __init__(self) -> None:
        super().__init__()
        with self.database.write() as connection:
            for table in reversed(metadata.sorted_tables):
                if table.name not in ("dljobs_version", "policy"):
                    connection.execute(delete(table))
        self.workers = [add_worker(self.database, f"w{n}", NUM_DEVICES).worker_id for n in range(NUM_WORKERS)]
        self.claims: Counter[str] = Counter()  # by token
        self.accepted: Counter[int] = Counter()  # writes, by run
        self.num_jobs = 0

    # People

    @precondition(lambda self: self.num_jobs < MAX_JOBS)
    @rule(num_devices=st.integers(1, NUM_DEVICES))
    def submit(self, num_devices: int) -> None:
        submit(self.database, num_devices)
        self.num_jobs += 1

    @rule(what=st.sampled_from(["cancel", "hold", "release", "retry"]), number=st.integers(0, MAX_JOBS - 1))
    def ask(self, what: str, number: int) -> None:
        """Somebody asks something of a job, which may be refused."""
        try:
            with self.database.write() as connection:
                job_id = self._job_ids(connection)[number]
                match what:
                    case "cancel":
                        jobs.request_cancel(connection, job_id, actor="ada")
                    case "retry":
                        jobs.retry_job(connection, job_id, actor="ada", fresh=False)
                    case _:
                        jobs.hold_job(connection, job_id, actor="ada", release=what == "release")
        except (DljobsError, IndexError):
            pass

    # Doorbells

    @rule(target=doorbells)
    def dispatch(self) -> object:
        """Any worker schedules, and rings whoever got something."""
        return multiple(*(placed.key for placed in dispatch(self.database, lease_s=LEASE_S)))

    @rule(target=supervisors, key=doorbells, worker=st.integers(0, NUM_WORKERS - 1))
    def hear(self, key: RunKey, worker: int) -> object:
        """A doorbell arrives, maybe again, maybe late, maybe at the wrong worker; it stays to arrive once more."""
        return self._claim(key, worker)

    @rule(key=consumes(doorbells))
    def lose_doorbell(self, key: RunKey) -> None:
        pass

    @rule(target=supervisors, worker=st.integers(0, NUM_WORKERS - 1))
    def see_unclaimed(self, worker: int) -> object:
        """The sweep of a worker looks for what no doorbell told."""
        with self.database.read() as connection:
            waiting = runs.unclaimed_keys(connection, self.workers[worker])
        found = [self._claim_one(key, worker) for key in waiting]
        assert all(found), "what is shown as waiting for a worker is its to claim"
        return multiple(*((worker, key) for key in waiting))

    # Workers, alive or not; a frozen one is one that does nothing for a while

    @rule(mine=supervisors)
    def write(self, mine: tuple[int, RunKey]) -> None:
        """A supervisor reports progress."""
        _worker, key = mine
        is_live = self._is_live(key)
        try:
            with self.database.write() as connection:
                runs.fenced_update(connection, key, step=self.accepted[key.run_id] + 1)
            assert is_live, "a write got through after the end of its run"
            self.accepted[key.run_id] += 1
        except StaleToken:
            assert not is_live, "a live run's own write was refused"

    @rule(mine=supervisors)
    def start(self, mine: tuple[int, RunKey]) -> None:
        """All ranks have started."""
        try:
            with self.database.write() as connection:
                runs.mark_running(connection, mine[1], actor="worker")
        except DljobsError:  # it has ended, or it runs already
            pass

    @rule(mine=consumes(supervisors), failure=OUTCOMES)
    def end(self, mine: tuple[int, RunKey], failure: FailureClass | None) -> None:
        """A supervisor writes the end of its run."""
        _worker, key = mine
        is_live = self._is_live(key)
        try:
            with self.database.write() as connection:
                if failure is None and self._state(connection, key) == RunState.STARTING:
                    runs.mark_running(connection, key, actor="worker")
                ends.end_run(connection, key.run_id, Outcome(failure, "told"), actor="worker", token=key.token)
            assert is_live, "a run ended twice"
        except StaleToken:
            assert not is_live

    @rule(target=supervisors, mine=consumes(supervisors))
    def beat(self, mine: tuple[int, RunKey]) -> object:
        """A worker renews the lease; whoever is refused gives up."""
        worker, key = mine
        is_live = self._is_live(key)
        with self.database.write() as connection:
            valid = lease_store.renew(connection, self.workers[worker], [key.token], LEASE_S)
        assert (key.token in valid) == is_live
        return mine if valid else multiple()

    @rule(worker=st.integers(0, NUM_WORKERS - 1))
    def restart(self, worker: int) -> None:
        """A worker has started again: those who believed to run something there are dead, and say nothing more.

        They stay in `supervisors` all the same: what the dead say late must not count either.
        """
        sweep.end_runs_of_restarted(self.database, self.workers[worker], actor=f"w{worker}")

    # Time

    @rule(number=st.integers(0, 20))
    def let_a_lease_run_out(self, number: int) -> None:
        with self.database.write() as connection:
            live = connection.execute(
                select(leases.c.run_id).where(leases.c.released_at.is_(None)).distinct()
            ).scalars()
            for run_id in sorted(live)[number : number + 1]:
                late = update(leases).where(leases.c.run_id == run_id, leases.c.released_at.is_(None))
                connection.execute(late.values(expires_at=now() - 1.0))

    @rule()
    def expire(self) -> None:
        sweep.expire_leases(self.database, actor="w0")

    @rule()
    def let_backoffs_pass(self) -> None:
        with self.database.read() as connection:
            job_ids = self._job_ids(connection)
        for job_id in job_ids:
            make_eligible(self.database, job_id)

    # What has to be true

    @invariant()
    def check_truths(self) -> None:
        with self.database.read() as connection:
            all_jobs = connection.execute(select(job_table)).mappings().all()
            all_runs = connection.execute(select(run_table).order_by(run_table.c.number)).mappings().all()
            held = connection.execute(select(leases).where(leases.c.released_at.is_(None))).mappings().all()
            counted = dict(connection.execute(select(devices.c.id, devices.c.leased_percent)).all())
            moves = connection.execute(
                select(events.c.job_id, events.c.from_state, events.c.to_state)
                .where(events.c.kind == "job", events.c.from_state.is_not(None))
                .order_by(events.c.id)
            ).all()
        assert len(all_jobs) == self.num_jobs, "a job was lost"
        assert all(count == 1 for count in self.claims.values()), "a run was claimed twice"
        of_job = defaultdict(list)
        for run in all_runs:
            of_job[run["job_id"]].append(run)
            assert (run["step"] or 0) == self.accepted[run["id"]], "a refused write changed something"
        for job in all_jobs:
            states = [run["state"] for run in of_job[job["id"]]]
            live = [state for state in states if state in LIVE_RUNS]
            assert len(live) == (job["state"] in PLACED_JOBS), (job["state"], states)
            assert not live or states[-1] == live[0], "a run that is not the newest is live"
            assert states.count(RunState.SUCCEEDED) == (job["state"] == JobState.SUCCEEDED), (job["state"], states)
            assert job["num_runs"] == len(states)
        live_runs = {run["id"]: run for run in all_runs if run["state"] in LIVE_RUNS}
        per_run = Counter(lease["run_id"] for lease in held)
        assert per_run == {run_id: run["num_devices"] for run_id, run in live_runs.items()}, "leases and runs differ"
        per_device = Counter(lease["device_id"] for lease in held)
        assert all(count == 1 for count in per_device.values()), "a device is leased twice"
        assert counted == {device: 100 * per_device[device] for device in counted}
        last = {job["id"]: None for job in all_jobs}
        for move in moves:
            assert last[move.job_id] in (None, move.from_state), "the history has a gap"
            assert move.to_state in JOB_TRANSITIONS[JobState(move.from_state)]
            last[move.job_id] = move.to_state
        assert all(last[job["id"]] in (None, job["state"]) for job in all_jobs), "a state without its event"

    def teardown(self) -> None:
        """Once nothing goes wrong any more, every job that nobody holds comes to its end."""
        for _round in range(4 * MAX_JOBS):
            self.let_backoffs_pass()
            with self.database.write() as connection:
                for run_id in connection.execute(
                    select(run_table.c.id).where(run_table.c.state.in_(LIVE_RUNS))
                ).scalars():
                    ends.end_run(connection, run_id, Outcome(FailureClass.PREEMPTED, "the end"), actor="worker")
            for placed in dispatch(self.database, lease_s=LEASE_S):
                with self.database.write() as connection:
                    run = runs.get_run(connection, placed.key.run_id)
                    assert runs.claim(connection, placed.key, run["worker_id"])
                    runs.mark_running(connection, placed.key, actor="worker")
                    done = Outcome(None, "trained")
                    ends.end_run(connection, run["id"], done, actor="worker", token=placed.key.token)
        with self.database.read() as connection:
            states = set(connection.execute(select(job_table.c.state)).scalars())
            assert states <= {*ENDED_JOBS, JobState.HELD}
            assert not offers.held_devices(connection)

    # What the rules share

    def _job_ids(self, connection: Connection) -> list[int]:
        return list(connection.execute(select(job_table.c.id).order_by(job_table.c.id)).scalars())

    def _state(self, connection: Connection, key: RunKey) -> str:
        return str(runs.get_run(connection, key.run_id)["state"])

    def _is_live(self, key: RunKey) -> bool:
        with self.database.read() as connection:
            return self._state(connection, key) in LIVE_RUNS

    def _claim(self, key: RunKey, worker: int) -> object:
        return (worker, key) if self._claim_one(key, worker) else multiple()

    def _claim_one(self, key: RunKey, worker: int) -> bool:
        with self.database.write() as connection:
            is_claimed = runs.claim(connection, key, self.workers[worker])
        if is_claimed:
            self.claims[key.token] += 1
        return is_claimed


def test_the_truths_hold_whatever_happens(database: Database) -> None:
    class OnThisDatabase(Protocol):
        pass

    OnThisDatabase.database = database
    run_state_machine_as_test(
        OnThisDatabase,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
