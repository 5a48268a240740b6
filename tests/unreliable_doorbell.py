"""A client's doorbell that cannot be relied on; `tests/unreliable/` is the same for workers."""

from __future__ import annotations

import itertools

from dljobs.service.doorbell import Doorbell
from dljobs.service.settings import Settings


class UnreliableDoorbell(Doorbell):
    """Loses one ring in five and repeats one in five."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._count = itertools.count()
        self.num_dropped = self.num_repeated = 0

    def _ring(self, task: str, arguments: list[object], queue: str) -> bool:
        fate = next(self._count) % 5
        if fate == 1:
            self.num_dropped += 1
            return True
        if fate == 3:
            self.num_repeated += 1
            super()._ring(task, arguments, queue)
        return super()._ring(task, arguments, queue)
