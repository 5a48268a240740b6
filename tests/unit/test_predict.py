"""The child's task "predict": samples from files, rows and test data, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from dljobs.errors import DataError, UsageError
from dljobs.models import predict as predict_module
from dljobs.models.data import Data, TensorSplit, load_data
from dljobs.models.datasets.images import padded_to_unit_range
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


def in_range(shape: tuple[int, ...], low: float, high: float) -> Data:
    """Images of one's own that say nothing of how they were made."""
    return classes(torch.stack([torch.full(shape, low), torch.full(shape, high)]), ("cat", "dog"))


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
    colour, words = read_images(paths, in_range((3, 4, 6), -1, 1))
    assert words == "made coloured and resized to 4×6, then scaled from -1 to 1 like the data's own"
    grey, words = read_images(paths, in_range((1, 4, 6), 0, 1))
    assert words == "made grey and resized to 4×6, then scaled from 0 to 1 like the data's own"
    assert (colour.shape, grey.shape) == ((3, 3, 4, 6), (3, 1, 4, 6))
    assert torch.equal(colour[:2], torch.ones(2, 3, 4, 6)), "what is transparent is white"
    assert colour[2, :, 0, 0].tolist() == [1, -1, -1]
    assert (float(grey[1].min()), float(grey.min())) == (1, pytest.approx(76 / 255))
    assert read_images(paths, in_range((3, 4, 6), 0, 200))[0].max() == 255
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8no image")
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read as an image"):
        read_images([tmp_path / "broken.jpg"], in_range((3, 4, 6), -1, 1))
    with pytest.raises(UsageError, match=r"go from -2.1 to 2.6: that does not tell how an image becomes one") as error:
        read_images(paths, in_range((3, 4, 6), -2.1, 2.6))
    assert "from_raw=FUNCTION" in error.value.hint


@pytest.mark.parametrize("name", ["digits", "fake"])
def test_images_go_the_way_of_the_datasets_own(name: str, tmp_path: Path) -> None:
    """A test sample that is written to a file and read again stays what it is."""
    data = load_data(name, {"test_size": 2} if name == "fake" else {}, tmp_path)
    sample = data.test.batch(torch.tensor([1]))[0]
    small = functional.interpolate(sample, scale_factor=0.25, mode="area") if name == "digits" else sample
    pixels = ((small[0] + 1) * 127.5).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    Image.fromarray(pixels).save(tmp_path / "x.png")
    again, words = read_images([tmp_path / "x.png"], data)
    assert (again.shape, words.split(", then ")[1]) == (sample.shape, "prepared as the data's own images")
    if name == "fake":
        assert torch.equal(again, sample)
    assert float((again - sample).abs().mean()) < 0.1


def test_images_that_look_inverted_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dark digit on white paper is none of the light ones on black that were learned: it would be any class."""
    data = load_data("digits", {}, tmp_path)
    on_black = Image.new("L", (32, 32), 10)
    on_black.paste(240, (12, 6, 20, 26))
    on_black.save(tmp_path / "black.png")
    on_white = on_black.point([255 - level for level in range(256)])
    on_white.save(tmp_path / "white.png")
    paths = [tmp_path / "black.png", tmp_path / "white.png"]
    seen, _ = read_images(paths, data)
    assert capsys.readouterr().out == (
        f"WARNING: {paths[1]} has a light border, and the data's images have a dark one: "
        "--invert exchanges light and dark\n"
    )
    inverted, words = read_images(paths[1:], data, invert=True)
    assert torch.allclose(inverted, seen[:1], atol=0.02)
    assert words.startswith("made grey and resized to 8×8, light and dark exchanged, then")
    assert capsys.readouterr().out == ""
    read_images(paths[:1], data, invert=True)
    assert "has a light border, and the data's images have a dark one: leave --invert out" in capsys.readouterr().out
    read_images(paths, in_range((1, 8, 8), -1, 1))  # of one's own, some dark and some light: nothing can be said
    assert capsys.readouterr().out == ""


def test_garments_and_mnist_are_padded_as_they_were_learned(tmp_path: Path) -> None:
    """28×28 and a border of 2, not stretched to 32×32."""
    Image.new("L", (56, 56), 255).save(tmp_path / "white.png")
    split = TensorSplit(torch.zeros(2, 1, 32, 32), torch.tensor([0, 1]))
    data = Data(split, split, (1, 32, 32), num_classes=2, from_raw=padded_to_unit_range, raw_shape=(1, 28, 28))
    image, _ = read_images([tmp_path / "white.png"], data)
    assert image[0, 0, 16].tolist() == [-1] * 2 + [1] * 28 + [-1] * 2


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
