"""Cells: the number in a cell of a table, or in one that was typed. Standard library only: clients read tables too."""

from __future__ import annotations

import math


def cell_number(text: str) -> float | None:
    """The finite number that the text is, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
