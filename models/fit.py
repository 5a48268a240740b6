"""The task "fit" of a client's child process: what a regression has learned, beside the data and the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dljobs.errors import UsageError

from .data import Data, Split
from .evaluation import evaluating
from .trained import load_trained

MAX_POINTS = 500
NUM_ON_CURVE = 241
MARGIN = 0.05  # of the data's range, on both sides


def fit(request: Mapping[str, Any]) -> dict[str, Any]:
    """The learned function, which `load_trained` finds by the request.

    Returns:
        For a function of one number (or of its powers) `points` and `fit`, each {x, y}, and `truth`, likewise or null.
        For any other one `parity`: {true, predicted} values of the test samples.

    Raises:
        UsageError: the data are classes.
    """
    trained = load_trained(request)
    data = trained.data
    if data.num_classes is not None:
        raise UsageError("there is no curve to draw: the data are classes", hint="draw samples instead: --grid")
    x, y = _first(data.train)
    degree = _degree(x)
    if degree == 0 or y[0].numel() != 1:
        return {"parity": parity(trained.model, data, trained.device)}
    # The test says where the function matters; random training samples may lie anywhere.
    low, high = (float(bound) for bound in _abscissa(_first(data.test)[0]).aminmax())
    room = MARGIN * (high - low)
    places = torch.linspace(low - room, high + room, NUM_ON_CURVE)
    near = (_abscissa(x) >= places[0]) & (_abscissa(x) <= places[-1])
    samples = _powers(places, degree).reshape(-1, *data.sample_shape)
    seen = data.scaling.inverse if data.scaling else (lambda abscissas: abscissas)
    axis = seen(places[:, None])
    return {
        "points": _unique_points(seen(_abscissa(x)[near, None]), data.in_units(y)[near]),
        "fit": _line(axis, _outputs(trained.model, data, trained.device, samples)),
        "truth": _line(axis, data.in_units(data.truth(samples))) if data.truth else None,
    }


def _first(split: Split) -> tuple[Tensor, Tensor]:
    return split.batch(torch.arange(min(len(split), MAX_POINTS)))


def _degree(x: Tensor) -> int:
    """k if each sample is a number with its powers up to k, 1 if it is a bare number, 0 if it is something else."""
    flat = x.reshape(len(x), -1)
    degree = flat.shape[1]
    return degree if torch.allclose(flat, _powers(flat[:, 0], degree), rtol=1e-4, atol=1e-6) else 0


def _powers(numbers: Tensor, degree: int) -> Tensor:
    """[n] to [n, degree]."""
    return torch.stack([numbers**power for power in range(1, degree + 1)], dim=1)


def _abscissa(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)[:, 0]


def parity(model: nn.Module, data: Data, device: torch.device | str) -> dict[str, list[float]]:
    """True and predicted values of the first test samples, in the data's units."""
    x, y = _first(data.test)
    predicted = _outputs(model, data, device, x)
    return {"true": data.in_units(y).flatten().tolist(), "predicted": predicted.flatten().tolist()}


def _outputs(model: nn.Module, data: Data, device: torch.device | str, x: Tensor) -> Tensor:
    with evaluating(model):
        output: Tensor = model(x.to(device))
    return data.in_units(output.cpu())


def _line(x: Tensor, y: Tensor) -> dict[str, list[float]]:
    return {"x": x.flatten().tolist(), "y": y.flatten().tolist()}


def _unique_points(x: Tensor, y: Tensor) -> dict[str, list[float]]:
    """An endless split may show the same few points over and over."""
    pairs = torch.unique(torch.stack([x.flatten().double(), y.flatten().double()], dim=1), dim=0)
    return _line(pairs[:, 0], pairs[:, 1])
