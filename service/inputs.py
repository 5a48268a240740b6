"""Inputs: what a user gives a trained model to predict for, sorted out before anything is loaded.

It owns how images, folders, CSV files, typed numbers and numbers of test samples are told apart. It does not read
images: the child process that has the model does.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dljobs.errors import NotFound, UsageError
from dljobs.models.cells import cell_number

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_SAMPLES = 100_000
Row = list[float] | dict[str, str]  # a header gives the cells names
RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


def read_inputs(inputs: Sequence[str], test: str | None, delimiter: str = ",") -> dict[str, Any]:
    """The part of a request (`dljobs.models.predict`) that says what to predict for.

    Args:
        inputs: image files, folders of them, CSV files, or rows of numbers such as "0.5" and "1,2,3".
        test: numbers of test samples: "0-15", "3,7-9", "all".
        delimiter: what stands between the cells of a CSV file.

    Raises:
        UsageError: there is nothing, or it cannot go together, or it is none of these.
        NotFound: a file that does not exist.
    """
    if (test is None) == (not inputs):
        raise UsageError(
            "give inputs or --test, not both" if inputs else "there is nothing to predict for",
            "name images, a folder, a CSV file or numbers, or take test samples: --test 0-15",
        )
    if test is not None:
        return {"test": parse_indices(test)}
    images: list[str] = []
    rows: list[tuple[str, Row]] = []
    for given in inputs:
        numbers = _parse_row(given)
        path = Path(given)
        if numbers is not None:
            rows.append((given, numbers))
        elif path.is_dir():
            images += _images_in(path)
        elif not path.exists():
            raise NotFound(f"there is no file {given}", "inputs are images, folders, CSV files, or numbers")
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(given)
        else:
            rows += _read_csv(path, delimiter)
    if images and rows:
        raise UsageError("images and rows of numbers cannot be inputs of the same model", "give one kind of them")
    if images:
        return {"images": images}
    return {"rows": [numbers for _name, numbers in rows], "names": [name for name, _numbers in rows]}


def parse_indices(text: str) -> list[int] | None:
    """ "0-3,7" as [0, 1, 2, 3, 7]; None for "all".

    Raises:
        UsageError: it is none, or asks for too many.
    """
    if text.strip() == "all":
        return None
    found: list[int] = []
    for part in text.split(","):
        matched = RANGE.fullmatch(part.strip())
        first, last = (int(matched[1]), int(matched[2] or matched[1])) if matched else (1, 0)
        if first > last:
            raise UsageError(f"{text[:40]!r} names no test samples", "write 0-15, or 3,7-9, or all")
        if len(found) + last - first >= MAX_SAMPLES:
            raise UsageError(f"{text[:40]!r} asks for more than {MAX_SAMPLES:,} samples", "write all to take all")
        found += range(first, last + 1)
    return found


def _images_in(folder: Path) -> list[str]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not found:
        raise NotFound(f"there are no images in {folder}", f"their names end in {', '.join(IMAGE_SUFFIXES)}")
    return [str(path) for path in found]


def _read_csv(path: Path, delimiter: str) -> Iterator[tuple[str, Row]]:
    """Each line's name, and its numbers or, under a first line of words, its cells by the names of their columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(itertools.islice(csv.reader(file, delimiter=delimiter), MAX_SAMPLES + 2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as an image or as CSV: {error}") from None
    filled = [(number, cells) for number, cells in enumerate(lines, start=1) if any(cell.strip() for cell in cells)]
    header: list[str] | None = None
    if filled and all(cell_number(cell) is None for cell in filled[0][1]):
        header = [cell.strip() for cell in filled.pop(0)[1]]
    for number, cells in filled:
        yield (
            f"{path}:{number}",
            _numbers(path, number, cells) if header is None else _named(path, number, cells, header),
        )


def _numbers(path: Path, line: int, cells: list[str]) -> list[float]:
    values = [cell_number(cell) for cell in cells]
    if None in values:
        wrong = values.index(None)
        raise UsageError(f"{path}:{line}: {cells[wrong][:40]!r} in column {wrong + 1} is no number")
    return [value for value in values if value is not None]


def _named(path: Path, line: int, cells: list[str], header: list[str]) -> dict[str, str]:
    if len(cells) != len(header):
        raise UsageError(f"{path}:{line}: {len(cells)} cells, where the header has {len(header)}")
    return dict(zip(header, cells, strict=True))


def _parse_row(text: str) -> list[float] | None:
    values = [cell_number(cell) for cell in text.split(",")]
    return None if any(value is None for value in values) else [value for value in values if value is not None]
