"""What each classic of the introductions is there to show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dljobs.models import catalog
from dljobs.models.build import build_model
from dljobs.models.d2l_blocks import MLP, SequentialMLP
from dljobs.models.d2l_convolutions import corr2d
from dljobs.models.data import Data, load_data
from dljobs.models.endless import BLOCK, FreshSplit, RepeatedSplit
from dljobs.models.weights import load_weights
from dljobs.workers.strategies import SplitOverDevices
from dljobs.workers.weights import copy_to_host, write_state_dict
from tests.unit.test_lenet import images

CPU = torch.device("cpu")


def data_of(name: str) -> Data:
    """The entry's own data; images of the right shape where they would have to be fetched."""
    entry = catalog.find_model(name)
    dataset = catalog.find_dataset(entry.data)
    if dataset.downloads:
        return images(*dataset.shape)
    return load_data(entry.data, entry.data_options, Path("/nonexistent"))


def build(name: str, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, options, data_of(name))


def reloaded(name: str, model: nn.Module, folder: Path) -> nn.Module:
    """The model again, from other weights and the exported file."""
    write_state_dict(*copy_to_host(model.state_dict()), folder / "weights.safetensors")
    again = build(name, seed=99)
    load_weights(again, folder / "weights.safetensors")
    return again


def rows_for(name: str) -> Tensor:
    return data_of(name).test.batch(torch.arange(4))[0]


def test_lenet_cifar_takes_colour() -> None:
    model = build("lenet-cifar")
    assert model.get_parameter("conv1.weight").shape == (6, 3, 5, 5)
    assert model(torch.zeros(4, 3, 32, 32)).shape == (4, 10)


@pytest.mark.parametrize("name", ["mlp", "sequential-mlp"])
def test_the_mlps_are_what_nn_sequential_is(name: str) -> None:
    model = build(name)
    same = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 10))
    same.load_state_dict(dict(zip(same.state_dict(), model.state_dict().values(), strict=True)))
    x = rows_for(name)
    assert torch.equal(model(x), same(x))
    assert isinstance(model, MLP | SequentialMLP)


@pytest.mark.parametrize("name", ["fixed-hidden-mlp", "chimera"])
def test_the_constant_weight_is_a_buffer_and_comes_back(name: str, tmp_path: Path) -> None:
    model = build(name)
    (buffer,) = [key for key, _ in model.named_buffers()]
    assert buffer.endswith("rand_weight")
    assert buffer not in dict(model.named_parameters())
    again = reloaded(name, model, tmp_path)
    assert torch.equal(again.get_buffer(buffer), model.get_buffer(buffer))
    x = rows_for(name)
    assert torch.equal(again(x), model(x))
    assert model(x).shape == (4, 1)


def test_fixed_hidden_mlp_is_the_books_for_one_row() -> None:
    model = build("fixed-hidden-mlp")
    linear, constant = model.get_submodule("linear"), model.get_buffer("rand_weight")
    for row in rows_for("fixed-hidden-mlp") * 50:
        x = linear(row[None])
        x = torch.relu(x @ constant + 1)
        x = linear(x)
        while x.abs().sum() > 1:
            x /= 2
        assert model(row[None]).item() == pytest.approx(x.sum().item(), rel=1e-5)


def test_names_follow_the_nesting() -> None:
    names = dict(build("block-mlp").named_parameters())
    assert list(names)[:2] == ["0.block 0.0.weight", "0.block 0.0.bias"]
    assert names["0.block 1.0.bias"].shape == (8,)
    assert list(names)[-2:] == ["1.weight", "1.bias"]
    assert next(iter(dict(build("nest-mlp").named_parameters()))) == "net.0.weight"


def test_a_lazy_model_has_its_shapes_before_anything_is_wrapped() -> None:
    model = build("lazy-mlp")
    assert [tuple(p.shape) for p in model.parameters()] == [(256, 20), (256,), (10, 256), (10,)]
    assert not any(isinstance(p, nn.UninitializedParameter) for p in model.parameters())


def test_a_centred_output_has_the_mean_zero_within_rounding() -> None:
    model = build("centered-mlp")
    out = model(rows_for("centered-mlp"))
    assert abs(out.mean().item()) < 1e-6
    assert out.std() > 0.01
    assert list(model[3].parameters()) == []


