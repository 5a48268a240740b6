"""Layers and modules, D2L 6.1: modules of one's own, a container, control flow, constants, nesting."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .catalog import model


@model(
    "mlp",
    summary="20-256-10 with ReLU, as a module of its own",
    source="D2L 6.1.1, A Custom Module",
    num_parameters=7_946,
    data="clusters",
    loss="cross_entropy",
    metric="accuracy",
    goal="max",
    epochs=10,
    batch_size=64,
    optimizer="sgd",
    lr=0.1,
    expected=">= 95% test accuracy on clusters",
    reaches="test.accuracy>=0.95",
)
class MLP(nn.Module):
    """[n, in_features] to [n, num_classes] through 256 hidden units.

    A module is a class: its layers are made once, in the constructor, where nn.Module notes their parameters; `forward`
    says what is done with them, and the backward pass needs no word. It is what nn.Sequential(hidden, ReLU, out) is.

    Args:
        in_features: numbers in; fitted to the data unless set
        num_classes: outputs; fitted to the data unless set
        hidden: hidden units
    """

    def __init__(self, in_features: int = 20, num_classes: int = 10, hidden: int = 256) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden)
        self.out = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(functional.relu(self.hidden(x)))
        return out


class MySequential(nn.Module):
    """A container like nn.Sequential: it adds modules under the names "0", "1", … and runs them in that order."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        for index, module in enumerate(modules):
            self.add_module(str(index), module)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


@model(
    "sequential-mlp",
    summary="20-256-10 with ReLU, in a Sequential of its own making",
    source="D2L 6.1.2, The Sequential Module",
    num_parameters=7_946,
    data="clusters",
    loss="cross_entropy",
    metric="accuracy",
    goal="max",
    epochs=10,
    batch_size=64,
    optimizer="sgd",
    lr=0.1,
    expected=">= 95% test accuracy on clusters",
    reaches="test.accuracy>=0.95",
)
class SequentialMLP(MySequential):
    """[n, in_features] to [n, num_classes] through 256 hidden units, as a chain of three modules.

    Modules that are added by name are found by everything that looks for parameters: optimizers, state_dict, devices.
    A plain Python list of them would not be.

    Args:
        in_features: numbers in; fitted to the data unless set
        num_classes: outputs; fitted to the data unless set
        hidden: hidden units
    """

    def __init__(self, in_features: int = 20, num_classes: int = 10, hidden: int = 256) -> None:
        super().__init__(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


@model(
    "fixed-hidden-mlp",
    summary="a constant random weight, one layer used twice, a while loop, and a single number at the end",
    source="D2L 6.1.3, Executing Code in the Forward Propagation Method",
    num_parameters=420,
    data="rows",
    loss="mse",
    metric="loss",
    goal="min",
    epochs=30,
    batch_size=32,
    optimizer="adam",
    lr=0.003,
    expected="a test loss below 0.015 on rows (their variance is 0.0625)",
    reaches="test.loss<0.015",
)
class FixedHiddenMLP(nn.Module):
    """[n, in_features] to [n, 1]: what a forward may hold beside layers.

    - `rand_weight` is a constant: drawn once, never trained. It is a buffer, so that it moves with the model and is in
      its state_dict; an ordinary attribute would be drawn anew at each reload, and the outputs would be others.
    - `linear` is used twice: one set of weights, whose gradient is the sum of both uses.
    - A while loop halves each row until its absolute values add up to 1 at most; then they are added up. The book
      halves the batch as a whole, and gives one number for it; row by row a sample's result does not depend on its
      neighbours, nor on how a batch is shared out. For one row it is the same.

    Args:
        in_features: numbers in; fitted to the data unless set
    """

    rand_weight: Tensor

    def __init__(self, in_features: int = 20) -> None:
        super().__init__()
        self.register_buffer("rand_weight", torch.rand(in_features, in_features))
        self.linear = nn.Linear(in_features, in_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        x = functional.relu(x @ self.rand_weight + 1)
        x = self.linear(x)
        while (is_large := x.abs().sum(1, keepdim=True) > 1).any():
            x = torch.where(is_large, x / 2, x)
        return x.sum(1, keepdim=True)


@model(
    "nest-mlp",
    summary="a Sequential inside of a module: 20-64-32 with ReLU, then 10",
    source="D2L 6.1.3, nested modules",
    num_parameters=3_754,
    data="clusters",
    loss="cross_entropy",
    metric="accuracy",
    goal="max",
    epochs=15,
    batch_size=64,
    optimizer="sgd",
    lr=0.1,
    expected=">= 95% test accuracy on clusters",
    reaches="test.accuracy>=0.95",
)
class NestMLP(nn.Module):
    """[n, in_features] to [n, num_classes]; the names of the parameters tell the nesting: `net.0.weight`.

    Args:
        in_features: numbers in; fitted to the data unless set
        num_classes: outputs; fitted to the data unless set (the book has 16)
    """

    def __init__(self, in_features: int = 20, num_classes: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(in_features, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.linear = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.net(x))
        return out


@model(
    "chimera",
    summary="nest-mlp, a linear layer and fixed-hidden-mlp grown together",
    source="D2L 6.1.3, mixing modules",
    num_parameters=4_712,
    data="rows",
    loss="mse",
    metric="loss",
    goal="min",
    epochs=30,
    batch_size=32,
    optimizer="adam",
    lr=0.001,
    expected="a test loss below 0.01 on rows (their variance is 0.0625)",
    reaches="test.loss<0.01",
)
class Chimera(nn.Sequential):
    """[n, in_features] to [n, 1]: modules of any make fit into each other, for each is just a module.

    Args:
        in_features: numbers in; fitted to the data unless set
    """

    def __init__(self, in_features: int = 20) -> None:
        super().__init__(NestMLP(in_features, 16), nn.Linear(16, 20), FixedHiddenMLP(20))
