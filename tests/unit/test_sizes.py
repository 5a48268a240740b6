"""How many devices: a number, a range, or a part of one, as people write it and as it is shown."""

from __future__ import annotations

import pytest

from dljobs.errors import UsageError
from dljobs.service.sizes import Size, parse_size, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4", Size(4, 4)),
        ("2-8", Size(8, 2)),
        ("3-3", Size(3, 3)),
        ("0.25", Size(share_percent=25)),
        (".5", Size(share_percent=50)),
        ("0.07", Size(share_percent=7)),
        (" 1 ", Size()),
    ],
)
def test_what_is_meant(text: str, size: Size) -> None:
    assert parse_size(text) == size
    assert parse_size(str(size)) == size


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "0.0", "0.125", "1.5", "1.0", "2-", "-2", "2-4-8", "two", "1e3", "8-2", "0-2"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="--gpus"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1.5", "nearest: --gpus 1 or 2"),
        ("1.0", "nearest: --gpus 1"),
        ("0", "nearest: --gpus 1"),
        ("-1", "nearest: --gpus 1"),
        ("0.001", "nearest: --gpus 0.01"),
        ("0.125", "nearest: --gpus 0.12 or 0.13"),
        ("0.290", "nearest: --gpus 0.29"),
        ("0.999", "nearest: --gpus 0.99 or 1"),
        ("1e-999999", "nearest: --gpus 0.01"),
        ("1e999999", "nearest: --gpus 4096"),
        ("nan", "write 4, a range 2-8, or 0.25 of one device"),
        ("two", "write 4, a range 2-8, or 0.25 of one device"),
    ],
)
def test_the_nearest_that_would_do(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert caught.value.hint == hint


def test_in_words() -> None:
    assert [str(Size(4, 4)), str(Size(8, 2)), str(Size(share_percent=30))] == ["4", "2-8", "0.3"]
    assert [show_size(1), show_size(2), show_size(1, 25)] == ["1 device", "2 devices", "0.25 of a device"]
