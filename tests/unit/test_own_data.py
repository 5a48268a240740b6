"""Data of one's own: folders of images and tables, as they should be and as they are."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dljobs.errors import DataError, UnknownName, UsageError
from dljobs.models.data import Data, load_data
from dljobs.models.data_record import DataRecord
from dljobs.models.datasets import imagefolder as images
from dljobs.models.datasets.images import IMAGE_SUFFIXES
from dljobs.models.evaluate import evaluate
from dljobs.models.fit import fit
from dljobs.models.predict import predict
from dljobs.service import inputs
from dljobs.workers.weights import write_state_dict


def paint(path: Path, colour: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for part, count in (("train", 5), ("test", 2)):
        for number in range(count):
            paint(folder / part / "red" / f"{number}.png", (255, 0, 0))
            paint(folder / part / "blue" / f"{number}.jpg", (0, 0, 255))
    return folder


def load_images(tmp_path: Path, folder: Path, **options: object) -> Data:
    return load_data("imagefolder", {"path": str(folder), **options}, tmp_path / "data")


def test_images_become_samples_with_the_names_of_their_folders(tmp_path: Path, pictures: Path) -> None:
    data = load_images(tmp_path, pictures, image_size=4)
    assert (len(data.train), len(data.test)) == (10, 4)
    assert (data.sample_shape, data.num_classes, data.class_names) == ((3, 4, 4), 2, ("blue", "red"))
    x, y = data.test.batch(torch.arange(4))
    assert (x.shape, x.dtype, y.tolist()) == ((4, 3, 4, 4), torch.float32, [0, 0, 1, 1])
    assert torch.equal(x[3, :, 0, 0], torch.tensor([1.0, -1.0, -1.0]))
    grey = load_images(tmp_path, pictures, image_size=4, channels=1)
    assert grey.train.batch(torch.tensor([0]))[0].shape == (1, 1, 4, 4)


def test_a_share_is_split_off_each_class_by_seed(tmp_path: Path, pictures: Path) -> None:
    whole = pictures / "train"
    data = load_images(tmp_path, whole, split=0.4)
    assert (len(data.train), len(data.test)) == (6, 4)
    assert data.test.batch(torch.arange(4))[1].tolist() == [0, 0, 1, 1]
    again, other = (load_images(tmp_path, whole, split=0.4, seed=seed) for seed in (0, 1))
    assert torch.equal(data.test.indices, again.test.indices)  # type: ignore[attr-defined]
    assert not torch.equal(data.test.indices, other.test.indices)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="has a folder test"):
        load_images(tmp_path, pictures, split=0.2)
    with pytest.raises(UsageError, match="between 0 and 1, not 2"):
        load_images(tmp_path, whole, split=2.0)


def test_what_does_not_fit_in_memory_is_read_from_its_files(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = load_images(tmp_path, pictures).train.batch(torch.arange(10))
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    data = load_images(tmp_path, pictures)
    read = data.train.batch(torch.arange(10))
    assert all(torch.equal(one, other) for one, other in zip(kept, read, strict=True))
    with pytest.raises(DataError, match=r"0\.png cannot be read"):
        (pictures / "train" / "red" / "0.png").write_text("no image")
        data.train.batch(torch.tensor([5]))


def test_a_changed_image_is_read_again(tmp_path: Path, pictures: Path) -> None:
    load_images(tmp_path, pictures)
    paint(pictures / "train" / "blue" / "0.jpg", (0, 255, 0), (9, 9))
    x, _ = load_images(tmp_path, pictures).train.batch(torch.tensor([0]))
    assert x[0, 1, 0, 0] > 0.9


def test_broken_images_are_all_found_and_the_first_named(tmp_path: Path, pictures: Path) -> None:
    for number in range(7):
        (pictures / "train" / "red" / f"bad{number}.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"7 of 17 images are broken: .*bad0\.png .*bad4\.png .*\(and 2 more\)"):
        load_images(tmp_path, pictures)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "train" / "green").mkdir(), "class 'green' is empty"),
        (lambda f: paint(f / "test" / "green" / "0.png"), "green is a class that the training images do not have"),
        (lambda f: (f / "test").rename(f / "tests"), "has no folder test"),
        (lambda f: (f / "train").rename(f / "x"), "has no folder train"),
        (lambda f: [(f / name).rename(f / name[1:]) for name in ("train", "test")], "has no folder train and test"),
        (lambda f: (f / "train" / "red").rename(f / "red"), "has 1 folders, and images need one for each"),
        (lambda f: [each.unlink() for each in (f / "test").rglob("*.*")], "class 'blue' is empty"),
    ],
)
def test_a_folder_that_is_not_as_it_must_be(tmp_path: Path, pictures: Path, spoil, words: str) -> None:  # type: ignore[no-untyped-def]
    spoil(pictures)
    with pytest.raises(DataError, match=words):
        load_images(tmp_path, pictures)


def test_a_path_that_is_not_there_names_the_machine(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(DataError, match=r"the machine \S+ has no folder /nowhere"):
        load_images(tmp_path, Path("/nowhere"))
    with pytest.raises(DataError, match=r"is no folder, and imagefolder reads a folder"):
        load_images(tmp_path, pictures / "train" / "red" / "0.png")
    with pytest.raises(UsageError, match="csv needs a path"):
        load_data("csv", {}, tmp_path)


def test_the_client_knows_the_same_kinds_of_images() -> None:
    assert inputs.IMAGE_SUFFIXES == IMAGE_SUFFIXES


FLOWERS = "length,width,id,kind\n" + "".join(
    f"{n},{n * n},{n},{'rose' if n % 2 else 'aster'}\n\n" for n in range(1, 21)
)


def load_table(tmp_path: Path, text: str, **options: object) -> Data:
    (tmp_path / "table.csv").write_text(text)
    return load_data("csv", {"path": str(tmp_path / "table.csv"), **options}, tmp_path)


def test_a_table_of_classes(tmp_path: Path) -> None:
    data = load_table(tmp_path, FLOWERS, ignore="id")
    assert (data.sample_shape, data.class_names, len(data.train), len(data.test)) == ((2,), ("aster", "rose"), 16, 4)
    x, y = data.train.batch(torch.arange(16))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert x.mean(0).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert x.std(0, correction=0).tolist() == pytest.approx([1, 1])


def test_the_scaling_is_that_of_the_training_rows_alone(tmp_path: Path) -> None:
    data = load_table(tmp_path, FLOWERS, ignore="id, width")
    x, _ = data.test.batch(torch.arange(4))
    assert data.from_raw is not None
    raw = torch.arange(1.0, 21)[:, None]
    every = data.from_raw(raw)
    held = torch.cat([data.train.batch(torch.arange(16))[0], x]).sort(0).values
    assert torch.equal(held, every)
    assert not math.isclose(float(every.mean()), 0, abs_tol=1e-6)


def test_a_table_of_values(tmp_path: Path) -> None:
    text = "\n".join(f"{n};{2 * n};{-n};7" for n in range(30))
    data = load_table(tmp_path, text, target="2", task="regression", delimiter=";", split=0.5)
    assert (data.task, data.num_classes, data.sample_shape) == ("regression", None, (3,))
    x, y = data.train.batch(torch.arange(len(data.train)))
    assert y.shape == (15, 1)
    assert y.dtype == torch.float32
    assert (float(y.mean()), float(y.std(correction=0))) == pytest.approx((0, 1), abs=1e-6), "learned scaled"
    rest = data.in_units(data.test.batch(torch.arange(15))[1])
    assert torch.cat([data.in_units(y), rest]).sort(0).values.flatten().tolist() == pytest.approx(
        range(0, 60, 2), abs=1e-5
    )
    assert torch.equal(x[:, 2], torch.zeros(15)), "a constant column has no deviation to divide by"
    again = load_table(tmp_path, text, target="2", task="regression", delimiter=";", split=0.5)
    assert torch.equal(again.train.batch(torch.arange(15))[1], y)


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    text = "\n".join(f"{n},{(2, 10, 9)[n % 3]}" for n in range(15))
    assert load_table(tmp_path, text).class_names == ("2", "9", "10")


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (FLOWERS.replace("3,9,", "3,nine,"), {}, r"table\.csv:6: 'nine' in column 'width' is no number"),
        (FLOWERS.replace("3,9,", "3,,"), {}, r"table\.csv:6: column 'width' is empty"),
        (FLOWERS.replace("3,9,", "3,inf,"), {}, r"table\.csv:6: 'inf' in column 'width' is no number"),
        (FLOWERS.replace("3,9,3,rose", "3,9,3"), {}, r"table\.csv:6: 3 cells, where the first line has 4"),
        (FLOWERS.replace("3,9,3,rose", "3,9,3, "), {}, r"table\.csv:6: column 'kind' is empty"),
        (FLOWERS, {"task": "regression"}, r"table\.csv:2: 'rose' in column 'kind' is no number"),
        (FLOWERS, {"split": 0.01}, "too few to split off 0.01"),
        ("a,b\n1,2.5\n2,3.5\n", {}, r"2 different values such as '3\.5': these are no classes"),
        ("\n".join(f"{n},{n}" for n in range(9)), {}, "9 different values such as '8': these are no classes"),
        ("a,b\n" + "1,2\n" * 9, {"task": "regression"}, "'b' holds nothing but 2: there is nothing to learn"),
        ("a,b\n1,x\n2,x\n", {}, "holds nothing but 'x'"),
        ("a,a\n1,2\n", {}, "two columns are called 'a'"),
        ("a,b\n", {}, "has a header and no rows"),
        ("a\n1\n2\n", {}, "has no column besides the target 'a'"),
        ("\n\n", {}, "is empty"),
        ('a,b\n1,"2\n', {}, "cannot be read as CSV"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(
    tmp_path: Path, text: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        load_table(tmp_path, text, **options)


def test_wrong_options_of_a_table(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown column of .*table\.csv: 'kid': did you mean 'kind'"):
        load_table(tmp_path, FLOWERS, target="kid")
    with pytest.raises(UsageError, match="both the target and ignored"):
        load_table(tmp_path, FLOWERS, ignore="kind")
    with pytest.raises(UsageError, match="'delimiter' of csv is one character"):
        load_table(tmp_path, FLOWERS, delimiter="::")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"a,b\n1,\xff\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        load_data("csv", {"path": str(tmp_path / "x.csv")}, tmp_path)


def trained_on(tmp_path: Path, weight: float, **options: object) -> dict[str, object]:
    """A request about a linear function of `table.csv`, of scaled features to a scaled value."""
    (tmp_path / "net.py").write_text("from torch import nn\ndef net(): return nn.Linear(1, 1)\n")
    weights = tmp_path / f"{weight}.safetensors"
    save_file({"weight": torch.tensor([[weight]]), "bias": torch.tensor([0.0])}, weights)
    return {
        "model": f"{tmp_path}/net.py:net", "data": "csv", "loss": "mse", "data_dir": str(tmp_path),
        "data_options": {"path": str(tmp_path / "table.csv"), "task": "regression", **options},
        "state_dict": str(weights),
    }  # fmt: skip


def test_a_regression_on_a_table_is_told_in_the_tables_units(tmp_path: Path) -> None:
    """A house of 4 rooms costs 1,400,000: numbers that no network would learn unscaled."""
    load_table(
        tmp_path, "rooms,price\n" + "\n".join(f"{n},{200_000 + 300_000 * n}" for n in range(20)), task="regression"
    )
    exact, constant = trained_on(tmp_path, 1.0), trained_on(tmp_path, 0.0)
    rows = [[4.0], {"price": "1400000", "rooms": "4"}, {"colour": "red", "rooms": " 4"}]
    said = predict({**exact, "rows": rows, "names": ["typed", "known", "unknown"]})["predictions"]
    assert [each["values"] for each in said] == [pytest.approx([1_400_000], rel=1e-6)] * 3
    assert [each["true"] for each in said] == [None, [1_400_000], None]
    [sample] = predict({**exact, "test": [0]})["predictions"]
    assert sample["values"] == pytest.approx(sample["true"], rel=1e-6)
    measured = evaluate(constant)
    assert measured["mae"] > 100_000, "what a constant is wrong by, in the table's units"
    assert measured["loss"] < 10, "the loss is that of the training"
    measured = evaluate(exact)
    assert (measured["r2"], measured["mae"]) == (pytest.approx(1), pytest.approx(0, abs=1))
    curve = fit(exact)
    assert all(abs(x - round(x)) < 1e-4 and 0 <= round(x) < 20 for x in curve["points"]["x"])
    x, y = curve["fit"]["x"], curve["fit"]["y"]
    assert y == pytest.approx([200_000 + 300_000 * place for place in x], rel=1e-4, abs=1)


def test_tests_from_a_table_of_their_own(tmp_path: Path) -> None:
    """What it is measured by stays what the training rows gave."""
    text = "rooms,price\n" + "\n".join(f"{n},{10 * n}" for n in range(20))
    alone = load_table(tmp_path, text, task="regression")
    (tmp_path / "other.csv").write_text("price,town,rooms\n7000,x,700\n")
    other = str(tmp_path / "other.csv")
    data = load_table(tmp_path, text, task="regression", test=other)
    assert torch.equal(data.train.batch(torch.arange(16))[0], alone.train.batch(torch.arange(16))[0])
    x, y = data.test.batch(torch.tensor([0]))
    assert alone.from_raw is not None
    assert torch.equal(x, alone.from_raw(torch.tensor([[700.0]])))
    assert data.in_units(y).item() == pytest.approx(7000)
    assert len(load_table(tmp_path, text, task="regression", test=other, split=0.0).train) == 20
    (tmp_path / "other.csv").write_text("price\n7000\n")
    with pytest.raises(DataError, match=r"other\.csv has no column 'rooms', which .*table\.csv has"):
        load_table(tmp_path, text, task="regression", test=other)
    (tmp_path / "other.csv").write_text("length,width,id,kind\n1,1,1,tulip\n")
    with pytest.raises(DataError, match=r"other\.csv:2: the training rows have no class 'tulip': aster, rose"):
        load_table(tmp_path, FLOWERS, test=other)
    with pytest.raises(UsageError, match="'split' of csv"):
        load_table(tmp_path, FLOWERS, split=0.0)


def recorded(tmp_path: Path, data: Data, tensors: dict[str, torch.Tensor]) -> Path:
    """The file of a state_dict, as a run that learned from these data leaves it."""
    path = tmp_path / "recorded.safetensors"
    write_state_dict(tensors, {}, path, DataRecord.of(data))
    return path


def prices(per_room: int) -> str:
    return "rooms,price\n" + "\n".join(f"{n},{200_000 + per_room * n}" for n in range(20))


def test_a_table_that_was_edited_since_is_scaled_as_in_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_table(tmp_path, prices(300_000), task="regression")
    request = trained_on(tmp_path, 1.0)
    tensors = {"weight": torch.tensor([[1.0]]), "bias": torch.tensor([0.0])}
    request["state_dict"] = str(recorded(tmp_path, data, tensors))
    ask = {**request, "rows": [[4.0]], "names": ["typed"]}
    assert predict(ask)["predictions"][0]["values"] == pytest.approx([1_400_000], rel=1e-6)
    assert "WARNING" not in capsys.readouterr().out
    load_table(tmp_path, prices(900_000), task="regression")
    assert predict(ask)["predictions"][0]["values"] == pytest.approx([1_400_000], rel=1e-6)
    told = capsys.readouterr().out
    assert "table.csv has changed since the training (sha256 " in told
    assert "what is a test sample now may have been trained on" in told
    sample = predict({**request, "test": [0]})["predictions"][0]
    rooms = (sample["true"][0] - 200_000) / 900_000
    assert sample["values"] == pytest.approx([200_000 + 300_000 * rooms], rel=1e-5), "the truth is that of the new file"
    load_table(tmp_path, "area,price\n1,2\n2,3\n3,4\n4,5\n5,9\n6,10\n", task="regression")
    with pytest.raises(UsageError, match="has learned from the columns rooms, and these data have area"):
        predict(ask)


def test_other_images_are_matched_by_the_names_of_their_classes(tmp_path: Path, pictures: Path) -> None:
    data = load_images(tmp_path, pictures, image_size=4)
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef net(num_classes=2): return nn.Sequential(nn.Flatten(), nn.Linear(48, num_classes))\n"
    )
    # Red is class 1: where the first channel is light.
    weight = torch.zeros(2, 48)
    weight[1, :16], weight[0, 32:] = 1, 1
    request = {
        "model": f"{tmp_path}/net.py:net", "data": "imagefolder", "loss": "cross_entropy",
        "data_dir": str(tmp_path / "data"), "data_options": {"path": str(pictures), "image_size": 4},
        "state_dict": str(recorded(tmp_path, data, {"1.weight": weight, "1.bias": torch.zeros(2)})),
    }  # fmt: skip
    assert evaluate(request)["accuracy"] == 1
    other = tmp_path / "other"
    for number in range(4):
        paint(other / "red" / f"{number}.png", (250, 0, 0))
        paint(other / "aqua" / f"{number}.png", (0, 0, 255))
    there = {**request, "data_options": {"path": str(other), "image_size": 4, "split": 0.5}}
    with pytest.raises(UsageError, match="has learned the classes blue, red, and these data have aqua") as error:
        evaluate(there)
    assert "matched by their names" in error.value.hint
    (other / "aqua").rename(other / "red2")
    learned = DataRecord(class_names=("blue", "green", "red2", "red"))
    mapped = learned.apply(load_images(tmp_path, other, image_size=4, split=0.5))
    assert (mapped.num_classes, mapped.names) == (4, ("blue", "green", "red2", "red"))
    assert sorted(mapped.test.batch(torch.arange(4))[1].tolist()) == [2, 2, 3, 3]


def test_the_record_survives_its_text(tmp_path: Path) -> None:
    record = DataRecord.of(load_table(tmp_path, FLOWERS, ignore="id"))
    again = DataRecord.from_json(record.to_json())
    assert again.to_json() == record.to_json()
    assert (again.class_names, again.columns) == (("aster", "rose"), ("length", "width"))
    assert DataRecord.from_json("{}") == DataRecord()


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    load_table(tmp_path, "a,b\n" + "\n".join(f"{n},{3 * n}" for n in range(20)), task="regression")
    request = trained_on(tmp_path, 1.0)
    with pytest.raises(UsageError, match=r"x:2: there is no column 'a'"):
        predict({**request, "rows": [{"c": "1"}], "names": ["x:2"]})
    with pytest.raises(UsageError, match=r"x:2: 'one' in column 'a' is no number"):
        predict({**request, "rows": [{"a": "one"}], "names": ["x:2"]})
    load_table(tmp_path, "\n".join(f"{n},{3 * n}" for n in range(20)), task="regression")
    [said] = predict({**request, "rows": [{"whatever": "2"}], "names": ["x:2"]})["predictions"]
    assert said["values"] == pytest.approx([6])
