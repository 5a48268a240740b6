"""Parameters, D2L 6.2 and 6.4: their names in nested blocks, one shared by two layers, shapes known only later."""

from __future__ import annotations

from torch import nn

from .catalog import model


@model(
    "block-mlp",
    summary="a block of four blocks, then a linear layer: 4-(8-4)×4-1",
    source="D2L 6.2, Parameter Management: parameters from nested blocks",
    num_parameters=309,
    data="rows",
    data_options={"num_features": 4},
    loss="mse",
    metric="loss",
    goal="min",
    epochs=40,
    batch_size=32,
    optimizer="adam",
    lr=0.003,
    init="kaiming_normal",
    expected="a test loss below 0.005 on rows of four numbers (their variance is 0.0625)",
    reaches="test.loss<0.005",
)
class BlockMLP(nn.Sequential):
    """[n, 4] to [n, 1]: factories make blocks, a block may hold blocks, and parameters are named by the way to them.

    `0.block 0.0.weight` is in the first module, its block 0, the first layer. `dljobs inspect ID "0.block 1.0.bias"`
    prints one of them.

    Eight ReLUs of four to eight units in a row: with the weights that nn.Linear draws by default all of them die for
    every second seed, and the output is a constant. Weights twice as varied (He et al. 2015) carry the signal through;
    `--init default` shows the difference.
    """

    def __init__(self) -> None:
        super().__init__(block_of_blocks(), nn.Linear(4, 1))


def block() -> nn.Sequential:
    """4-8-4, a ReLU after each layer."""
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU())


def block_of_blocks() -> nn.Sequential:
    """Four blocks, each under a name of its own."""
    blocks = nn.Sequential()
    for index in range(4):
        blocks.add_module(f"block {index}", block())
    return blocks


@model(
    "tied-mlp",
    summary="20-8-8-8-1 where two of the layers are one and the same",
    source="D2L 6.2.2, Tied Parameters",
    num_parameters=249,
    data="rows",
    loss="mse",
    metric="loss",
    goal="min",
    epochs=40,
    batch_size=32,
    optimizer="adam",
    lr=0.01,
    expected="a test loss below 0.005 on rows (their variance is 0.0625)",
    reaches="test.loss<0.005",
)
class TiedMLP(nn.Sequential):
    """[n, in_features] to [n, num_values]: layers 2 and 4 are one object, their weights one tensor, counted once.

    Its gradient is the sum of those of both places, so one step changes both. In a file of weights the tensor is stored
    once, and the second name is noted as an alias: after a reload it is still one.

    Args:
        in_features: numbers in; fitted to the data unless set
        num_values: numbers out; fitted to the data unless set
    """

    def __init__(self, in_features: int = 20, num_values: int = 1) -> None:
        shared = nn.Linear(8, 8)
        super().__init__(
            nn.Linear(in_features, 8), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(8, num_values)
        )


@model(
    "lazy-mlp",
    summary="?-256-10 with ReLU: the size of its input is found out at the first forward",
    source="D2L 6.4, Lazy Initialization",
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
class LazyMLP(nn.Sequential):
    """[n, anything] to [n, num_classes] through 256 hidden units.

    Until it has seen a sample, its weights have no shape and no values: no optimizer could hold them, nor DDP share
    them out. Here a model is tried on one sample of its data as soon as it is built, and that fixes its shapes, on
    every rank alike, before anything is wrapped or counted.

    Args:
        num_classes: outputs; fitted to the data unless set
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(nn.LazyLinear(256), nn.ReLU(), nn.LazyLinear(num_classes))
