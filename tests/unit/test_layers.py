"""The child's task "layers": what a model is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dljobs.models.layers import _run_noting, layers


def test_lenet() -> None:
    answer = layers({"model": "lenet", "data": "digits"})
    assert (answer["input_shape"], answer["output_shape"], answer["num_parameters"]) == ([1, 32, 32], [10], 61_706)
    assert [
        (each["name"], each["type"], each["output_shape"], each["num_parameters"]) for each in answer["layers"]
    ] == [
        ("conv1", "Conv2d", [6, 28, 28], 156),
        ("conv2", "Conv2d", [16, 10, 10], 2_416),
        ("fc1", "Linear", [120], 48_120),
        ("fc2", "Linear", [84], 10_164),
        ("fc3", "Linear", [10], 850),
    ]


def test_other_data_and_options() -> None:
    small = layers({"model": "lenet", "data": "fake", "data_options": {"num_classes": 3, "channels": 1}})
    assert (small["input_shape"], small["output_shape"]) == ([1, 32, 32], [3])
    assert layers({"model": "lenet", "data": "cifar10"})["input_shape"] == [3, 32, 32], "nothing is fetched"


class Reusing(nn.Module):
    """A layer twice, a lazy one, a parameter of its own, and one layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.twice = nn.Linear(4, 4)
        self.lazy = nn.LazyLinear(2)
        self.idle = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.lazy(self.twice(self.twice(x)).relu()).sum(1) * self.scale  # type: ignore[no-any-return]


def test_layers_in_the_order_of_their_calls() -> None:
    found: list[dict[str, object]] = []
    output = _run_noting(Reusing(), torch.zeros(1, 4), found)
    assert output.shape == (1,)
    assert [(each["name"], each["num_parameters"], each["is_reused"]) for each in found] == [
        ("twice", 20, False),
        ("twice", 0, True),
        ("lazy", 10, False),
        ("", 1, False),
    ]
    assert (found[2]["type"], found[3]["output_shape"]) == ("Linear", [])
