"""Polynomial regression: a linear layer that finds the coefficients again."""

from __future__ import annotations

from torch import nn

from .catalog import model


@model(
    "poly",
    summary="a polynomial's coefficients from fresh samples: one linear layer on (x, x², x³)",
    source="polynomial regression, as introductions to PyTorch have it",
    num_parameters=4,
    data="cubic",
    loss="mse",
    metric="loss",
    goal="min",
    epochs=20,
    batch_size=32,
    optimizer="sgd",
    lr=1e-3,
    until="loss<1e-3",
    expected="stops by itself at a loss below 1e-3, each coefficient within 0.1 of the true one",
    reaches="test.loss<0.01",
    truth={"weight": [[0.5, 3.0, 2.4]], "bias": [0.9]},
)
class Polynomial(nn.Linear):
    """[n, 3] features (x, x², x³) to [n, 1] values: `weight` are the coefficients, `bias` is the constant.

    A polynomial is not linear in x and yet linear in its coefficients: give a linear layer the powers of x, and what it
    learns is the polynomial. No batch comes twice, so there is nothing to learn by heart, and the training loss is an
    honest one: it runs until the mean of 20 batches is below 1e-3. The slow part is the last: x and x³ look alike near
    zero, and telling their coefficients apart takes thousands of steps.
    """

    def __init__(self) -> None:
        super().__init__(3, 1)
