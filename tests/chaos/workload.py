"""The jobs that chaos runs, and what must come of each: the same weights as without any fault, or its own failure."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import RowMapping, select

from dljobs.errors import DljobsError
from dljobs.service import control
from dljobs.service.states import ENDED_JOBS
from dljobs.service.submission import Request, enqueue, prepare
from dljobs.service.tables import jobs
from tests.unreliable_doorbell import UnreliableDoorbell

from .site import Site

NET = """
import time
import torch
from torch import nn

class Net(nn.Module):
    '''Draws, so that a resumed run is only exact with all of its random states; raises at a step if asked to.'''

    def __init__(self, step_s: float = 0.0, raise_at: int = 0):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(1024, 16), nn.Dropout(0.3), nn.Linear(16, 10))
        self.step_s, self.raise_at, self.num = step_s, raise_at, 0

    def forward(self, x):
        if self.training:
            time.sleep(self.step_s)
            self.num += 1
            print("batch", self.num)
            if self.num == self.raise_at:
                raise ValueError("the labels are upside down")
        return self.layers(x)
"""
DATA = """
import torch
from dljobs.models.data import Data, TensorSplit

def make_data():
    x = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    split = TensorSplit(x, torch.arange(64) % 10)
    return Data(split, split, sample_shape=(1, 32, 32), num_classes=10)
"""


@dataclass(frozen=True)
class Kind:
    """A kind of job: what is asked for, and how it has to end."""

    sets: tuple[str, ...]
    num_devices: int = 1
    ends: tuple[tuple[str, str | None], ...] = (("succeeded", None),)  # states and failure classes


_TRAINING = ("batch_size=8", "checkpoint_every_steps=8", "log_every=1")
KINDS = {
    "short": Kind(("epochs=4", "step_s=0.02")),
    "two-ranks": Kind(("epochs=6", "step_s=0.05"), num_devices=2),
    "long": Kind(("epochs=12", "step_s=0.06")),
    "raises": Kind(("epochs=4", "step_s=0.02", "raise_at=10"), ends=(("failed", "user"),)),
    "cancelled": Kind(("epochs=100000", "step_s=0.05"), ends=(("cancelled", "cancelled"), ("cancelled", None))),
}


class Workload:
    """Submits jobs of all kinds, and knows of each which it is."""

    def __init__(self, site: Site, chooser: random.Random) -> None:
        self._site = site
        self._chooser = chooser
        self._bell = UnreliableDoorbell(site.cluster.settings)
        files = site.folder / "own"
        files.mkdir()
        (files / "net.py").write_text(NET)
        (files / "data.py").write_text(DATA)
        self._files = files
        self._num = 0
        self._pending: Request | None = None
        self.digests: dict[str, str] = {}  # kind -> of the undisturbed weights

    def measure_undisturbed(self) -> None:
        """Run one job of each kind that succeeds, before any fault."""
        wanted = [name for name, kind in KINDS.items() if kind.ends == (("succeeded", None),)]
        job_ids = {name: self.submit(name) for name in wanted}
        for name, job_id in job_ids.items():
            job = self._site.cluster.wait_for_end(job_id)
            assert job["state"] == "succeeded", dict(job)
            self.digests[name] = digest_of(job)

    def submit(self, kind: str | None = None) -> int:
        """Submit a job of this or of any kind.

        Raises:
            DljobsError: the database is away. The next call submits the same again: a commit whose answer was lost has
                made a job, which its idempotency key finds.
        """
        if self._pending is None:
            self._num += 1
            self._pending = self._request(kind or self._chooser.choice(list(KINDS)))
        cluster = self._site.cluster
        new = prepare(self._pending, user="chaos")
        job_id = enqueue(cluster.database, self._bell, new).job_id
        self._pending = None
        return job_id

    def _request(self, kind: str) -> Request:
        return Request(
            f"{self._files / 'net.py'}:Net",
            data=f"{self._files / 'data.py'}:make_data",
            sets=(*_TRAINING, *KINDS[kind].sets),
            num_devices=KINDS[kind].num_devices,
            max_retries=20,  # a monkey kills ranks more often than any user would accept
            name=kind,
            idempotency_key=f"{self._num}",
        )

    def cancel_some(self) -> None:
        """Ask for the end of the endless jobs, of each sooner or later; while the database is away, nothing happens."""
        cluster = self._site.cluster
        for job in self.unfinished():
            if job["name"] == "cancelled" and job["cancel_requested_at"] is None and self._chooser.random() < 0.1:
                with suppress(DljobsError):
                    control.cancel(cluster.database, self._bell, job["id"], actor="chaos")

    def unfinished(self) -> list[RowMapping]:
        """The jobs that have not ended; none while the database is away."""
        with suppress(DljobsError), self._site.cluster.database.read() as connection:
            query = select(jobs).where(jobs.c.state.not_in(ENDED_JOBS)).order_by(jobs.c.id)
            return list(connection.execute(query).mappings())
        return []


def digest_of(job: RowMapping) -> str:
    """Of the job's final weights."""
    return str(json.loads(job["result_json"])["weights_sha256"])
