"""The task "layers" of a client's child process: what a model of the zoo is made of, by one sample run through it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import published_weights
from .build import build_model
from .catalog import find_dataset
from .data import Data, TensorSplit, load_data
from .evaluation import evaluating


def layers(request: Mapping[str, Any]) -> dict[str, Any]:
    """The layers in the order in which they are called, with the shapes that they give for one sample.

    Args:
        request: {model, model_options, data, data_options}

    Returns:
        `input_shape`, `output_shape`, `num_parameters` (shared ones once), and `layers`: each {name, type,
        output_shape, num_parameters, is_reused}. Listed is what has no layers in it, or parameters of its own; a layer
        that is called again has its parameters counted at the first call. Shapes are without the batch.
    """
    data = _sample_data(request["data"], request.get("data_options") or {})
    with published_weights.left_out():
        model = build_model(request["model"], request.get("model_options") or {}, data)
    x, _ = data.train.batch(torch.tensor([0]))
    found: list[dict[str, Any]] = []
    output = _run_noting(model, x, found)
    counted = sum(parameter.numel() for parameter in model.parameters())
    shapes = {"input_shape": list(x.shape[1:]), "output_shape": list(output.shape[1:])}
    return {**shapes, "num_parameters": counted, "layers": found}


def _sample_data(name: str, options: Mapping[str, Any]) -> Data:
    """Data of the right kind: where the catalog knows it all, without loading or fetching anything."""
    entry = find_dataset(name)
    defaults = {name: option.default for name, option in entry.options.items()}
    if entry.shape is None or entry.num_classes is None or {**defaults, **options} != defaults:
        with tempfile.TemporaryDirectory(prefix="dljobs-layers-") as folder:
            return load_data(name, options, Path(folder))
    split = TensorSplit(torch.zeros(1, *entry.shape), torch.zeros(1, dtype=torch.int64))
    return Data(split, split, entry.shape, num_classes=entry.num_classes)


def _run_noting(model: nn.Module, x: Tensor, found: list[dict[str, Any]]) -> Tensor:
    seen: set[nn.Module] = set()
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        found.append(
            {
                "name": names[module],
                "type": type(module).__name__,
                "output_shape": list(output.shape[1:]) if isinstance(output, Tensor) else None,
                "num_parameters": 0 if module in seen else own,
                "is_reused": module in seen,
            }
        )
        seen.add(module)

    for module in names:
        is_leaf = next(module.children(), None) is None
        if is_leaf or next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(note)
    with evaluating(model):
        output: Tensor = model(x)
    return output
