"""Sets on the command line: submitting, reading, asking; and bad input, which is one sentence and writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event

from dljobs.service.failures import FailureClass
from tests.output_schema import read_output

from .conftest import Redis


def of_json(done):
    assert done.code == 0, done.err
    return read_output(done.out)


def test_an_array_is_one_line_and_one_id(dljobs, world, redis: Redis):
    assert dljobs("submit", "lenet", "--array", "0-15%4", "--parsable").out == "s1\n"
    assert len(redis.rings) == 1
    lines = dljobs("status").out.splitlines()
    assert lines[1].split()[0] == "s1"
    assert "0/16 jobs" in lines[1]
    assert "16 queued" in lines[1]
    assert len([line for line in lines if "lenet" in line]) == 1
    assert len([line for line in dljobs("status", "--expand").out.splitlines() if "lenet" in line]) == 17


def test_a_sweep_from_submission_to_its_best(dljobs, world):
    world.worker(num_devices=4)
    submitted = of_json(dljobs("submit", "lenet", "--sweep", "lr=0.1,0.01", "--sweep", "seed=0-1", "--json"))
    assert submitted["set_submission"]["set"]["num_jobs"] == 4
    keys = world.place()
    for key, accuracy in zip(keys, (0.5, 0.9, 0.7), strict=False):
        world.run(key)
        world.succeed(key, accuracy=accuracy)
    world.run(keys[3])
    world.end(keys[3], FailureClass.USER, "it raised")
    found = of_json(dljobs("sweep", "s1", "--json"))["sweep"]
    assert [trial["value"] for trial in found["trials"]] == [0.9, 0.7, 0.5, None]
    assert [trial["best"] for trial in found["trials"]] == [True, False, False, False]
    assert found["trials"][0]["settings"] == {"lr": 0.1, "seed": 1}
    assert dljobs("sweep", "--best").out == "2\n"
    assert "job 2 is succeeded" in dljobs("why", "s1.best").out
    table = dljobs("sweep", "s@").out
    assert table.splitlines()[1].split()[:5] == ["*", "s1.1", "2", "0.1", "1"]
    assert "it raised" in table


def test_a_set_is_cancelled_held_and_released(dljobs, world):
    dljobs("submit", "lenet", "--array", "0-3")
    assert "s1: 4 held" in dljobs("hold", "s1").err
    assert "s1: 4 queued" in dljobs("release", "s1").err
    assert "s1: 4 cancelled" in dljobs("cancel", "s1").err
    done = dljobs("cancel", "s1")
    assert (done.code != 0, "all jobs of s1 have already ended" in done.err) == (True, True)
    assert "s1: 4 queued" in dljobs("retry", "s1").err
    assert [job["id"] for job in of_json(dljobs("cancel", "s1", "--json"))["jobs"]] == [1, 2, 3, 4]


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """What the database was asked, by anybody; to be cleared."""
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        found.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield found
    event.remove(Engine, "before_cursor_execute", note)


def test_a_hundred_jobs_cost_no_more_statements_than_three(dljobs, world, statements: list[str]):
    """Whatever is asked of a set, the database is asked for all of its jobs at once."""
    world.worker(num_devices=100)
    asked: dict[int, list[int]] = {}
    for number, name in ((3, "s1"), (100, "s2")):
        dljobs("submit", "lenet", "--array", f"0-{number - 1}")
        asked[number] = []
        for command in (
            ["update", name, "--priority", "60", "--gpus", "1", "--json"],
            ["hold", name, "--json"],
            ["release", name, "--json"],
            ["cancel", name, "--wait", "--json"],
            ["retry", name, "--json"],
            ["status", "--start", "--expand", "--json"],
            ["sweep", name],
        ):
            statements.clear()
            assert dljobs(*command).code == 0
            asked[number].append(len(statements))
        for key in world.place():
            world.run(key)
            world.write_points(key, "test", "accuracy", {1: 0.5, 2: 0.6})
            world.end(key, FailureClass.USER, "it raised", error={"hint": "mend it"})
        statements.clear()
        done = dljobs("wait", name, "--json")
        assert (done.code, "mend it" in done.err, len(done.json)) == (100, True, number)
        asked[number].append(len(statements))
        statements.clear()
        assert len(dljobs("plot", name, "--json").json) == number
        asked[number].append(len(statements))
    assert asked[100] == asked[3]
    assert len(done.err.splitlines()) == 41
    assert done.err.splitlines()[-1] == "100 jobs: 100 failed"


def test_a_dry_run_writes_nothing(dljobs, world):
    found = of_json(dljobs("submit", "lenet", "--sweep", "lr~log(1e-4,1e-1)", "--trials", "3", "--dry-run", "--json"))
    again = of_json(dljobs("submit", "lenet", "--sweep", "lr~log(1e-4,1e-1)", "--trials", "3", "--dry-run", "--json"))
    assert found == again
    assert len({point["lr"] for point in found["set_submission"]["points"]}) == 3
    assert of_json(dljobs("status", "--json"))["status"]["sets"] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--array", "5-3"], "counts backwards"),
        (["--array", "0-3", "--sweep", "lr=1"], "would make two sets"),
        (["--array", "0-3%0"], "max-parallel must be between 1"),
        (["--array", "0-999999"], "too many values"),
        (["--array", "0-3", "--seed", "1", "--max-parallel", "0"], "max-parallel must be between 1"),
        (["--sweep", "lrr=0.1,0.2"], "lr"),
        (["--sweep", "lr=0.1,fast"], "fast"),
        (["--sweep", "lr=0.1,0.1"], "twice"),
        (["--sweep", "lr=0.1,2", "--lr", "1"], "given twice"),
        (["--sweep", "lr=0.1,0"], "with lr=0: lr is 0"),
        (["--sweep", "lr~log(0,1)", "--trials", "3"], "above 0"),
        (["--sweep", "lr~log(1,2)"], "add --trials"),
        (["--sweep", "lr~lag(1,2)", "--trials", "3"], "log"),
        (["--sweep", "lr=0.1,0.2,0.3", "--halving", "acuracy:max"], "accuracy"),
        (["--sweep", "lr=0.1,0.2,0.3", "--halving", "accuracy:max", "--epochs", "1"], "between epochs"),
        (["--trials", "3"], "about a set"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(dljobs, world, options, words):
    done = dljobs("submit", "lenet", *options)
    assert done.code == 2
    assert words in done.err
    assert len(done.err.splitlines()) <= 2
    assert of_json(dljobs("status", "--json"))["status"]["num_waiting"] == 0
