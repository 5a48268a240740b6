"""Tables on a pipe; tests/e2e shows them on a terminal."""

from __future__ import annotations

import pytest

from dljobs.service.cli.output import show_bytes, show_number
from dljobs.service.cli.table import Column, cell_width, table_lines

COLUMNS = (Column("id", right=True), Column("name", kept=False), Column("state"), Column("why", kept=False))


def test_columns_are_aligned_and_lines_end_without_blanks() -> None:
    rows = [["1", "a", "queued", "x"], ["12", "bc", "held", ""]]
    assert table_lines(COLUMNS, rows) == ["id  name  state   why", " 1  a     queued  x", "12  bc    held"]
    assert table_lines(COLUMNS, []) == ["id  name  state  why"]


def test_wide_letters_count_twice() -> None:
    assert [cell_width(text) for text in ("abc", "é", "e\u0301", "日本")] == [3, 1, 1, 4]
    lines = table_lines(COLUMNS, [["1", "日本日", "queued", "x"], ["2", "ab", "queued", "y"]])
    assert lines[1:] == [" 1  日本日  queued  x", " 2  ab      queued  y"]


def test_what_moves_a_terminals_cursor_is_taken_out() -> None:
    assert table_lines(COLUMNS, [["1", "a\x1b[2J\nb", "queued", ""]])[1] == " 1  a [2J b  queued"


def test_only_what_may_be_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ["1" * 30, "n" * 100, "s" * 60, "w" * 200]
    cells = table_lines(COLUMNS, [row])[1].split("  ")
    assert (cells[0], cells[2], cells[3]) == (row[0], row[2], row[3])
    assert cells[1].endswith("…")
    monkeypatch.setenv("COLUMNS", "500")
    assert table_lines(COLUMNS, [row])[1].split("  ") == row


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.97512, "0.9751"),
        (1.0, "1"),
        (12, "12"),
        (1.234e-05, "1.234e-05"),
        (0, "0"),
        (None, "-"),
        (123456.7, "123,457"),
        (1.5e9, "1.5e+09"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert show_number(value) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**20, "5.0 MiB"), (3 * 2**40, "3072.0 GiB")],
)
def test_sizes_are_in_binary_units(size: int, text: str) -> None:
    assert show_bytes(size) == text
