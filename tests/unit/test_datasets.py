"""Datasets that need no internet: digits, fake; splits; and the files that are prepared once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dljobs.errors import DataError, StorageFull, UnknownName, UsageError
from dljobs.models.data import Data, Split, TensorSplit, load_data
from dljobs.models.datasets.images import padded_to_unit_range, to_unit_range
from dljobs.models.datasets.prepared import prepared

FILE = "digits-1.safetensors"


def everything(split: Split) -> tuple[Tensor, Tensor]:
    return split.batch(torch.arange(len(split)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def test_digits_are_1797_scans_in_two_fixed_parts(root: Path) -> None:
    data = load_data("digits", {}, root)
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert (data.sample_shape, data.num_classes, data.task) == ((1, 32, 32), 10, "classification")
    assert data.names == tuple("0123456789")
    x, y = data.train.batch(torch.tensor([5, 0, 5]))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((3, 1, 32, 32), torch.float32, (3,), torch.int64)
    assert torch.equal(x[0], x[2])
    x, y = everything(data.test)
    assert (x.min().item(), x.max().item()) == (-1, 1)
    assert y.bincount().tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def test_the_split_of_digits_follows_from_its_seed_and_shares_no_sample(root: Path) -> None:
    def rows(split: Split) -> set[bytes]:
        return {row.numpy().tobytes() for row in everything(split)[0]}

    first, again, other = (load_data("digits", {"seed": seed}, root) for seed in (0, "0", 1))
    assert torch.equal(everything(first.test)[0], everything(again.test)[0])
    assert rows(first.test) != rows(other.test)
    assert not rows(first.train) & rows(first.test)
    assert rows(first.train) | rows(first.test) == rows(other.train) | rows(other.test)


def test_after_the_first_load_no_rank_imports_scikit_learn_or_torchvision(root: Path) -> None:
    load_data("digits", {}, root)
    code = (
        "import sys, pathlib; from dljobs.models.data import load_data;"
        "load_data('digits', {}, pathlib.Path(sys.argv[1]));"
        "print(*{'sklearn', 'torchvision', 'scipy'} & set(sys.modules))"
    )
    command = [sys.executable, "-P", "-c", code, str(root)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert printed.stdout.strip() == ""


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_a_damaged_file_is_made_anew(root: Path, tmp_path: Path, damage: str) -> None:
    good = load_data("digits", {}, root)
    content = bytearray((root / FILE).read_bytes())
    if damage == "cut":
        del content[-100:]
    elif damage == "flipped":
        content[-1000] ^= 1
    elif damage == "foreign":
        content[:] = b"no tensors at all"
    else:
        content.clear()
    (tmp_path / FILE).write_bytes(content)
    data = load_data("digits", {}, tmp_path)
    assert torch.equal(everything(data.train)[0], everything(good.train)[0])
    assert (tmp_path / FILE).read_bytes() == (root / FILE).read_bytes()


def test_a_full_disk_is_storage_full_and_leaves_nothing_behind(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_space)
        with pytest.raises(StorageFull, match=f"no room left in the data folder {tmp_path}") as caught:
            prepared(tmp_path / "some.safetensors", lambda: {"x": torch.ones(3)})
    assert "free some space" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == [".some.safetensors.lock"]
    assert prepared(tmp_path / "some.safetensors", lambda: {"x": torch.ones(3)})["x"].sum() == 3


def test_a_data_folder_that_cannot_be_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"cannot write in the data folder {tmp_path}/file"):
        load_data("digits", {}, tmp_path / "file")


def test_fake_gives_torchvisions_samples_and_touches_no_random_state(tmp_path: Path) -> None:
    from torchvision import transforms
    from torchvision.datasets import FakeData

    data = load_data("fake", {"size": 5, "test_size": 3, "image_size": 8, "num_classes": 4}, tmp_path)
    state = torch.get_rng_state()
    images, labels = everything(data.test)
    assert torch.equal(torch.get_rng_state(), state)
    scale = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    theirs = FakeData(3, (3, 8, 8), 4, transform=scale, random_offset=5)
    torch.testing.assert_close(images, torch.stack([theirs[index][0] for index in range(3)]))
    assert labels.tolist() == [theirs[index][1] for index in range(3)]
    assert (len(data.train), len(data.test), data.sample_shape, data.num_classes) == (5, 3, (3, 8, 8), 4)


def test_fake_is_the_same_each_time_and_another_with_another_seed(tmp_path: Path) -> None:
    first, again, other = (load_data("fake", {"size": 4, "channels": 1, "seed": seed}, tmp_path) for seed in (0, 0, 1))
    assert first.sample_shape == (1, 32, 32)
    assert torch.equal(everything(first.train)[0], everything(again.train)[0])
    assert not torch.equal(everything(first.train)[0], everything(other.train)[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "option 'size' of fake must be at least 1, not 0"),
        ({"num_classes": "-2"}, "option 'num_classes' of fake must be at least 1"),
        ({"seed": 2**62}, "option 'seed' of fake must be from 0 to"),
        ({"channels": 4}, "option 'channels' cannot be 4: it takes one of 3, 1"),
        ({"sise": 3}, "unknown option of fake 'sise': did you mean 'size'"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_data("fake", options, tmp_path)


def test_an_unknown_dataset_says_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'digits'"):
        load_data("digit", {}, tmp_path)


def test_pixels_are_kept_as_bytes_and_scaled_in_the_batch() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 28, 28).contiguous()
    split = TensorSplit(pixels, torch.arange(3), padded_to_unit_range)
    x, _ = split.batch(torch.tensor([2, 1]))
    assert (x.shape, x.dtype) == ((2, 1, 32, 32), torch.float32)
    assert x[:, 0, 16, 16].tolist() == pytest.approx([1, -0.6])
    assert x[0, 0, 0, 0] == -1
    assert pixels[2, 0, 0, 0] == 255
    assert to_unit_range(pixels).max() == 1


def test_labels_outside_the_classes_and_empty_splits_are_data_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loads(labels: list[int]) -> None:
        split = TensorSplit(torch.zeros(len(labels), 1), torch.tensor(labels, dtype=torch.long))
        data = Data(split, split, sample_shape=(1,), num_classes=3)
        monkeypatch.setattr("dljobs.models.data.resolve", lambda target: lambda root, **options: data)
        load_data("digits", {}, tmp_path)

    loads([0, 2])
    with pytest.raises(DataError, match="the training data of digits hold the label 3, and its 3 classes are 0 to 2"):
        loads([0, 3])
    with pytest.raises(DataError, match="hold the label -1"):
        loads([-1])
    with pytest.raises(DataError, match="hold no samples"):
        loads([])


def test_data_that_contradict_themselves_are_refused() -> None:
    split = TensorSplit(torch.zeros(1, 1), torch.zeros(1))
    with pytest.raises(ValueError, match="does not go with the task"):
        Data(split, split, sample_shape=(1,))
    with pytest.raises(ValueError, match="as many different names"):
        Data(split, split, sample_shape=(1,), num_classes=2, class_names=("a", "a"))
    with pytest.raises(ValueError, match="1 samples with 2 labels"):
        TensorSplit(torch.zeros(1), torch.zeros(2))
