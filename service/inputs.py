"""Inputs: what a user gives a trained model to predict for, sorted out before anything is loaded.

It owns how images, folders, CSV files, typed numbers and numbers of test samples are told apart. It does not read
images: the child process that has the model does.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dljobs.errors import NotFound, UsageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_SAMPLES = 100_000
RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


def read_inputs(inputs: Sequence[str], test: str | None) -> dict[str, Any]:
    """The part of a request (`dljobs.models.predict`) that says what to predict for.

    Args:
        inputs: image files, folders of them, CSV files, or rows of numbers such as "0.5" and "1,2,3".
        test: numbers of test samples: "0-15", "3,7-9", "all".

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
    images, rows = [], []
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
            rows += _read_csv(path)
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


def _read_csv(path: Path) -> Iterator[tuple[str, list[float]]]:
    """Each line's name and numbers; a first line of words is a header."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(itertools.islice(csv.reader(file), MAX_SAMPLES + 1))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as an image or as CSV: {error}") from None
    for number, cells in enumerate(lines, start=1):
        if not any(cell.strip() for cell in cells):
            continue
        values = [_number(cell) for cell in cells]
        wrong = [column for column, value in enumerate(values) if value is None]
        if not wrong:
            yield f"{path}:{number}", [value for value in values if value is not None]
        elif number > 1:
            raise UsageError(f"{path}:{number}: {cells[wrong[0]]!r} in column {wrong[0] + 1} is no number")


def _parse_row(text: str) -> list[float] | None:
    values = [_number(cell) for cell in text.split(",")]
    return None if any(value is None for value in values) else [value for value in values if value is not None]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
