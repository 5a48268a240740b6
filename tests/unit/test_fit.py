"""The child's task "fit": the curve of a function of one number, and pairs for any other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dljobs.errors import UsageError
from dljobs.models import fit as fit_module
from dljobs.models.data import Data, TensorSplit
from dljobs.models.fit import NUM_ON_CURVE, fit
from dljobs.models.losses import find_loss
from dljobs.models.trained import Trained


def ask(monkeypatch: pytest.MonkeyPatch, data: Data, model: nn.Module) -> dict[str, dict[str, list[float]]]:
    trained = Trained(data, model, find_loss("mse"), "cpu")
    monkeypatch.setattr(fit_module, "load_trained", lambda _request: trained)
    return fit({})


def values(x: Tensor, y: Tensor, **more: object) -> Data:
    return Data(TensorSplit(x, y), TensorSplit(x, y), tuple(x.shape[1:]), task="regression", **more)  # type: ignore[arg-type]


def test_a_function_of_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([[0.0], [1.0], [1.0], [2.0]])
    answer = ask(monkeypatch, values(x, 2 * x, truth=lambda x: 2 * x), nn.Identity())
    assert answer["points"] == {"x": [0.0, 1.0, 2.0], "y": [0.0, 2.0, 4.0]}, "each point once"
    curve = answer["fit"]
    assert len(curve["x"]) == NUM_ON_CURVE
    assert (curve["x"][0], curve["x"][-1]) == pytest.approx((-0.1, 2.1))
    assert curve["y"] == curve["x"]
    assert answer["truth"]["y"] == pytest.approx([2 * place for place in curve["x"]])
    assert ask(monkeypatch, values(x, 2 * x), nn.Identity())["truth"] is None


def test_a_polynomial_of_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    places = torch.linspace(-2, 2, 9)
    features = torch.stack([places, places**2, places**3], dim=1)
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, 3.0, 2.4]]))
        model.bias.fill_(0.9)
    answer = ask(monkeypatch, values(features, torch.zeros(9, 1)), model)
    wanted = [0.9 + 0.5 * x + 3 * x**2 + 2.4 * x**3 for x in answer["fit"]["x"]]
    assert answer["fit"]["y"] == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_a_function_of_more_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([[1.0, 5.0], [2.0, 7.0]])
    answer = ask(monkeypatch, values(x, x + 1), nn.Identity())
    assert answer == {"parity": {"true": [2.0, 6.0, 3.0, 8.0], "predicted": [1.0, 5.0, 2.0, 7.0]}}


def test_classes_have_no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    split = TensorSplit(torch.zeros(2, 1), torch.tensor([0, 1]))
    with pytest.raises(UsageError, match="the data are classes"):
        ask(monkeypatch, Data(split, split, (1,), num_classes=2), nn.Identity())
