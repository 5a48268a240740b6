"""torchvision's classifiers: the list that clients know, and each of them fitted to other data."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torchvision import models as published
from torchvision.models import regnet

from dljobs.errors import DataError, UsageError
from dljobs.models import catalog, published_weights
from dljobs.models.build import build_model
from dljobs.models.data import load_data
from dljobs.models.losses import find_loss
from dljobs.models.torchvision_models import WITH_AUXILIARY, build
from dljobs.models.torchvision_table import TABLE

NAMES = sorted(TABLE)
SMALL = ["mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"]


@contextmanager
def without_memory() -> Iterator[None]:
    """Tensors on the meta device, which have shapes and no numbers."""
    make = regnet.BlockParams.from_init_params.__func__

    def with_numbers(cls: Any, *arguments: Any, **options: Any) -> Any:
        with torch.device("cpu"):  # RegNet computes its widths with tensors
            return make(cls, *arguments, **options)

    with mock.patch.object(regnet.BlockParams, "from_init_params", classmethod(with_numbers)), torch.device("meta"):
        yield


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_list_is_torchvisions() -> None:
    assert sorted(TABLE) == published.list_models(module=published)
    for name, known in TABLE.items():
        weights = published.get_model_weights(name)
        names = [each.name for each in weights if each.name != "IMAGENET1K_FEATURES"]
        assert list(known.weights) == names
        assert known.top1 == pytest.approx(weights.DEFAULT.meta["_metrics"]["ImageNet-1K"]["acc@1"], abs=0.051)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_built_as_published_and_fitted_to_other_classes_and_channels(name: str) -> None:
    entry = catalog.find_model(name)
    size = entry.data_options["image_size"]
    with without_memory():
        assert count(build(name)) == entry.num_parameters
        model = build(name, in_channels=1, num_classes=7)
        convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
        assert [each.in_channels for each in convolutions].count(1) >= 1
        assert not any(each.in_channels == 3 for each in convolutions)
        output = model.train()(torch.empty(2, 1, size, size))
        assert isinstance(output, tuple) == (name in WITH_AUXILIARY)
        outputs = [each for each in output if each is not None] if isinstance(output, tuple) else [output]
        assert [each.shape for each in outputs] == [(2, 7)] * {"googlenet": 3, "inception_v3": 2}.get(name, 1)
        assert model.eval()(torch.empty(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_job_by_its_name_alone(name: str) -> None:
    from dljobs.service.submission import Request, prepare

    spec = prepare(Request(name), "ada").spec
    assert (spec.model, spec.data, spec.loss, spec.training.batch_size) == (name, "fake", "cross_entropy", 8)
    assert spec.data_options["image_size"] == (299 if name == "inception_v3" else 224)
    assert catalog.resolve(catalog.find_model(name).target).__doc__


def take_a_step(name: str, size: int) -> None:
    torch.manual_seed(0)
    data = load_data("fake", {"size": 2, "test_size": 1, "num_classes": 5, "image_size": size}, Path())
    model = build_model(name, {}, data).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, y = data.train.batch(torch.arange(2))  # the fewest that batch normalisation takes
    before = checksums(model)
    loss = find_loss("cross_entropy")(model(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert torch.isfinite(loss)
    moved = [old != new for old, new in zip(before, checksums(model), strict=True)]
    # A vision transformer's last layer begins with zeros: its first gradient goes no further back.
    assert sum(moved) > len(moved) / 2 or (any(moved) and name.startswith("vit_"))
    assert model.eval()(x).shape == (2, 5)


def checksums(model: nn.Module) -> list[int]:
    """Of each parameter: copies would take as much memory as the model once more."""
    return [zlib.crc32(memoryview(parameter.detach().numpy()).cast("B")) for parameter in model.parameters()]


@pytest.mark.parametrize("name", SMALL)
def test_a_small_one_takes_a_step(name: str) -> None:
    take_a_step(name, 64)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_every_one_takes_a_step(name: str) -> None:
    """`make zoo-torchvision`: a quarter of an hour on two cores, and 9 GiB of memory for the largest."""
    take_a_step(name, catalog.find_model(name).data_options["image_size"])


def test_vision_transformers_take_the_size_of_the_data() -> None:
    data = load_data("fake", {"size": 2, "test_size": 2, "num_classes": 5, "image_size": 64}, Path())
    with mock.patch.object(nn.init, "trunc_normal_", lambda tensor, **_: tensor):  # its time is not the point
        model = build_model("vit_b_32", {}, data)
    assert model.seq_length == (64 // 32) ** 2 + 1


def test_auxiliary_outputs_count_as_published() -> None:
    loss = find_loss("cross_entropy")
    y = torch.tensor([0, 1])
    one, two, three = (torch.randn(2, 3) for _ in range(3))
    values = [loss.per_sample(each, y) for each in (one, two, three)]
    google = loss.per_sample(published.GoogLeNetOutputs(one, two, three), y)
    assert torch.allclose(google, values[0] + 0.3 * (values[1] + values[2]))
    inception = loss.per_sample(published.InceptionOutputs(one, two), y)
    assert torch.allclose(inception, values[0] + 0.4 * values[1])
    assert torch.equal(loss.per_sample(published.GoogLeNetOutputs(one, None, None), y), values[0])


def test_another_number_of_channels_keeps_the_spread_of_the_first_layers_output() -> None:
    torch.manual_seed(0)
    spreads = [
        float(build("resnet18", in_channels=n).conv1(torch.randn(2, n, 64, 64)).detach().std()) for n in (1, 3, 6)
    ]
    assert max(spreads) / min(spreads) < 1.2


def test_what_a_model_of_torchvision_cannot_be() -> None:
    data = load_data("fake", {"size": 2, "test_size": 2, "image_size": 32}, Path())
    with pytest.raises(UsageError, match="alexnet cannot take samples of shape 3×32×32: it is made for 3×224×224"):
        build_model("alexnet", {}, data)
    with pytest.raises(UsageError, match="at least one channel and one class"):
        build("resnet18", num_classes=0)
    with pytest.raises(UsageError, match="of resnet18 are for images of 3 channels or 1, and the data have 4"):
        build("resnet18", in_channels=4, weights="DEFAULT")
    with pytest.raises(UsageError, match="are for images of 224×224, and these are 32 wide"):
        build("vit_b_16", image_size=32, weights="DEFAULT")
    with pytest.raises(AttributeError):
        catalog.resolve("dljobs.models.torchvision_models:resnet19")


# Published weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def publish(hub: Path, name: str, state_dict: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put weights where a file fetched by hand would be, with its digest in its name as torchvision has it."""
    torch.save(state_dict, hub / "new")
    digest = hashlib.sha256((hub / "new").read_bytes()).hexdigest()
    path = (hub / "new").rename(hub / f"{name}-{digest[:8]}.pth")
    load = published_weights.load_published

    def from_there(model: nn.Module, what: str, _url: str) -> None:
        load(model, what, f"https://download.pytorch.org/models/{path.name}")

    monkeypatch.setattr("dljobs.models.torchvision_models.load_published", from_there)
    return path


