"""Initial weights: the rules a user can write, and what they do to a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dljobs.errors import UsageError
from dljobs.models.build import build_model
from dljobs.models.init_rule import METHODS, InitRule, parse_init
from dljobs.models.initialization import FILLED, initialize
from tests.unit.test_lenet import images


class Own(nn.Module):
    """A layer as users write them, one that is shared, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))
        self.bias = nn.Parameter(torch.ones(4))
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.first = nn.Linear(500, 400)
        self.again = self.first


def initialized(text: str, seed: int = 0) -> Own:
    model = Own()
    torch.manual_seed(seed)
    initialize(model, parse_init(text))
    return model


def test_every_method_that_clients_know_is_carried_out() -> None:
    assert set(METHODS) == {"default", *FILLED}
    for method, number in METHODS.items():
        initialized(f"{method}:0.5" if number else method)


def test_the_forms() -> None:
    assert parse_init("default") == ()
    assert parse_init("normal:0.01") == (InitRule("", "normal", 0.01),)
    assert parse_init("constant:-1") == (InitRule("", "constant", -1.0),)
    rules = parse_init(" linear = normal : 0.01 ; conv=kaiming_normal;embedding=default")
    assert rules == (InitRule("linear", "normal", 0.01), InitRule("conv", "kaiming_normal"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown init ''"),
        ("xavier", "unknown init 'xavier': did you mean 'xavier_"),
        ("normal", "init normal takes a standard deviation: normal:0.01"),
        ("zeros:1", "init zeros takes no number"),
        ("normal:-1", "needs a standard deviation, not '-1'"),
        ("constant:one", "needs a value, not 'one'"),
        ("lineal=zeros", "unknown kind of layer in init 'lineal': did you mean 'linear'"),
        ("linear=zeros;linear=ones", "two rules for linear"),
        ("zeros;conv=ones", "mixes a rule for all layers"),
        ("linear=zeros;", "unknown init ''"),
    ],
)
def test_what_is_no_rule_is_told_what_would_be(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_init(text)
    assert "linear=xavier_uniform;conv=kaiming_normal" in caught.value.hint


def test_weights_follow_the_rule_biases_are_zero_and_norms_stay() -> None:
    model = initialized("constant:2")
    assert torch.equal(model.weight, torch.full((3, 4), 2.0))
    assert not model.bias.any()
    assert not model.conv.bias.any()
    assert model.norm.weight.eq(1).all()
    normal = initialized("normal:0.01").first.weight
    assert normal.detach().std() == pytest.approx(0.01, rel=0.02)
    xavier = initialized("xavier_uniform").first.weight
    assert xavier.detach().abs().max() == pytest.approx((6 / 900) ** 0.5, rel=1e-3)
    kaiming = initialized("kaiming_normal").first.weight
    assert kaiming.detach().std() == pytest.approx((2 / 500) ** 0.5, rel=0.02)


def test_a_rule_for_one_kind_leaves_the_others() -> None:
    torch.manual_seed(0)
    before = Own().first.weight.detach().clone()
    torch.manual_seed(0)
    model = Own()
    initialize(model, parse_init("conv=zeros"))
    assert not model.conv.weight.any()
    assert model.weight.eq(1).all()
    assert torch.equal(model.first.weight, before)


def test_a_kind_of_layer_that_the_model_lacks_is_named() -> None:
    with pytest.raises(UsageError, match="init sets embedding weights, and this model has no such layer"):
        initialized("embedding=zeros")


def test_the_zoo_builds_with_it_from_the_same_seed_the_same_weights() -> None:
    def build() -> nn.Module:
        torch.manual_seed(3)
        return build_model("lenet", {}, images(1, 32, 32), "linear=normal:0.01;conv=xavier_uniform")

    one, other = build(), build()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.get_parameter("fc1.weight").detach().std() == pytest.approx(0.01, rel=0.05)
    assert not one.get_parameter("conv1.bias").any()
