"""Working ahead: an iterator whose items are made by a thread while the last ones are still in use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The items, at most `depth` of them made and not yet taken. What raises in the thread raises here, in its turn.

    However the caller ends, the thread has ended before: nobody else uses `items` any more.
    """
    made: SimpleQueue[tuple[list[T], BaseException | None]] = SimpleQueue()
    slots = threading.Semaphore(depth)
    unwanted = threading.Event()

    def work() -> None:
        try:
            while slots.acquire() and not unwanted.is_set():
                made.put(([next(items)], None))
        except StopIteration:
            made.put(([], None))
        except BaseException as error:
            made.put(([], error))

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if not item:
                return
            slots.release()
            # `item` must not outlive its turn: the caller's memory is bounded by `depth`.
            yield item.pop()
    finally:
        unwanted.set()
        slots.release()
        thread.join()
