"""The tree of errors, and what a user reads."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljobs import errors
from dljobs.errors import DljobsError, ExitCode, NotFound, UnknownName, UsageError, nearest

ALL = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}


def test_all_are_one_tree_and_the_picture_shows_it() -> None:
    assert all(issubclass(error, DljobsError) for error in ALL)
    picture = re.findall(r"^[ │├└─]*(\w+)\s+(\d+) ", errors.__doc__ or "", re.MULTILINE)
    assert {(name, int(code)) for name, code in picture} == {(error.__name__, int(error.exit_code)) for error in ALL}


def test_the_documented_exit_codes() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "ERROR": 1,
        "USAGE": 2,
        "JOB_FAILED": 100,
        "NOT_FINISHED": 101,
        "NOT_FOUND": 102,
        "CANCELLED": 103,
        "INFRASTRUCTURE_FAILED": 104,
        "TIME_LIMIT": 105,
    }
    assert UsageError("x").exit_code == 2
    assert NotFound("x").exit_code == 102


def test_message_and_hint() -> None:
    error = DljobsError("it broke", "mend it")
    assert (str(error), error.message, error.hint) == ("it broke", "it broke", "mend it")
    assert DljobsError("it broke").hint == ""


@pytest.mark.parametrize(
    ("given_name", "near"),
    [("lenet5", "lenet"), ("lent", "lenet"), ("resnet81", "resnet18"), ("zzz", None)],
)
def test_the_nearest_name(given_name: str, near: str | None) -> None:
    error = UnknownName("model", given_name, ["resnet18", "lenet"])
    assert error.nearest == near == nearest(given_name, ["resnet18", "lenet"])
    assert repr(given_name) in error.message
    if near:
        assert f"did you mean {near!r}?" in error.message
    else:
        assert "known: lenet, resnet18" in error.message


def test_a_long_list_is_cut_and_an_empty_one_said() -> None:
    assert UnknownName("model", "q", [f"name-{n:03}" for n in range(100)]).message.endswith("name-029, …")
    assert UnknownName("model", "q", []).message.endswith("none is known")
    assert UnknownName("model", "q", iter(["a", "b"])).valid == ["a", "b"]


@given(st.text(), st.lists(st.text(min_size=1)))
def test_any_name_gives_one_line(name: str, valid: list[str]) -> None:
    error = UnknownName("model", name, valid)
    assert error.nearest is None or error.nearest in valid
    assert repr(name) in str(error)
