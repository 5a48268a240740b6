"""Building a model for the data it shall see, and saying at once if the two do not go together.

It owns the fit between a model's options and the data, tried with one sample before anything is trained. It does not
know devices, ranks or optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dljobs.errors import UsageError

from .catalog import ModelEntry, check_options, find_dataset, find_model, resolve
from .data import Data
from .evaluation import evaluating
from .init_rule import DEFAULT, parse_init
from .initialization import initialize

# Options that follow from the data, and from the target y[1, …] of a sample, unless the user sets them; a model takes
# part by having a parameter of that name.
FITTED: dict[str, Callable[[Data, Tensor], int | None]] = {
    "in_channels": lambda data, _: data.sample_shape[0] if len(data.sample_shape) == 3 else None,
    "in_features": lambda data, _: data.sample_shape[0] if len(data.sample_shape) == 1 else None,
    "image_size": lambda data, _: data.sample_shape[2] if len(data.sample_shape) == 3 else None,
    "num_classes": lambda data, _: data.num_classes,
    "num_values": lambda data, y: y.shape[1] if data.num_classes is None and y.ndim == 2 else None,
    "out_features": lambda data, y: data.num_classes or y[0].numel(),
}


def build_model(name: str, options: Mapping[str, object], data: Data, init: str = DEFAULT) -> nn.Module:
    """A new model of the zoo on the CPU, its weights drawn from torch's global RNG, its outputs checked on one sample.

    Args:
        init: initial weights other than the model's own, as `init_rule.py` reads them.

    Raises:
        UnknownName, UsageError: no such model or option; a value that the model refuses; a model that cannot take the
            data's samples or has too few outputs for its classes, or that has not the layers that `init` names.
    """
    entry = find_model(name)
    settings = check_options(entry.name, entry.options, options)
    x, y = data.train.batch(torch.tensor([0]))
    for option, fitted in FITTED.items():
        value = fitted(data, y)
        if option in entry.options and option not in settings and value is not None:
            settings[option] = value
    model = _construct(entry, settings)
    _check_output(entry, _try_forward(entry, model, x), y, data)
    initialize(model, parse_init(init))  # after the forward: before it a lazy layer has no weights to fill
    return model


def _construct(entry: ModelEntry, settings: dict[str, Any]) -> nn.Module:
    try:
        model = resolve(entry.target)(**settings)
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:
        given = ", ".join(f"{option}={value}" for option, value in settings.items())
        raise UsageError(
            f"{entry.name} cannot be built with {given or 'its defaults'}: {_first_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{entry.name} is no model: {entry.target} gave a {type(model).__name__}, not an nn.Module")
    return model


def _try_forward(entry: ModelEntry, model: nn.Module, x: Tensor) -> Tensor:
    """Run one sample through, leaving the RNG and the mode as they were; a lazy layer gets its shape here."""
    try:
        with evaluating(model), torch.random.fork_rng(devices=[]):
            output = model(x)
    # Whatever the model's code raises: where even one sample fails, that is what the user must read.
    except Exception as error:
        raise UsageError(
            f"{entry.name} cannot take samples of shape {shape_text(x.shape[1:])}{_made_for(entry)} "
            f"({_first_line(error)})"
        ) from error
    if not isinstance(output, Tensor):
        raise UsageError(f"{entry.name} gave a {type(output).__name__} where the trainer needs one tensor")
    return output


def _made_for(entry: ModelEntry) -> str:
    made_for = None if entry.follows_data else find_dataset(entry.data)
    if made_for is None or made_for.shape is None:
        return ""
    size = entry.data_options.get("image_size")
    shape = made_for.shape if size is None else (made_for.shape[0], size, size)
    return f": it is made for {shape_text(shape)}, as in {made_for.name}"


def _check_output(entry: ModelEntry, output: Tensor, y: Tensor, data: Data) -> None:
    shape = shape_text(output.shape[1:])
    if data.num_classes is None:
        if output.shape != y.shape:
            raise UsageError(
                f"{entry.name} gives values of shape {shape}, and the data's are {shape_text(y.shape[1:])}"
            )
        return
    if output.ndim != 2 or len(output) != 1:
        raise UsageError(f"{entry.name} gives {shape} for a sample, where classes need one row of numbers")
    if output.shape[1] < data.num_classes:
        raise UsageError(
            f"{entry.name} has {output.shape[1]} outputs, and the data's labels go from 0 to {data.num_classes - 1}",
            hint=f"leave num_classes out, or set it to {data.num_classes}" if "num_classes" in entry.options else "",
        )


def shape_text(shape: tuple[int, ...]) -> str:
    """1×32×32, or "a single number" for an empty shape."""
    return "×".join(str(size) for size in shape) or "a single number"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
