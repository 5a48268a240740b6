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
from .cells import cell_number
from .data import Data
from .evaluation import evaluating
from .image_input import read_images, to_pixels
from .trained import Trained, load_trained

BATCH_SIZE = 256
Row = Sequence[float] | Mapping[str, str]


@dataclass(frozen=True)
class Samples:
    """What to predict for: x [n, …], what each is called, and its true class or value where that is known."""

    x: Tensor
    names: Sequence[str]
    truths: Sequence[Any]
    preparation: str | None = None  # what was done to images, in words


def predict(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run the samples through the model.

    Args:
        request: as `load_trained` takes it, with one of `images` (paths), `rows` (lists of numbers or, where columns
            have names, objects from these to text; with the rows' own `names`)
            and `test` (indices of test samples, null for all; `limit`: only the first ones); `top`: how many classes to
            name; `invert`: exchange light and dark in the images; `pixels`: where to put the samples as uint8
            [n, h, w, c] under that name in a safetensors file.

    Returns:
        `predictions`, one for each sample: {input, true, class, probability, top: [{class, probability}, …]} for
        classes, {input, true, values} for values; `true` is null where it is not known. `preparation`: what was done to
        images before, in words, or null.
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
    predictions = [{"input": name, "true": truth, **each} for name, truth, each in named]
    return {"predictions": predictions, "preparation": samples.preparation}


def _samples(request: Mapping[str, Any], data: Data) -> Samples:
    if "images" in request:
        paths = [Path(path) for path in request["images"]]
        known = set(data.names)
        # Images lie in folders that bear the name of their class, as everywhere.
        truths = [path.parent.name if path.parent.name in known else None for path in paths]
        x, preparation = read_images(paths, data, invert=bool(request.get("invert")))
        return Samples(x, request["images"], truths, preparation)
    if "rows" in request:
        rows, names = request["rows"], request["names"]
        numbers = [_numbers(row, name, data) for row, name in zip(rows, names, strict=True)]
        return Samples(_from_rows(numbers, data), names, [_truth(row, data) for row in rows])
    return _test_samples(request.get("test"), request.get("limit"), data)


def _numbers(row: Row, name: str, data: Data) -> Sequence[float]:
    """The numbers of a row in the order of the data's columns; where these have no names, in the row's own."""
    if not isinstance(row, Mapping):
        return row
    columns = data.columns or [column for column in row if column != data.target_column]
    missing = [column for column in columns if column not in row]
    if missing:
        raise UsageError(f"{name}: there is no column {missing[0]!r}", f"the data have {', '.join(columns)}")
    numbers = {column: cell_number(row[column]) for column in columns}
    for column, number in numbers.items():
        if number is None:
            raise UsageError(f"{name}: {row[column][:40]!r} in column {column!r} is no number")
    return [number for number in numbers.values() if number is not None]


def _truth(row: Row, data: Data) -> Any:
    """What the row itself says of the column that was learned."""
    if not isinstance(row, Mapping) or data.target_column is None or data.target_column not in row:
        return None
    text = row[data.target_column].strip()
    if data.num_classes is not None:
        return text or None
    value = cell_number(text)
    return None if value is None else [value]


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
    truths = (
        [data.names[label] for label in y.tolist()]
        if data.num_classes is not None
        else [_flat(row) for row in data.in_units(y)]
    )
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
    return ({"values": _flat(row)} for row in data.in_units(output))


def _flat(row: Tensor) -> list[float]:
    values: list[float] = row.flatten().tolist()
    return values