def test_weights_that_are_missing_say_what_to_fetch_and_where_to_put_it(hub: Path) -> None:
    with pytest.raises(
        DataError, match=rf"resnet18 with the weights IMAGENET1K_V1 needs the file {hub}/resnet18-"
    ) as e:
        build("resnet18", weights="DEFAULT")
    assert "fetch https://download.pytorch.org/models/resnet18-f37072fd.pth and put it there" in e.value.hint
    (hub / "resnet18-f37072fd.pth").write_text("not it")
    with pytest.raises(DataError, match="is not the published file: its SHA-256 begins with"):
        build("resnet18", weights="DEFAULT")


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mnasnet0_5", "densenet121"])
def test_published_weights_are_used_with_a_new_classifier(
    name: str, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    original = published.get_model(name).eval()
    state_dict = original.state_dict()
    if name == "densenet121":  # as its file is
        for key in [key for key in state_dict if "denselayer" in key and key.rsplit(".", 2)[1][-1] in "12"]:
            parent, layer, last = key.rsplit(".", 2)
            state_dict[f"{parent}.{layer[:-1]}.{layer[-1]}.{last}"] = state_dict.pop(key)
    publish(hub, name, state_dict, monkeypatch)
    same = build(name, weights="DEFAULT").eval()
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert torch.allclose(same(x), original((x + 1 - 2 * mean) / (2 * deviation)), atol=1e-4)
    fitted = build(name, num_classes=7, weights="DEFAULT").eval()
    assert fitted(x).shape == (2, 7)
    grey = build(name, in_channels=1, weights="IMAGENET1K_V1").eval()
    assert torch.allclose(grey(x[:, :1]), same(x[:, :1].expand(-1, 3, -1, -1)), atol=1e-4)
    assert fitted.state_dict().keys() == original.state_dict().keys(), "what is put before the model is no part of it"


def test_a_trained_model_needs_no_published_weights_to_be_loaded(hub: Path) -> None:
    with published_weights.left_out():
        model = build("resnet18", weights="DEFAULT", num_classes=3)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    with pytest.raises(DataError):
        build("resnet18", weights="DEFAULT")


class Harmful:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return print, ("executed",)


def test_a_file_that_would_run_code_is_refused(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(hub, "resnet18", {"x": Harmful()}, monkeypatch)
    with pytest.raises(DataError, match="holds more than tensors"):
        build("resnet18", weights="DEFAULT")
    publish(hub, "resnet18", {"x": torch.zeros(1)}, monkeypatch)
    with pytest.raises(DataError, match="does not fit resnet18"):
        build("resnet18", weights="DEFAULT")
    assert "executed" not in capsys.readouterr().out
