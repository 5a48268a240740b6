"""The ledger: the device-seconds that users have had, for fair share and `dljobs usage`.

Each run that ends adds a row, so that two ends never wait for each other; the scheduler, which is alone, folds them
into one a user. What it costs to read does not grow with history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, RowMapping, delete, func, insert, select

from .scheduling.usage import Spell, decayed_usage
from .tables import ledger

FOLD_ABOVE = 50


def add_spells(connection: Connection, spells: Iterable[Spell]) -> None:
    """Enter what runs that end now have had since they were placed."""
    connection.execute(insert(ledger), [dataclasses.asdict(spell) for spell in spells])


def fold(connection: Connection, moment: float, half_life_s: float) -> None:
    """Make many rows one a user; the caller is the only scheduler."""
    if connection.execute(select(func.count()).select_from(ledger)).scalar_one() <= FOLD_ABOVE:
        return
    rows = _rows(connection)
    if len(rows) <= 2 * len({row["user"] for row in rows}):
        return
    usage = decayed_usage(map(_spell, rows), moment, half_life_s)
    ids = [row["id"] for row in rows]
    for begin in range(0, len(ids), 500):  # a statement takes so many values, not any number
        connection.execute(delete(ledger).where(ledger.c.id.in_(ids[begin : begin + 500])))
    folded = [
        {"user": user, "device_s": device_s, "begun_at": moment, "ended_at": moment}
        for user, device_s in usage.items()
        if device_s >= 1
    ]
    if folded:
        connection.execute(insert(ledger), folded)


def _rows(connection: Connection) -> Sequence[RowMapping]:
    return connection.execute(select(ledger).order_by(ledger.c.id)).mappings().all()


def _spell(row: RowMapping) -> Spell:
    return Spell(row["user"], row["device_s"], row["begun_at"], row["ended_at"])
