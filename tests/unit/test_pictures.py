"""The pictures: drawn for few things and for many, in each format, and refused in words."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from dljobs.errors import DljobsError, UsageError
from dljobs.service.confusion_plot import draw_confusion
from dljobs.service.figures import check_target
from dljobs.service.grid_plot import describe, draw_grid, is_wrong
from dljobs.service.plots import draw_panels
from dljobs.service.set_panels import panels_of_sweep
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


def sweep_over_words(values: dict[str, list[float]]) -> dict[str, object]:
    trials = [
        {"settings": {"optimizer": word}, "value": value, "best": False} for word in values for value in values[word]
    ]
    max(trials, key=lambda trial: trial["value"])["best"] = True
    axes = [{"name": "optimizer", "is_log": False, "is_drawn": False}]
    return {"id": "s1", "metric": "accuracy", "axes": axes, "trials": trials}


def test_a_sweep_over_words_has_them_along_its_axis(tmp_path: Path) -> None:
    draw_panels(
        panels_of_sweep(sweep_over_words({"sgd": [0.9, 0.8], "adam": [0.95], "rmsprop": [0.5]})), tmp_path / "a.svg"
    )
    text = (tmp_path / "a.svg").read_text()
    # Matplotlib draws text as outlines, and says which in a comment.
    ticks = re.findall(r'<g id="xtick_\d+">.*?<use xlink:href="#\w+" x="([\d.]+)".*?<!-- (\w+) -->', text, re.DOTALL)
    assert [word for _x, word in ticks] == ["adam", "rmsprop", "sgd"]
    adam, rmsprop, sgd = (float(x) for x, _word in ticks)
    assert rmsprop - adam == pytest.approx(sgd - rmsprop)
    of_points = re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="([\d.]+)" style="fill', text)
    places = sorted((float(x), float(y)) for x, y in of_points)
    drawn = [place for place in places if any(place[0] == pytest.approx(x) for x in (adam, rmsprop, sgd))]
    assert [x for x, _y in drawn] == pytest.approx([adam, rmsprop, sgd, sgd])
    assert drawn[0][1] < drawn[1][1]  # adam is best, and the y axis of an SVG goes down
    draw_panels(panels_of_sweep(sweep_over_words({"sgd": [0.9], "adam": [0.95]})), tmp_path / "a.png")
    check_picture(tmp_path / "a.png")


def test_a_sweep_over_many_long_words(tmp_path: Path) -> None:
    many = {f"a very long name of a file number {number}": [number / 100] for number in range(100)}
    draw_panels(panels_of_sweep(sweep_over_words(many)), tmp_path / "many.png")
    check_picture(tmp_path / "many.png")
