"""The toy of the DataParallel tutorial: a layer that tells the sizes it sees."""

from __future__ import annotations

from torch import Tensor, nn

from .catalog import model


@model(
    "data-parallel-toy",
    summary="one linear layer, 5 to 2, that logs how each batch is shared out over the devices",
    source="PyTorch, Optional: Data Parallelism (Kim and Kang)",
    num_parameters=12,
    data="rows",
    data_options={"num_features": 5, "num_values": 2, "num_rows": 100},
    loss="mse",
    metric="loss",
    goal="min",
    epochs=50,
    batch_size=30,
    optimizer="sgd",
    lr=0.3,
    momentum=0.9,
    expected="a test loss below 1e-4; with --gpus 2 --strategy dp the log shows 30 rows as 15 and 15",
    reaches="test.loss<1e-4",
)
class DataParallelToy(nn.Module):
    """[n, in_features] to [n, num_values], with a line on the log inside of each training forward and one outside.

    DataParallel cuts a batch into shares as `tensor.chunk` does, one for each device: 30 rows over 2 devices are 15 and
    15, over 3 three tens, over 8 seven fours and a 2; the last batch of 10 over 8 is 2, 2, 2, 2, 2, and three devices
    have nothing to do. Inside, the model sees its share; outside, the batch. Under DDP each rank has a log of its own.

    Args:
        in_features: numbers in; fitted to the data unless set
        num_values: numbers out; fitted to the data unless set
    """

    def __init__(self, in_features: int = 5, num_values: int = 2) -> None:
        super().__init__()
        self.fc = nn.Linear(in_features, num_values)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        if self.training:
            print("\tIn Model: input size", tuple(x.size()), "output size", tuple(out.size()), flush=True)
        return out

    def see_outside(self, x: Tensor, out: Tensor) -> None:
        """Called by the trainer with what went into the wrapped model and what came out of it."""
        if self.training:
            print("Outside: input size", tuple(x.size()), "output_size", tuple(out.size()), flush=True)