def test_the_gradient_flows_into_a_layer_of_ones_own() -> None:
    model = build("my-linear")
    model(rows_for("my-linear")).sum().backward()
    for name in ("weight", "bias"):
        assert model.get_parameter(f"0.{name}").grad.abs().sum() > 0  # type: ignore[union-attr]


def test_tied_weights_are_one_tensor_also_after_export_and_reload(tmp_path: Path) -> None:
    model = build("tied-mlp")
    assert model[2] is model[4]
    again = reloaded("tied-mlp", model, tmp_path)
    assert again.state_dict()["2.weight"].data_ptr() == again.state_dict()["4.weight"].data_ptr()
    x = rows_for("tied-mlp")
    assert torch.equal(again(x), model(x))
    with torch.no_grad():
        again.get_parameter("2.weight")[0, 0] = 100.0
    assert again.get_submodule("4").weight[0, 0] == 100.0
    from safetensors import safe_open

    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert "4.weight" not in list(file.keys())
        assert file.metadata()["4.weight"] == "2.weight"


def test_corr2d_is_that_of_the_book() -> None:
    x, kernel = torch.arange(9.0).view(3, 3), torch.arange(4.0).view(2, 2)
    assert corr2d(x, kernel).tolist() == [[19, 25], [37, 43]]


def test_corr2d_is_torchs_convolution() -> None:
    x, kernel = torch.randn(3, 1, 6, 8), torch.randn(2, 3)
    expected = nn.functional.conv2d(x, kernel[None, None])
    torch.testing.assert_close(corr2d(x, kernel), expected)


def test_the_step_edge_is_that_of_the_book() -> None:
    x, y = data_of("conv-edge").train.batch(torch.tensor([0, 39]))
    assert x[0, 0, 0].tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
    assert y[1, 0, 5].tolist() == [0, 1, 0, 0, 0, -1, 0]


def test_depth_is_drawn_in_training_and_fixed_in_evaluation() -> None:
    model, x = build("dynamic"), rows_for("dynamic")
    used = []
    model.get_submodule("middle_linear").register_forward_hook(lambda *_: used.append(1))
    depths = set()
    for _ in range(40):
        model(x)
        depths.add(len(used))
        used.clear()
    assert depths == {0, 1, 2, 3}
    model.eval()
    assert torch.equal(model(x), model(x))
    assert len(used) == 2


@pytest.mark.parametrize(
    ("num_devices", "num_rows", "shares"),
    [
        (2, 30, [15, 15]),
        (3, 30, [10, 10, 10]),
        (8, 30, [4, 4, 4, 4, 4, 4, 4, 2]),
        (8, 10, [2, 2, 2, 2, 2]),
        (1, 30, [30]),
    ],
)
def test_the_shares_of_data_parallel(num_devices: int, num_rows: int, shares: list[int], capfd: Any) -> None:
    model = build("data-parallel-toy")
    wrapped = SplitOverDevices(0, 1, 0, CPU, num_devices).wrap(model)
    out = wrapped(torch.zeros(num_rows, 5))
    assert out.shape == (num_rows, 2)
    honest, *lines = capfd.readouterr().out.splitlines()
    assert "torch splits nothing here" in honest
    assert lines == [f"\tIn Model: input size ({n}, 5) output size ({n}, 2)" for n in shares]


def test_endless_samples_follow_from_their_number_alone() -> None:
    def draw(generator: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 1, generator=generator)
        return x, 2 * x

    split = FreshSplit(draw, 100, seed=1)
    numbers = torch.tensor([0, 5, BLOCK - 1, BLOCK, 10 * BLOCK + 3])
    x, y = split.batch(numbers)
    assert torch.equal(y, 2 * x)
    assert len(set(x.flatten().tolist())) == 5
    again = FreshSplit(draw, 100, seed=1)
    assert all(torch.equal(again.batch(numbers[i : i + 1])[0][0], x[i]) for i in (4, 0, 3, 2, 1))
    assert not torch.equal(FreshSplit(draw, 100, seed=2).batch(numbers)[0], x)
    repeated = RepeatedSplit(torch.arange(3), torch.arange(3), 5)
    assert (len(repeated), repeated.batch(torch.arange(6, 12))[0].tolist()) == (15, [0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("name", sorted(catalog.models()))
def test_every_model_has_the_parameters_it_declares(name: str) -> None:
    entry = catalog.find_model(name)
    model = build(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.num_parameters
    assert set(entry.truth) <= set(dict(model.named_parameters()))
