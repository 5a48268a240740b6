"""Successive halving against a plain reading of its rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljobs.errors import UsageError
from dljobs.service.halving import Rule, Trial, parse_rule, prune

values = st.one_of(st.none(), st.sampled_from([0.1, 0.2, 0.2, 0.5]), st.floats(-10, 10))
trials = st.lists(st.tuples(st.lists(values, max_size=3), st.booleans()), max_size=9).map(
    lambda rows: [
        Trial(number, {3**level: value for level, value in enumerate(reached)}, may_be_pruned)
        for number, (reached, may_be_pruned) in enumerate(rows)
    ]
)
rules = st.builds(Rule, metric=st.just("accuracy"), goal=st.sampled_from(["max", "min"]), eta=st.integers(2, 4))


def reference(rule: Rule, given_trials: list[Trial]) -> set[int]:
    """The same, by counting who is better, at each trial's highest rung that has enough."""

    def is_better(a: float | None, b: float | None) -> bool:
        if a is None or b is None:
            return a is not None
        return a > b if rule.goal == "max" else a < b

    pruned = set()
    for trial in given_trials:
        for rung in sorted(trial.values, reverse=True):
            there = [other.values[rung] for other in given_trials if rung in other.values]
            if len(there) < rule.eta:
                continue
            better = sum(is_better(other, trial.values[rung]) for other in there)
            if trial.may_be_pruned and better >= len(there) // rule.eta:
                pruned.add(trial.job_id)
            break
    return pruned


@given(rules, trials)
def test_the_rule_is_the_reference(rule: Rule, found: list[Trial]) -> None:
    assert set(prune(rule, found)) == reference(rule, found)


@given(rules, trials, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rule: Rule, found: list[Trial], draw: object) -> None:
    shuffled = draw.sample(found, len(found))  # type: ignore[attr-defined]
    assert prune(rule, shuffled) == prune(rule, found)


def test_the_reason_has_rung_rank_and_numbers() -> None:
    found = [Trial(number, {3: value}) for number, value in enumerate((0.9, 0.8, 0.25))]
    assert prune(Rule("accuracy", "max", 3), found)[2] == (
        "pruned at epoch 3: accuracy 0.25 is place 3 of 3, the best third needed 0.9"
    )


@given(st.text(max_size=20))
def test_any_text_is_a_rule_or_a_sentence(text: str) -> None:
    try:
        rule = parse_rule(text, ("accuracy", "loss"))
    except UsageError as error:
        assert error.message
        assert "\n" not in error.message.strip()
    else:
        assert rule.metric in ("accuracy", "loss")


@pytest.mark.parametrize(("eta", "rungs"), [(2, [1, 2, 4, 8]), (3, [1, 3, 9]), (4, [1, 4])])
def test_rungs(eta: int, rungs: list[int]) -> None:
    assert Rule("loss", "min", eta).rungs(10) == rungs
