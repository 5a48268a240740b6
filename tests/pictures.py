"""What a test can say of a picture without looking at it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def check_picture(path: Path, *, least: tuple[int, int] = (200, 150), most: tuple[int, int] = (3000, 3000)) -> None:
    """It is one, of a sensible size in pixels (or an SVG with words), and something is drawn on it."""
    if path.suffix == ".svg":
        text = path.read_text()
        assert "<svg" in text
        assert text.count("<path") > 5
        return
    with Image.open(path) as image:
        width, height = image.size
        pixels = np.asarray(image.convert("L"))
    assert least[0] <= width <= most[0]
    assert least[1] <= height <= most[1]
    assert (pixels < 128).mean() > 0.002, "nothing is drawn"
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edge == 255).all(), "what is drawn is cut off at the edge"
