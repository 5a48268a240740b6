"""What is given to `dljobs predict`, told apart before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from dljobs.errors import DljobsError, NotFound, UsageError
from dljobs.service.inputs import parse_indices, read_inputs


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("3,7-9, 1", [3, 7, 8, 9, 1]), ("all", None), ("5-5", [5])],
)
def test_numbers_of_test_samples(text: str, expected: list[int] | None) -> None:
    assert parse_indices(text) == expected


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1-", "0-999999999", "1,,2", "١", "1-2-3"])
def test_numbers_that_name_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_indices(text)


def test_images_folders_and_rows(tmp_path: Path) -> None:
    cats = tmp_path / "photos" / "cat"
    cats.mkdir(parents=True)
    for name in ("b.JPG", "a.png", "notes.txt"):
        (cats / name).touch()
    single = tmp_path / "one.webp"
    single.touch()
    found = read_inputs([str(single), str(tmp_path / "photos")], None)
    assert found == {"images": [str(single), str(cats / "a.png"), str(cats / "b.JPG")]}
    assert read_inputs(["0.5", "1,2.5,-3e2"], None) == {
        "rows": [[0.5], [1, 2.5, -300]],
        "names": ["0.5", "1,2.5,-3e2"],
    }
    assert read_inputs([], "1-2") == {"test": [1, 2]}


def test_csv_with_and_without_a_header(tmp_path: Path) -> None:
    plain, headed, other = tmp_path / "plain.csv", tmp_path / "headed.txt", tmp_path / "other.csv"
    plain.write_text("1,2\n\n3, 4\n")
    headed.write_text('\ufeffwidth,"height, m"\n1,"2"\n', encoding="utf-8")
    other.write_text("kind;size\n\nrose;3\n")
    found = read_inputs([str(plain), str(headed)], None)
    assert found["names"] == [f"{plain}:1", f"{plain}:3", f"{headed}:2"]
    assert found["rows"] == [[1, 2], [3, 4], {"width": "1", "height, m": "2"}]
    assert read_inputs([str(other)], None, ";") == {"rows": [{"kind": "rose", "size": "3"}], "names": [f"{other}:3"]}


def test_what_cannot_be(tmp_path: Path) -> None:
    names = ("empty", "wrong.csv", "ragged.csv", "binary.csv", "x.png")
    empty, wrong, ragged, binary, image = (tmp_path / name for name in names)
    ragged.write_text("a,b\n1\n")
    empty.mkdir()
    wrong.write_text("1,2\n3,four\n")
    binary.write_bytes(b"\xff\xfe\x00\x01")
    image.touch()
    cases: list[tuple[list[str], str | None, type[DljobsError], str]] = [
        ([], None, UsageError, "there is nothing to predict for"),
        (["1"], "0", UsageError, "not both"),
        ([str(empty)], None, NotFound, "there are no images in"),
        ([str(tmp_path / "none.png")], None, NotFound, "there is no file"),
        ([str(ragged)], None, UsageError, "ragged.csv:2: 1 cells, where the header has 2"),
        ([str(wrong)], None, UsageError, "wrong.csv:2: 'four' in column 2 is no number"),
        ([str(binary)], None, UsageError, "cannot be read as an image or as CSV"),
        ([str(image), "1"], None, UsageError, "images and rows of numbers"),
        (["nan"], None, NotFound, "there is no file nan"),
    ]
    for inputs, test, kind, words in cases:
        with pytest.raises(kind) as caught:
            read_inputs(inputs, test)
        assert words in caught.value.message
