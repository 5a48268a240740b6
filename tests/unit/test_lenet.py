"""LeNet, and the fit between a model and the data it is given."""

from __future__ import annotations

import pytest
import torch

from dljobs.errors import UnknownName, UsageError
from dljobs.models import catalog
from dljobs.models.build import build_model
from dljobs.models.data import Data, TensorSplit


def images(*shape: int, num_classes: int = 10) -> Data:
    split = TensorSplit(torch.zeros(2, *shape), torch.tensor([0, num_classes - 1]))
    return Data(split, split, sample_shape=shape, num_classes=num_classes)


def test_lenet_is_the_classic_one() -> None:
    model = build_model("lenet", {}, images(1, 32, 32))
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [
        (6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 400), (120,), (84, 120), (84,), (10, 84), (10,),
    ]  # fmt: skip
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters == 61_706 == catalog.find_model("lenet").num_parameters


def test_options_are_fitted_to_the_data_unless_the_user_set_them() -> None:
    colour = build_model("lenet", {}, images(3, 32, 32, num_classes=4))
    assert sum(parameter.numel() for parameter in colour.parameters()) == 62_006 - 6 * 85
    wide = build_model("lenet", {"num_classes": "12"}, images(3, 32, 32))
    assert wide.get_parameter("fc3.weight").shape == (12, 84)


def test_a_seed_gives_the_same_weights_whatever_the_data_hold() -> None:
    first = images(1, 32, 32)
    torch.manual_seed(5)
    one, after_one = build_model("lenet", {}, first), torch.rand(1)
    torch.manual_seed(5)
    other, after_other = build_model("lenet", {}, images(1, 32, 32)), torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(after_one, after_other)
    assert one.training


def test_a_shape_that_lenet_cannot_take_is_one_sentence() -> None:
    with pytest.raises(UsageError) as caught:
        build_model("lenet", {}, images(1, 28, 28))
    assert caught.value.message.startswith(
        "lenet cannot take samples of shape 1×28×28: it is made for 1×32×32, as in digits (RuntimeError: "
    )
    assert "\n" not in caught.value.message
    with pytest.raises(UsageError, match="lenet cannot take samples of shape 7: it is made for 1×32×32"):
        build_model("lenet", {}, images(7))
    with pytest.raises(UsageError, match="lenet cannot take samples of shape 3×32×32"):
        build_model("lenet", {"in_channels": 1}, images(3, 32, 32))


def test_too_few_outputs_for_the_labels_say_so() -> None:
    with pytest.raises(UsageError, match="lenet has 5 outputs, and the data's labels go from 0 to 9") as caught:
        build_model("lenet", {"num_classes": 5}, images(1, 32, 32))
    assert caught.value.hint == "leave num_classes out, or set it to 10"


def test_a_classifier_on_values_says_so() -> None:
    split = TensorSplit(torch.zeros(2, 1, 32, 32), torch.zeros(2, 1))
    with pytest.raises(UsageError, match="lenet gives values of shape 10, and the data's are 1"):
        build_model("lenet", {}, Data(split, split, sample_shape=(1, 32, 32), task="regression"))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("value", [0, -1, 2**62])
def test_absurd_sizes_are_an_error_with_the_values_given(value: int) -> None:
    with pytest.raises(UsageError, match=rf"lenet (cannot be built with in_channels={value}|cannot take|has)"):
        build_model("lenet", {"in_channels": value}, images(1, 32, 32))


def test_unknown_model_and_option() -> None:
    with pytest.raises(UnknownName, match="did you mean 'lenet'"):
        build_model("lennet", {}, images(1, 32, 32))
    with pytest.raises(UnknownName, match="did you mean 'num_classes'"):
        build_model("lenet", {"num_clases": 3}, images(1, 32, 32))
