"""The consumer's own restarts, with a Celery that breaks off each time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from celery import Celery, signals

from dljobs.workers import consumer
from dljobs.workers.consumer import RESTART_AFTER_S, RESTART_WITHIN_S, Consumer, Stopping


class Pauses(threading.Event):
    """Is set after so many waits, and keeps how long each was to be."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.seen: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seen.append(timeout or 0.0)
        if len(self.seen) == self.number:
            self.set()
        return self.is_set()


class Unsignalled(Stopping):
    """Leaves this process's signals alone."""

    def take_signals(self) -> None:
        pass


@pytest.fixture
def pauses_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[float]], list[float]]]:
    """How long a consumer pauses that breaks off after each of these times."""
    before = [(signal, list(signal.receivers)) for signal in (signals.worker_ready, signals.worker_shutting_down)]

    def run(lasting_s: list[float]) -> list[float]:
        moments = iter([moment for lasts_s in lasting_s for moment in (0.0, lasts_s)])
        monkeypatch.setattr(consumer, "time", SimpleNamespace(monotonic=lambda: next(moments)))
        monkeypatch.setattr(Consumer, "_make_controller", lambda _: SimpleNamespace(start=lambda: None))
        stopping = Unsignalled()
        stopping.is_asked = pauses = Pauses(len(lasting_s))
        worker = SimpleNamespace(name="w1")
        Consumer(Celery("test", set_as_current=False), worker, stopping, on_ready=lambda: None).run()  # type: ignore[arg-type]
        return pauses.seen

    yield run
    for signal, receivers in before:
        signal.receivers = receivers


def test_a_consumer_that_keeps_breaking_off_is_left_alone_for_longer_and_longer(
    pauses_of: Callable[[list[float]], list[float]],
) -> None:
    pauses = pauses_of([0.1] * 40)
    assert pauses[0] < 2 * RESTART_AFTER_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == RESTART_WITHIN_S
    assert sum(pauses[:12]) < RESTART_WITHIN_S, "a dozen messages that are none are soon passed over"


def test_one_that_has_lasted_starts_again_at_once(pauses_of: Callable[[list[float]], list[float]]) -> None:
    assert pauses_of([0.1] * 20 + [RESTART_WITHIN_S + 1])[-1] == RESTART_AFTER_S
