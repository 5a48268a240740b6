"""Evaluation: every sample once, whoever counts it; results that are plain JSON."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dljobs.models.catalog import TASK_METRICS
from dljobs.models.data import Data, TensorSplit
from dljobs.models.evaluation import Tally, evaluating, shard_indices, tally
from dljobs.models.losses import find_loss

CROSS_ENTROPY = find_loss("cross_entropy")


def classification(num_samples: int, num_classes: int, seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_samples, num_classes, generator=generator)
    y = torch.randint(0, num_classes, (num_samples,), generator=generator)
    split = TensorSplit(x, y)
    return Data(split, split, sample_shape=(num_classes,), num_classes=num_classes)


def count(data: Data, indices: Tensor, batch_size: int = 256, model: nn.Module | None = None) -> Tally:
    return tally(model or nn.Identity(), data.test, indices, CROSS_ENTROPY, data, batch_size=batch_size)


@settings(deadline=None, max_examples=60)
@given(
    num_samples=st.integers(0, 60),
    num_classes=st.integers(1, 7),
    world_size=st.integers(1, 9),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_the_tallies_of_all_ranks_add_up_to_the_whole(
    num_samples: int, num_classes: int, world_size: int, batch_size: int, seed: int
) -> None:
    data = classification(num_samples, num_classes, seed)
    whole = count(data, torch.arange(num_samples))
    shards = [shard_indices(num_samples, rank, world_size) for rank in range(world_size)]
    assert sorted(torch.cat(shards).tolist()) == list(range(num_samples))
    tensors = [count(data, shard, batch_size).to_tensor() for shard in shards]
    summed = whole.with_tensor(torch.stack(tensors).sum(0))
    # All but the loss are whole numbers and must be equal; sums of losses differ by the order of adding.
    assert torch.equal(summed.values[1:], whole.values[1:])
    torch.testing.assert_close(summed.values[0], whole.values[0], rtol=1e-6, atol=1e-9)
    assert summed.num_samples == num_samples


def test_the_result_is_what_counting_by_hand_gives() -> None:
    logits = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [3.0, 0, 0], [0, 0, 3.0]])
    split = TensorSplit(logits, torch.tensor([0, 1, 1, 0]))
    data = Data(split, split, sample_shape=(3,), num_classes=3, class_names=("cat", "dog", "eel"))
    counted = count(data, torch.arange(4))
    result = counted.result()
    assert result["accuracy"] == 0.5
    assert result["per_class"] == {"cat": 0.5, "dog": 0.5, "eel": None}
    assert result["num_samples"] == 4
    assert result["loss"] == pytest.approx(CROSS_ENTROPY(logits, split.y).item())
    assert counted.confusion() == [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_classes_without_names_have_their_numbers() -> None:
    assert list(count(classification(5, 3), torch.arange(5)).result()["per_class"]) == ["0", "1", "2"]


def test_no_samples_and_a_loss_that_is_not_finite_are_null() -> None:
    data = classification(3, 2)
    empty = Tally.empty(data, CROSS_ENTROPY).result()
    assert empty == {"loss": None, "num_samples": 0, "accuracy": None, "per_class": {"0": None, "1": None}}
    counted = Tally.empty(data, CROSS_ENTROPY)
    counted.add(torch.full((1, 2), torch.nan), torch.tensor([0]), torch.tensor([torch.nan]))
    assert counted.result()["loss"] is None
    json.dumps(counted.result(), allow_nan=False)


def test_a_prediction_beyond_the_datas_classes_is_wrong_and_breaks_nothing() -> None:
    counted = Tally.empty(classification(3, 2), CROSS_ENTROPY)
    counted.add(torch.tensor([[0.0, 0, 9], [9.0, 0, 0]]), torch.tensor([1, 0]), torch.zeros(2))
    assert counted.result()["accuracy"] == 0.5
    assert counted.confusion() == [[1, 0], [0, 0]]


def test_above_a_thousand_classes_there_is_no_confusion_matrix() -> None:
    counted = count(classification(20, 1001), torch.arange(20))
    assert counted.confusion() is None
    assert counted.to_tensor().numel() == 2 + 2 * 1001
    assert counted.result()["num_samples"] == 20


@pytest.mark.parametrize(("name", "expected"), [("mse", 2.5), ("sse", 5.0), ("l1", 1.5), ("sae", 3.0)])
def test_regression_has_a_loss_and_no_accuracy(name: str, expected: float) -> None:
    split = TensorSplit(torch.tensor([[1.0], [4.0]]), torch.tensor([[0.0], [2.0]]))
    data = Data(split, split, sample_shape=(1,), task="regression")
    counted = tally(nn.Identity(), split, torch.arange(2), find_loss(name), data, batch_size=1)
    result = counted.result()
    assert result == {"loss": expected, "num_samples": 2, "mse": 2.5, "mae": 1.5, "r2": pytest.approx(-1.5)}
    assert counted.confusion() is None


def test_r2_over_several_outputs_and_ranks() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(50, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.1]) + 100
    x = y + 0.3 * torch.randn(50, 3, generator=generator)
    split = TensorSplit(x, y)
    data = Data(split, split, sample_shape=(3,), task="regression")
    parts = [tally(nn.Identity(), split, shard_indices(50, rank, 4), find_loss("mse"), data) for rank in range(4)]
    result = (parts[0] + parts[1] + parts[2] + parts[3]).result()
    errors, spread = (x - y).double(), (y - y.mean(0)).double()
    assert result["mse"] == pytest.approx(float(errors.square().mean()))
    assert result["mae"] == pytest.approx(float(errors.abs().mean()))
    assert result["r2"] == pytest.approx(float(1 - errors.square().sum() / spread.square().sum()), rel=1e-6)
    assert result["loss"] == pytest.approx(result["mse"], rel=1e-5)


def test_targets_that_do_not_vary_have_no_r2() -> None:
    split = TensorSplit(torch.tensor([0.1, 0.2]), torch.tensor([0.1, 0.1]))
    data = Data(split, split, sample_shape=(), task="regression")
    result = tally(nn.Identity(), split, torch.arange(2), find_loss("mse"), data).result()
    assert (result["r2"], result["mae"]) == (None, pytest.approx(0.05))
    empty = Tally.empty(data, find_loss("mse")).result()
    assert empty == {"loss": None, "num_samples": 0, "mse": None, "mae": None, "r2": None}


def test_an_index_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="counted twice"):
        count(classification(3, 2), torch.tensor([0, 1, 1]))


def test_evaluation_changes_neither_modes_nor_buffers_and_keeps_no_graph() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 2))
    model[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = classification(6, 2)
    first, second = (count(data, torch.arange(6), 4, model).to_tensor() for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert [module.training for module in model] == [False, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_modes_are_restored_after_an_error() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(RuntimeError), evaluating(model):
        raise RuntimeError
    assert model.training
    assert torch.is_grad_enabled()


def test_tallies_add_and_check_their_size() -> None:
    data = classification(4, 2)
    joined = count(data, torch.tensor([0, 1])) + count(data, torch.tensor([2, 3]))
    torch.testing.assert_close(joined.to_tensor(), count(data, torch.arange(4)).to_tensor())
    with pytest.raises(ValueError, match="a tally of 2 classes"):
        joined.with_tensor(torch.zeros(3))


def test_clients_know_what_is_measured() -> None:
    values = classification(4, 3)
    numbers = TensorSplit(torch.zeros(2, 1), torch.tensor([[1.0], [2.0]]))
    regression = Data(numbers, numbers, sample_shape=(1,), task="regression")
    for task, data, loss in (("classification", values, CROSS_ENTROPY), ("regression", regression, find_loss("mse"))):
        result = tally(nn.Identity(), data.test, torch.arange(2), loss, data).result()
        measured = {name for name, value in result.items() if isinstance(value, float) and name != "num_samples"}
        assert measured == set(TASK_METRICS[task]), task  # type: ignore[index]
