"""Announcements: what takes long while data are made ready, printed, and handed to whoever listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def announce(text: str, *, printed: bool = True) -> None:
    """Tell what is being done. What is not `printed` is only a sign of life for the listener."""
    if printed:
        print(text, flush=True)
    if (listener := _listener.get()) is not None:
        listener(text)


@contextlib.contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Hand each announcement that is made in the block to the listener, too."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
