"""The task "predict" of a client's child process: what a trained model says of some samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dljobs.errors import UsageError

from .build import shape_text
from .data import Data
from .evaluation import evaluating
from .image_input import read_images, to_pixels
from .trained import Trained, load_trained

BATCH_SIZE = 256


@dataclass(frozen=True)
class Samples:
    """What to predict for: x [n, …], what each is called, and its true class or value where that is known."""

    x: Tensor
    names: Sequence[str]
    truths: Sequence[Any]


def predict(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run the samples through the model.

    Args:
        request: as `load_trained` takes it, with one of `images` (paths), `rows` (lists of numbers, with their `names`)
            and `test` (indices of test samples, null for all; `limit`: only the first ones); `top`: how many classes to
            name; `pixels`: where to put the samples as uint8 [n, h, w, c] under that name in a safetensors file.

    Returns:
        `predictions`, one for each sample: {input, true, class, probability, top: [{class, probability}, …]} for
        classes, {input, true, values} for values; `true` is null where it is not known.
    """
    trained = load_trained(request)
    samples = _samples(request, trained.data)
    if request.get("pixels"):
        save_file({"pixels": to_pixels(samples.x)}, request["pixels"])
    say = _classes if trained.data.num_classes is not None else _values
    said = [
        each for output in _outputs(trained, samples.x) for each in say(output, trained.data, request.get("top", 1))
    ]
    named = zip(samples.names, samples.truths, said, strict=True)
    return {"predictions": [{"input": name, "true": truth, **each} for name, truth, each in named]}


def _samples(request: Mapping[str, Any], data: Data) -> Samples:
    if "images" in request:
        paths = [Path(path) for path in request["images"]]
        known = set(data.names)
        # Images lie in folders that bear the name of their class, as everywhere.
        truths = [path.parent.name if path.parent.name in known else None for path in paths]
        return Samples(read_images(paths, data.sample_shape), request["images"], truths)
    if "rows" in request:
        return Samples(_from_rows(request["rows"], data), request["names"], [None] * len(request["rows"]))
    return _test_samples(request.get("test"), request.get("limit"), data)


def _from_rows(rows: Sequence[Sequence[float]], data: Data) -> Tensor:
    shape = data.sample_shape
    wanted = torch.Size(shape).numel()
    for row in rows:
        if len(row) != wanted:
            raise UsageError(
                f"a row has {len(row)} numbers, and samples of shape {shape_text(shape)} need {wanted}",
                hint="give the inputs only, without what is to be predicted",
            )
    x = torch.tensor(rows, dtype=torch.float64)
    return (data.from_raw(x) if data.from_raw is not None else x.float()).reshape(-1, *shape)


def _test_samples(indices: Sequence[int] | None, limit: int | None, data: Data) -> Samples:
    size = len(data.test)
    chosen = list(range(size) if indices is None else indices)[:limit]
    beyond = [index for index in chosen if index >= size]
    if beyond:
        raise UsageError(f"there is no test sample {beyond[0]}: they go from 0 to {size - 1}")
    x, y = data.test.batch(torch.tensor(chosen))
    truths = [data.names[label] for label in y.tolist()] if data.num_classes is not None else [_flat(row) for row in y]
    return Samples(x, [f"test {index}" for index in chosen], truths)


def _outputs(trained: Trained, x: Tensor) -> Iterator[Tensor]:
    with evaluating(trained.model):
        for part in torch.split(x, BATCH_SIZE):
            yield trained.model(part.to(trained.device)).cpu().double()


def _classes(output: Tensor, data: Data, top: int) -> Iterator[dict[str, Any]]:
    # A model may have more outputs than the data has classes.
    names = [*data.names, *map(str, range(len(data.names), output.shape[1]))]
    best = output.softmax(1).topk(min(max(top, 1), output.shape[1]), dim=1)
    for probabilities, labels in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        ranked = [
            {"class": names[label], "probability": value} for label, value in zip(labels, probabilities, strict=True)
        ]
        yield {**ranked[0], "top": ranked}


def _values(output: Tensor, data: Data, top: int) -> Iterator[dict[str, Any]]:
    return ({"values": _flat(row)} for row in output)


def _flat(row: Tensor) -> list[float]:
    values: list[float] = row.flatten().tolist()
    return values
