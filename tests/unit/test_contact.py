"""Who may call another worker silent: by a clock that the test turns."""

from __future__ import annotations

from dljobs.workers.contact import Contact


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def beat(contact: Contact, clock: Clock, num: int) -> None:
    for _ in range(num):
        clock.now_s += 1.0
        contact.made()


def test_a_worker_judges_when_all_others_have_had_time_to_beat() -> None:
    clock = Clock()
    contact = Contact(1.0, clock)
    beat(contact, clock, 2)
    assert not contact.is_steady, "it has just come"
    beat(contact, clock, 1)
    assert contact.is_steady


def test_a_refused_beat_starts_the_wait_anew() -> None:
    clock = Clock()
    contact = Contact(1.0, clock)
    beat(contact, clock, 10)
    contact.lost()
    beat(contact, clock, 2)
    assert not contact.is_steady
    beat(contact, clock, 1)
    assert contact.is_steady


def test_a_beat_that_hangs_is_a_gap_while_it_hangs_and_afterwards() -> None:
    """A database that is frozen, or a lock that somebody holds: nothing fails, everything comes late."""
    clock = Clock()
    contact = Contact(1.0, clock)
    beat(contact, clock, 10)
    clock.now_s += 30.0
    assert not contact.is_steady, "its own heartbeat is overdue"
    contact.made()
    assert not contact.is_steady, "the others may still be on their way"
    beat(contact, clock, 3)
    assert contact.is_steady
