"""The pictures: drawn for few things and for many, in each format, and refused in words."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from dljobs.errors import DljobsError, UsageError
from dljobs.service.confusion_plot import draw_confusion
from dljobs.service.figures import check_target
from dljobs.service.grid_plot import describe, draw_grid, is_wrong
from tests.pictures import check_picture


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("num_classes", [1, 2, 10, 60])
def test_a_confusion_matrix(tmp_path: Path, num_classes: int, suffix: str) -> None:
    matrix = [[10 if row == column else row % 3 for column in range(num_classes)] for row in range(num_classes)]
    matrix[-1] = [0] * num_classes  # a class without samples
    target = tmp_path / f"confusion{suffix}"
    names = [f"a class called {number}" for number in range(num_classes)]
    draw_confusion(matrix, names, "job 1, on digits", target)
    check_picture(target)


def said(predicted: str, true: str | None) -> dict[str, object]:
    return {"class": predicted, "true": true, "probability": 0.5, "values": None}


@pytest.mark.parametrize(("num_images", "channels"), [(1, 1), (7, 3), (16, 1), (100, 3)])
def test_a_grid(tmp_path: Path, num_images: int, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 255, (num_images, 8, 12, channels), dtype=np.uint8)
    predictions = [said("a long class name indeed", (None, "dog")[number % 2]) for number in range(num_images)]
    draw_grid(images, predictions, "job 1, epoch-2", tmp_path / "grid.png")
    check_picture(tmp_path / "grid.png")


def test_what_a_grid_says() -> None:
    assert describe(said("7", "7")) == "7 (50%)\ntrue 7"
    assert (is_wrong(said("7", "1")), is_wrong(said("7", None)), is_wrong(said("7", "7"))) == (True, False, False)
    assert describe(said("7", None)) == "7 (50%)"
    assert describe({"values": [1.23456, 2, 3, 4], "class": None, "true": None}) == "1.23, 2, 3"


def test_a_target_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_target(tmp_path / "x.png")
    with pytest.raises(UsageError, match=r"cannot draw a \.jpg") as caught:
        check_target(tmp_path / "x.jpg")
    assert ".png, .svg, .pdf" in caught.value.hint
    with pytest.raises(UsageError, match="a file without a suffix"):
        check_target(tmp_path / "x")
    with pytest.raises(DljobsError, match="there is no folder"):
        check_target(tmp_path / "none" / "x.png")
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DljobsError, match="drawing needs it") as missing:
        check_target(tmp_path / "x.png")
    assert "dljobs[plot]" in missing.value.hint
