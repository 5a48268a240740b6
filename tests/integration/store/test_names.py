"""Names: what users type for jobs and sets, and what it means."""

from __future__ import annotations

import pytest

from dljobs.errors import NotFound, UsageError
from dljobs.service import names, sets
from dljobs.service.database import Database
from dljobs.service.names import Target

from .rows import new_set, submit


def test_job_ids_can_be_abbreviated(database: Database) -> None:
    first, second, third = (submit(database) for _ in range(3))
    with database.read() as connection:
        texts = ("@", "@0", "@1", "@2", str(second), f"0{second}")
        resolved = [names.resolve_job(connection, text) for text in texts]
    assert resolved == [third, third, second, first, second, second]


def test_an_id_of_no_job(database: Database) -> None:
    submit(database)
    for text in ["99", "0", "@3", "@999999999", str(2**63 - 1)]:
        with database.read() as connection, pytest.raises(NotFound, match="there is no job") as caught:
            names.resolve(connection, text)
        assert "dljobs status" in caught.value.hint
        assert caught.value.exit_code == 102


def test_what_is_no_id(database: Database) -> None:
    submit(database)
    too_large = [str(2**63), "9" * 30, "9" * 5000, "@" + "9" * 5000, "s" + "9" * 5000, "s1." + "9" * 5000]
    no_set = ["s", "s.", "s.3", "s1.", "S1", "s-1", "s1.-1", "s1.x", "s1.7.7", "1.best", "@.3", "s٣", "ss1", "s1 "]
    for text in ["", " ", "-1", "1.0", "x", "@-1", "@x", "@@", "٣", "@٣", "1e3", *too_large, *no_set]:
        with database.read() as connection, pytest.raises(UsageError, match="is no job id") as caught:
            names.resolve(connection, text)
        assert len(str(caught.value)) < 250


def test_a_set_and_its_members(database: Database) -> None:
    with database.write() as connection:
        first, _ = sets.insert_set(connection, new_set(3))
        second, _ = sets.insert_set(connection, new_set(2, first_index=5))
    with database.read() as connection:
        members = names.member_ids(connection, [Target(first, is_set=True)])
        others = names.member_ids(connection, [Target(second, is_set=True)])
        assert names.resolve(connection, f"s{first}") == Target(first, is_set=True)
        assert names.resolve(connection, "s@") == Target(second, is_set=True)
        assert names.resolve(connection, "s@1.2") == Target(members[2])
        assert [names.resolve_job(connection, f"s{second}.{index}") for index in (5, 6)] == others
        assert names.resolve_all(connection, ["s@", str(members[0]), "s@", f"s{second}"]) == [
            Target(second, is_set=True),
            Target(members[0]),
        ]


def test_no_such_set_or_member(database: Database) -> None:
    with database.write() as connection:
        set_id, _ = sets.insert_set(connection, new_set(3))
    with database.read() as connection:
        for text in ("s99", "s0", "s@1", "s@9.1"):
            with pytest.raises(NotFound, match="there is no set"):
                names.resolve(connection, text)
        for member, near in (("3", 2), ("0000000009", 2), ("9999999999", 2)):
            with pytest.raises(NotFound, match=f"s{set_id} has no job {int(member)}") as caught:
                names.resolve(connection, f"s{set_id}.{member}")
            assert f"nearest: s{set_id}.{near};" in caught.value.hint
        with pytest.raises(NotFound, match="has succeeded yet"):
            names.resolve(connection, f"s{set_id}.best")


def test_a_set_where_one_job_is_meant(database: Database) -> None:
    with database.write() as connection:
        set_id, _ = sets.insert_set(connection, new_set(3, first_index=4))
    with database.read() as connection, pytest.raises(UsageError, match="is a set, and this is about") as caught:
        names.resolve_job(connection, f"s{set_id}")
    assert f"s{set_id}.4 or s{set_id}.best" in caught.value.hint
