"""The child's task "predict": samples from files, rows and test data, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dljobs.errors import DataError, UsageError
from dljobs.models import predict as predict_module
from dljobs.models.data import Data, TensorSplit
from dljobs.models.image_input import read_images, to_pixels
from dljobs.models.losses import find_loss
from dljobs.models.predict import predict
from dljobs.models.trained import Trained
from dljobs.service.tensors import FileSource, TensorFile


def trained_with(monkeypatch: pytest.MonkeyPatch, data: Data, model: nn.Module) -> None:
    loss = find_loss("cross_entropy" if data.num_classes else "mse")
    monkeypatch.setattr(predict_module, "load_trained", lambda _request: Trained(data, model, loss, "cpu"))


def classes(x: Tensor, names: tuple[str, ...]) -> Data:
    split = TensorSplit(x, torch.arange(len(x)) % len(names))
    return Data(split, split, tuple(x.shape[1:]), num_classes=len(names), class_names=names)


def values(x: Tensor, y: Tensor) -> Data:
    return Data(TensorSplit(x, y), TensorSplit(x, y), tuple(x.shape[1:]), task="regression")


def ask(**request: Any) -> list[dict[str, Any]]:
    predictions: list[dict[str, Any]] = predict(request)["predictions"]
    return predictions


def test_test_samples_and_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([[2.0, 0, 0], [0, 0, 9.0], [0, 3.0, 0], [0, 1.0, 0]])
    trained_with(monkeypatch, classes(logits, ("cat", "dog", "eel")), nn.Identity())
    first, second = ask(test=[0, 1], top=2)
    assert (first["input"], first["true"], first["class"]) == ("test 0", "cat", "cat")
    assert first["probability"] == pytest.approx(float(logits[0].softmax(0)[0]))
    assert [each["class"] for each in first["top"]] == ["cat", "dog"]
    assert (second["true"], second["class"], len(second["top"])) == ("dog", "eel", 2)
    assert len(ask(test=None)) == 4
    assert len(ask(test=[0], top=99)[0]["top"]) == 3
    with pytest.raises(UsageError, match="there is no test sample 4: they go from 0 to 3"):
        ask(test=[1, 4])


def test_more_outputs_than_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    trained_with(monkeypatch, classes(torch.zeros(2, 2), ("cat", "dog")), nn.ZeroPad1d((0, 2)))
    assert {each["class"] for each in ask(test=[0], top=4)[0]["top"]} == {"cat", "dog", "2", "3"}


def test_rows_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(6.0).reshape(3, 2)
    trained_with(monkeypatch, values(x, x * 2), nn.Identity())
    assert ask(rows=[[5, 6]], names=["rows.csv:2"]) == [{"input": "rows.csv:2", "true": None, "values": [5.0, 6.0]}]
    assert ask(test=[1]) == [{"input": "test 1", "true": [4.0, 6.0], "values": [2.0, 3.0]}]
    with pytest.raises(UsageError, match="a row has 3 numbers, and samples of shape 2 need 2"):
        ask(rows=[[1, 2, 3]], names=["x"])
    with pytest.raises(UsageError, match="an image cannot become a sample of shape 2"):
        ask(images=["x.png"])


def test_a_model_that_gives_one_number_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    trained_with(monkeypatch, values(torch.ones(3, 1), torch.ones(3)), nn.Flatten(0))
    assert ask(test=[0]) == [{"input": "test 0", "true": [1.0], "values": [1.0]}]


def test_images_get_the_shape_and_scale_of_the_data(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (10, 20), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    Image.new("L", (30, 30), 255).save(tmp_path / "grey.png")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.bmp")
    paths = [tmp_path / "clear.png", tmp_path / "grey.png", tmp_path / "red.bmp"]
    colour, grey = read_images(paths, (3, 4, 6)), read_images(paths, (1, 4, 6))
    assert (colour.shape, grey.shape) == ((3, 3, 4, 6), (3, 1, 4, 6))
    assert torch.equal(colour[:2], torch.ones(2, 3, 4, 6)), "what is transparent is white"
    assert colour[2, :, 0, 0].tolist() == [1, -1, -1]
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8no image")
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read as an image"):
        read_images([tmp_path / "broken.jpg"], (3, 4, 6))


def test_the_folder_of_an_image_is_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = classes(torch.zeros(2, 1, 1, 2), ("cat", "dog"))
    trained_with(monkeypatch, data, nn.Flatten())
    for folder in ("dog", "stranger"):
        (tmp_path / folder).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / folder / "x.png")
    images = [str(tmp_path / folder / "x.png") for folder in ("dog", "stranger")]
    said = ask(images=images, pixels=str(tmp_path / "pixels"))
    assert [(each["input"], each["true"]) for each in said] == [(images[0], "dog"), (images[1], None)]
    file = TensorFile(FileSource(tmp_path / "pixels"))
    assert file.find("pixels").shape == (2, 1, 2, 1)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [([0.0, 1.0], [0, 255]), ([-1.0, 1.0], [0, 255]), ([-1.0, 0.0], [0, 128]), ([10.0, 30.0], [0, 255])],
)
def test_pixels_from_whatever_scale(sample: list[float], expected: list[int]) -> None:
    assert to_pixels(torch.tensor(sample).reshape(1, 1, 1, 2)).flatten().tolist() == expected
    assert to_pixels(torch.zeros(1, 5, 2, 2)).shape == (1, 2, 2, 1)
    with pytest.raises(UsageError, match="are no images"):
        to_pixels(torch.zeros(1, 4))
