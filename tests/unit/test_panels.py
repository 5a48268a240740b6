"""Panels: which curves stand together, where their points are, and how they look as text and as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from dljobs.errors import NotFound
from dljobs.service.panels import Axis, Panel, Series, panels_of
from dljobs.service.plots import draw, draw_panels
from dljobs.service.text_plot import text_lines
from tests.pictures import check_picture


def curve(split: str, name: str, values: dict[int, float | None], *, job_id: int = 1, per_epoch: int = 10) -> Any:
    points = [[step, -(-step // per_epoch), value] for step, value in values.items()]
    about = {"job_id": job_id, "job_name": "lenet", "split": split, "name": name}
    return {**about, "points": points, "times": [1000.0 * job_id + 3 * step for step in values]}


TRAIN = curve("train", "loss", {5: 4.0, 10: 2.0, 15: None, 20: 1.0})
MEANS = curve("train", "epoch_loss", {10: 3.0, 20: 1.5, 30: 1.0})
TESTS = curve("test", "loss", {10: 2.5, 20: 1.25})
ACCURACY = curve("test", "accuracy", {10: 0.5, 20: 0.75})


def test_the_loss_first_and_each_other_metric_beside_it() -> None:
    loss, accuracy = panels_of([ACCURACY, MEANS, TESTS, TRAIN])
    assert (loss.title, accuracy.title) == ("loss", "accuracy")
    assert [(each.label, each.style) for each in loss.series] == [
        ("job 1 lenet, train", "thin"),
        ("job 1 lenet, train, mean of the epoch", "dashed"),
        ("job 1 lenet, test", "marked"),
    ]
    assert [value for value in loss.series[0].y if not math.isnan(value)] == [4.0, 2.0, 1.0]


def test_each_job_has_a_colour() -> None:
    (panel,) = panels_of([TRAIN, TESTS, curve("train", "loss", {1: 1.0}, job_id=7)])
    assert {each.label: each.colour for each in panel.series} == {
        "job 1 lenet, train": 0,
        "job 1 lenet, test": 0,
        "job 7 lenet, train": 1,
    }


@pytest.mark.parametrize(
    ("axis", "label", "train", "means"),
    [
        ("step", "step", [5, 10, 15, 20], [5, 15, 25]),
        ("epoch", "epoch", [0.5, 1, 1.5, 2], [0.5, 1.5, 2.5]),
        ("time", "seconds since the first step", [0, 15, 30, 45], [7.5, 30, 60]),
    ],
)
def test_over_what(axis: Axis, label: str, train: list[float], means: list[float]) -> None:
    (panel,) = panels_of([TRAIN, MEANS], axis)
    assert panel.x_label == label
    assert [list(each.x) for each in panel.series] == [train, means]


def test_epochs_before_the_first_and_after_the_last_test() -> None:
    long = curve("train", "loss", {5: 1.0, 25: 1.0})
    (panel,) = panels_of([long, curve("test", "loss", {10: 1.0})], "epoch")
    assert [list(each.x) for each in panel.series] == [[0.5, 2.5], [1]]
    (alone,) = panels_of([long], "epoch")
    assert list(alone.series[0].x) == [1, 3], "nobody knows where its epochs ended"


def test_long_runs_are_counted_in_minutes_and_hours() -> None:
    for steps, label in ((50, "minutes since the first step"), (5000, "hours since the first step")):
        (panel,) = panels_of([curve("train", "loss", {1: 1.0, steps: 2.0})], "time")
        assert panel.x_label == label


def test_a_log_scale_where_losses_span_decades() -> None:
    def is_log(name: str, *values: float) -> bool:
        return panels_of([curve("test", name, dict(enumerate(values)))])[0].is_log

    assert is_log("loss", 10.0, 0.01)
    assert not is_log("loss", 10.0, 1.0)
    assert not is_log("loss", 10.0, 0.0)
    assert not is_log("accuracy", 0.001, 0.9)


def test_what_repeats_the_loss_has_no_panel() -> None:
    loss = curve("test", "loss", {10: 2.5, 20: 1.25})
    same = curve("test", "mse", {10: 2.5000001, 20: 1.25})
    other = curve("test", "mae", {10: 1.5, 20: 1.0})
    assert [panel.title for panel in panels_of([loss, same, other])] == ["loss", "mae"]
    assert [panel.title for panel in panels_of([same])] == ["mse"]


def test_nothing_to_draw() -> None:
    for curves in ([], [curve("train", "loss", {1: None})], [curve("train", "epoch_loss", {1: 1.0})]):
        with pytest.raises(NotFound, match="no metrics to draw"):
            panels_of(curves)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_picture_of_many_panels(tmp_path: Path, suffix: str) -> None:
    metrics = [curve("test", name, {10: 0.5, 20: 0.75}) for name in ("a", "b", "c")]
    target = tmp_path / f"curves{suffix}"
    draw([TRAIN, MEANS, TESTS, *metrics], target, "epoch")
    if suffix == ".pdf":
        assert target.read_bytes().startswith(b"%PDF")
        return
    check_picture(target)


def test_the_mean_loss_of_epochs_is_drawn_with_the_losses(tmp_path: Path) -> None:
    draw([TRAIN, MEANS, TESTS, ACCURACY], tmp_path / "curves.svg")
    drawn = (tmp_path / "curves.svg").read_text()
    # Text is drawn as glyphs, with what it says in a comment beside them.
    assert drawn.count("<!-- step -->") == 2
    assert "<!-- job 1 lenet, train, mean of the epoch -->" in drawn
    assert "<!-- epoch_loss -->" not in drawn


def test_single_values_can_be_seen(tmp_path: Path) -> None:
    draw_panels([Panel("one", "x", "y", [Series("a", [1.0], [2.0], "thin")])], tmp_path / "one.png")
    check_picture(tmp_path / "one.png")


def test_text_has_bounds_letters_and_a_legend() -> None:
    (panel,) = panels_of([TRAIN, TESTS])
    lines = text_lines(panel, 60)
    assert lines[0] == "loss"
    assert max(map(len, lines)) <= 60
    assert lines[1].startswith("        4 ┤")
    assert lines[14].startswith("        1 ┤")
    assert "a job 1 lenet, test" in lines[-1]
    assert sum(line.count("a") for line in lines[1:15]) == 2, "two tests, two letters"
    assert any("⠀" < character <= "⣿" for line in lines[1:15] for character in line)
    assert lines[-4].split() == ["5", "20"]


def test_text_on_a_log_scale_falls_in_a_straight_line() -> None:
    values = [10.0**-number for number in range(13)]
    lines = text_lines(Panel("loss", "step", "loss", [Series("a", list(range(13)), values, "points")], is_log=True), 40)
    assert lines[0] == "loss (log scale)"
    assert (lines[1].split()[0], lines[14].split()[0]) == ("10", "1e-12") or lines[1].split()[0] == "1"
    columns = [next(i for i, c in enumerate(line[11:]) if c != " ") for line in lines[1:15] if line[11:].strip()]
    assert columns == sorted(columns)
    assert len(columns) >= 12


def test_text_of_flat_lines_gaps_and_nothing() -> None:
    def lines(*values: float) -> list[str]:
        return text_lines(Panel("t", "x", "y", [Series("s", list(range(len(values))), values)]), 5)

    assert lines(3.0, 3.0, 3.0)[1].startswith("      4.5 ┤")
    assert lines(0.0)[1].startswith("        1 ┤")
    assert lines(math.nan, math.inf) == ["t", "(nothing to draw)"]
    assert lines(1.0, math.nan, 2.0, math.inf, 3.0)[0] == "t"


def test_text_is_painted() -> None:
    panel = Panel("t", "x", "y", [Series("first", [0.0, 1.0], [0.0, 1.0], "marked", 3)])
    painted = "\n".join(text_lines(panel, 30, lambda text, colour: f"<{colour}:{text}>"))
    assert "<3:a first>" in painted
    assert "<3:a>" in painted
