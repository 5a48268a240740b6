"""Axes: what `--array` and `--sweep` mean, and that whatever is typed means something or is refused in a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljobs.errors import UsageError
from dljobs.service.axes import Axis, Wish, drawn_axis, grid_axis, parse_array, points
from dljobs.service.submission import training_options

LR, SEED, OPTIMIZER = (training_options()[name] for name in ("lr", "seed", "optimizer"))
NASTY = st.text(alphabet="0123456789-:,%=~()elogunifrmtchanxs. ", max_size=24)


def axis(text: str, option: object = LR, trials: int = 8, seed: int = 0) -> Axis:
    wish = Wish.parse(text)
    return drawn_axis(wish, option, trials, seed) if wish.kind else grid_axis(wish, option)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "indices", "parallel"),
    [("3", (3,), None), ("0-3", (0, 1, 2, 3), None), ("0-15%4", tuple(range(16)), 4), ("1,3,5-6", (1, 3, 5, 6), None)],
)
def test_arrays(text: str, indices: tuple[int, ...], parallel: int | None) -> None:
    assert parse_array(text) == (indices, parallel)


def test_grids() -> None:
    assert axis("lr=0.1,1e-2").values == (0.1, 0.01)
    assert axis("seed=0-3,7", SEED).values == (0, 1, 2, 3, 7)
    assert axis("optimizer=sgd,adam", OPTIMIZER).values == ("sgd", "adam")
    product = list(points([axis("lr=0.1,0.01"), axis("seed=0-1", SEED)]))
    assert product == [{"lr": lr, "seed": seed} for lr in (0.1, 0.01) for seed in (0, 1)]


def test_draws_follow_from_the_seed_and_the_name_alone() -> None:
    few, many = axis("lr~log(1e-4,1e-1)", trials=5), axis("lr~log(1e-4,1e-1)", trials=9)
    assert many.values[:5] == few.values
    assert axis("lr~log(1e-4,1e-1)", seed=1).values != axis("lr~log(1e-4,1e-1)").values
    # Pinned: a sweep that is submitted again next year has the same trials.
    assert few.values[:2] == axis("lr~log(1e-4,1e-1)", trials=2).values


@given(st.integers(0, 10**6))
def test_draws_lie_within_their_bounds(seed: int) -> None:
    assert all(1e-4 <= value <= 1e-1 for value in axis("lr~log(1e-4,1e-1)", seed=seed).values)
    assert all(0.5 <= value <= 2 for value in axis("lr~uniform(0.5,2)", seed=seed).values)
    assert set(axis("seed~int(3,5)", SEED, seed=seed).values) <= {3, 4, 5}
    assert set(axis("optimizer~choice(sgd,adam)", OPTIMIZER, seed=seed).values) <= {"sgd", "adam"}


@given(NASTY)
def test_any_array_is_indices_or_a_sentence(text: str) -> None:
    try:
        indices, parallel = parse_array(text)
    except UsageError as error:
        assert error.message.startswith("--array")
        assert len(error.message) < 200
    else:
        assert indices
        assert len(set(indices)) == len(indices)
        assert parallel is None or parallel >= 0


@given(st.one_of(NASTY, NASTY.map("lr=".__add__), NASTY.map("lr~log(".__add__), NASTY.map("lr~uniform".__add__)))
def test_any_axis_is_values_or_a_sentence(text: str) -> None:
    for option in (LR, SEED, OPTIMIZER):
        try:
            found = axis(text, option)
        except UsageError as error:
            assert error.message
            assert "\n" not in error.message
        else:
            assert found.values
