"""The gang: the parts of a run over several nodes, and what their supervisors tell each other through the database.

Each supervisor keeps its own part's row and looks at the others' about twice a second. It decides nothing: a supervisor
asks here whether the others are there, want the end, have failed or are done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from dljobs.errors import OUTAGES, DljobsError, StaleToken
from dljobs.service.clock import now
from dljobs.service.database import Database
from dljobs.service.failures import FailureClass
from dljobs.service.parts import HEAD, list_parts, write_part
from dljobs.service.runs import RunKey, fenced_update, get_run
from dljobs.service.statements import Row

from .outcome import Evidence
from .rendezvous import Rendezvous, host, join

LOOK_EVERY_S = 0.5
MEET_EVERY_S = 0.05
RETRY_AFTER_S = 2.0
# How long a head that listens may stay out of reach: a network that loses packets needs some tries.
REACH_WITHIN_S = 30.0


class Gang:
    """The parts of one run, as one of their supervisors sees them. For one thread."""

    def __init__(self, database: Database, key: RunKey, node_rank: int, parts: list[Row]) -> None:
        self._database = database
        self._key = key
        self._node_rank = node_rank
        self._parts = parts
        self._news: dict[str, Any] = {}  # of this part, for its row
        self._next_look_at = 0.0
        self.over = ""  # why the run goes on without this part, or no more at all

    @property
    def is_head(self) -> bool:
        """Whether this part speaks for the run."""
        return self._node_rank == HEAD

    def tell(self, **columns: Any) -> None:
        """Write something to this part's row with the next look."""
        self._news |= columns
        self._next_look_at = min(self._next_look_at, time.monotonic() + MEET_EVERY_S)

    def look(self, every_s: float = LOOK_EVERY_S) -> None:
        """Tell the news of this part and read the others', if it is time; while the database is away, later."""
        if time.monotonic() < self._next_look_at or self.over:
            return
        try:
            self._exchange()
            self._next_look_at = time.monotonic() + every_s
        except StaleToken as error:
            self.over = self.over or str(error)
        except OUTAGES:
            self._next_look_at = time.monotonic() + RETRY_AFTER_S

    def _exchange(self) -> None:
        news = dict(self._news)
        if news:
            with self._database.write() as connection:
                fenced_update(connection, self._key)
                write_part(connection, self._key.run_id, self._node_rank, **news)
            self._news.clear()
        with self._database.read() as connection:
            run = get_run(connection, self._key.run_id)
            self._parts = list_parts(connection, self._key.run_id)
        if run["ended_at"] is not None or run["token"] != self._key.token:
            self.over = f"the run is {run['state']}: {run['reason']}"

    def meet(self, address: str, may_go_on: Callable[[], bool]) -> Rendezvous | None:
        """Wait until every part is ready to start its ranks. None: it may not go on.

        Args:
            address: of this node, where the others reach it.

        Raises:
            DljobsError: the head cannot be reached, or cannot listen; the message says where.
        """
        rendezvous = self._open(address) if self.is_head else None
        while may_go_on():
            self.look(MEET_EVERY_S)
            if rendezvous is None and (endpoint := self._parts[HEAD]["endpoint"]):
                rendezvous = self._join(endpoint, may_go_on)
            elif rendezvous is not None and all(part["ready_at"] is not None for part in self._parts):
                return rendezvous
            time.sleep(MEET_EVERY_S)
        return None

    def _open(self, address: str) -> Rendezvous:
        try:
            rendezvous = host(address, len(self._parts))
        except (OSError, RuntimeError) as error:
            raise DljobsError(f"worker {self._name(HEAD)} cannot listen at {address}: {error}") from None
        self.tell(endpoint=rendezvous.endpoint, ready_at=now())
        return rendezvous

    def _join(self, endpoint: str, may_go_on: Callable[[], bool]) -> Rendezvous | None:
        deadline = time.monotonic() + REACH_WITHIN_S
        rendezvous = join(
            endpoint, self._node_rank, len(self._parts), lambda: may_go_on() and time.monotonic() < deadline
        )
        if rendezvous is not None:
            self.tell(ready_at=now())
        elif time.monotonic() >= deadline:
            names = f"worker {self._name(self._node_rank)} cannot reach worker {self._name(HEAD)}"
            raise DljobsError(
                f"{names} at {endpoint}: set `interface` of both (DLJOBS_INTERFACE) to what connects them"
            )
        return rendezvous

    @property
    def stop(self) -> FailureClass | None:
        """What another part asks the end of the run for."""
        asked = [part["stop"] for part in self._others if part["stop"] is not None]
        return FailureClass(asked[0]) if asked else None

    @property
    def all_started(self) -> bool:
        """Whether the ranks of the other parts run."""
        return all(part["started_at"] is not None for part in self._others)

    @property
    def all_ended(self) -> bool:
        """Whether the ranks of the other parts are gone."""
        return all(part["ended_at"] is not None for part in self._others)

    @property
    def broken(self) -> str:
        """The worker whose part has ended in a way that no other part outlives; empty while there is none."""
        for part in self._others:
            if part["ended_at"] is not None and (part["node_rank"] == HEAD or not _ended_well(part)):
                return str(part["worker"])
        return ""

    def end(self, evidence: Evidence) -> None:
        """This part has ended: its ranks are gone, and all they wrote is in the database."""
        self.tell(evidence_json=json.dumps(evidence.to_json()), ended_at=now())

    def add_to(self, evidence: Evidence) -> None:
        """Put together what was seen on all nodes, once all parts have ended."""
        for part in self._others:
            evidence.absorb(json.loads(part["evidence_json"] or "{}"))

    @property
    def _others(self) -> list[Row]:
        return [part for part in self._parts if part["node_rank"] != self._node_rank]

    def _name(self, node_rank: int) -> str:
        return str(self._parts[node_rank]["worker"])


def _ended_well(part: Row) -> bool:
    seen = json.loads(part["evidence_json"] or "{}")
    return bool(seen.get("exits")) and all(end["exitcode"] == 0 for end in seen["exits"])
