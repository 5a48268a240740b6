"""Time is the database's: no host's clock gets into a row."""

from __future__ import annotations

import time

from dljobs.service.clock import read_now
from dljobs.service.database import Database


def test_now_is_the_servers_time(database: Database) -> None:
    before = time.time()
    with database.read() as connection:
        moment = read_now(connection)
    assert before - 0.1 <= moment <= time.time() + 0.1


def test_now_moves_within_a_transaction(database: Database) -> None:
    with database.write() as connection:
        first = read_now(connection)
        seen = {read_now(connection) for _ in range(2000)}
    assert len(seen) > 1
    assert min(seen) >= first
