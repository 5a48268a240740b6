"""Names: what a user types for jobs and sets.

12      a job                     s3      a set, all of its jobs
@       the latest job            s@      the latest set
@2      two before the latest     s3.7    the job of set 3 with index 7
                                  s3.best the best of them
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dljobs.errors import NotFound, UsageError

from .statements import AnyConnection, rows, value, whole

MAX_ID = 2**63 - 1
FORMS = "write a number, @ for the latest job or @1 for the one before; s3 is a set, s3.7 a job of it"
BEST = "best"

_NAME = re.compile(rf"(?P<kind>s?)(?P<id>@?\d{{0,19}})(?:\.(?P<member>\d{{1,10}}|{BEST}))?", re.ASCII)


@dataclass(frozen=True)
class Target:
    """A job, or with `is_set` a set."""

    id: int
    is_set: bool = False

    def __str__(self) -> str:
        return f"s{self.id}" if self.is_set else f"job {self.id}"


def resolve(connection: AnyConnection, text: str) -> Target:
    """The job or the set that a user meant.

    Raises:
        UsageError: it is no name of one.
        NotFound: there is no such one.
    """
    found = _NAME.fullmatch(text)
    if found is None or not found["id"] or (found["member"] and not found["kind"]):
        raise UsageError(f"{text[:40]!r} is no job id", FORMS)
    if not found["kind"]:
        return Target(_resolve_row(connection, "jobs", found["id"], "job ", text))
    set_id = _resolve_row(connection, "sets", found["id"], "set s", text)
    if not found["member"]:
        return Target(set_id, is_set=True)
    return Target(_resolve_member(connection, set_id, found["member"]))


def resolve_job(connection: AnyConnection, text: str) -> int:
    """The one job that a user meant.

    Raises:
        UsageError: it is no name of one, or that of a set.
        NotFound: there is no such job.
    """
    target = resolve(connection, text)
    if target.is_set:
        first = value(connection, "SELECT set_index FROM jobs WHERE set_id = :set_id LIMIT 1", set_id=target.id)
        words = f"s{target.id} is a set, and this is about one job"
        name = f"s{target.id}"
        raise UsageError(
            words, f"name one of its jobs, {name}.{first} or {name}.{BEST}; `dljobs sweep {name}` lists them"
        )
    return target.id


def resolve_all(connection: AnyConnection, texts: Iterable[str]) -> list[Target]:
    """As `resolve`; each once."""
    return list(dict.fromkeys(resolve(connection, text) for text in texts))


def member_ids(connection: AnyConnection, targets: Iterable[Target]) -> list[int]:
    """The jobs that are meant, those of sets in their order; each once."""
    found: list[int] = []
    for target in targets:
        if target.is_set:
            of_set = "SELECT id FROM jobs WHERE set_id = :set_id ORDER BY set_index"
            found += [row["id"] for row in rows(connection, of_set, set_id=target.id)]
        else:
            found.append(target.id)
    return list(dict.fromkeys(found))


def _resolve_row(connection: AnyConnection, table: str, text: str, what: str, name: str) -> int:
    hint = "list jobs with `dljobs status --all`"
    if text.startswith("@"):
        back = int(text[1:] or "0")
        latest_first = f"SELECT id FROM {table} ORDER BY id DESC LIMIT 1 OFFSET :back"  # noqa: S608 (a name of ours)
        found = value(connection, latest_first, back=min(back, MAX_ID))
        if found is None:
            raise NotFound(f"there is no {what.removesuffix(' s').strip()} {name}", hint)
        return int(found)
    number = int(text)
    if number > MAX_ID:  # neither database counts further
        raise UsageError(f"{name!r} is no job id", FORMS)
    if value(connection, f"SELECT id FROM {table} WHERE id = :id", id=number) is None:  # noqa: S608
        raise NotFound(f"there is no {what}{number}", hint)
    return number


def _resolve_member(connection: AnyConnection, set_id: int, member: str) -> int:
    if member == BEST:
        from .ranking import best_id

        return best_id(whole(connection), set_id)
    wanted = "SELECT id FROM jobs WHERE set_id = :set_id AND set_index = :index"
    found = value(connection, wanted, set_id=set_id, index=min(int(member), 2**31 - 1))
    if found is None:
        of_set = "SELECT set_index FROM jobs WHERE set_id = :set_id ORDER BY set_index"
        indices = [row["set_index"] for row in rows(connection, of_set, set_id=set_id)]
        near = min(indices, key=lambda index: abs(index - int(member)))
        hint = f"nearest: s{set_id}.{near}; `dljobs sweep s{set_id}` lists all"
        raise NotFound(f"s{set_id} has no job {int(member)}", hint)
    return int(found)
