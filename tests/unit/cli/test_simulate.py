"""`dljobs simulate`: what it prints, draws and refuses."""

from __future__ import annotations

import pytest

SMALL = ("simulate", "--jobs", "60", "--cluster", "nodes=2,gpus=4")


def test_policies_side_by_side(dljobs):
    done = dljobs(*SMALL, "--seed", "3")
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.lines[1:4]] == ["fifo", "backfill", "dljobs"]
    assert "utilisation" in done.lines[0]
    assert done.err.count("simulating 60 jobs on 8 devices") == 3


def test_a_trace_and_back(dljobs, tmp_path):
    saved = tmp_path / "jobs.csv"
    about = ("--cluster", "nodes=2,gpus=4", "--policy", "backfill", "--json")
    made = dljobs("simulate", "--jobs", "60", "--save-trace", str(saved), *about).json
    assert saved.read_text().startswith("submit_s,devices,duration_s,user")
    read = dljobs("simulate", "--trace", str(saved), *about).json
    timing = ("plan_p50_ms", "plan_p99_ms", "decisions_per_s")
    for found in (made, read):
        for name in timing:
            found["policies"][0].pop(name)
    assert made == read


def test_it_draws(dljobs, tmp_path):
    done = dljobs(*SMALL, "-o", str(tmp_path / "waits.png"))
    assert done.code == 0, done.err
    assert (tmp_path / "waits.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cluster", "16x8"), "nodes=16,gpus=8"),
        (("--cluster", "nodes=0,gpus=8"), "no cluster"),
        (("--policy", "fifi"), "fifo"),
        (("--trace", "none.csv"), "cannot be read"),
        (("--trace", "a.csv", "--synthetic", "pai"), "cannot go together"),
        (("--synthetic", "pia"), "pai"),
    ],
)
def test_what_cannot_be_is_refused(dljobs, arguments, words):
    done = dljobs("simulate", *arguments)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


def test_jobs_that_fit_nowhere(dljobs, tmp_path):
    saved = tmp_path / "jobs.csv"
    saved.write_text("submit_s,devices,duration_s,user\n0,8,1,ada\n")
    done = dljobs("simulate", "--cluster", "nodes=2,gpus=4", "--trace", str(saved))
    assert done.code == 2
    assert "4 devices" in done.err
