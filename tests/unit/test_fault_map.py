"""The table of faults in `tests/README.md` names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_test_of_the_table_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (TESTS / "README.md").read_text())
    assert len(named) > 20
    missing = [
        f"{path}::{name}" for path, name in named if f"\ndef {name}(" not in (TESTS / "integration" / path).read_text()
    ]
    assert not missing
