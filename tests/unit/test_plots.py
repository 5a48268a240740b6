"""Plots: what is drawn where."""

from __future__ import annotations

from pathlib import Path

from dljobs.service import plots


def test_the_mean_loss_of_epochs_is_drawn_with_the_losses(tmp_path: Path) -> None:
    def curve(split: str, name: str) -> plots.Json:
        points = [[1, 1, 0.5], [2, 1, None], [3, 1, 0.25]]
        return {"job_id": 1, "job_name": "n", "split": split, "name": name, "points": points}

    curves = [curve("train", "loss"), curve("train", "epoch_loss"), curve("test", "loss"), curve("test", "accuracy")]
    target = tmp_path / "curves.svg"
    plots.draw(curves, target)
    drawn = target.read_text()
    # Text is drawn as glyphs, with what it says in a comment beside them.
    assert drawn.count("<!-- step -->") == 2
    assert "<!-- job 1 n, train, mean of the epoch -->" in drawn
    assert "<!-- epoch_loss -->" not in drawn
