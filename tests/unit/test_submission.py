"""Submission: the resolved spec, beyond what `tests/unit/cli/test_submit.py` asks on the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljobs.errors import UsageError
from dljobs.models.catalog import models
from dljobs.service.evaluation import prepare_evaluation
from dljobs.service.spec import JobSpec, Training
from dljobs.service.submission import TRAINING_RANGES, Request, prepare, training_options


@pytest.mark.parametrize("name", list(models()))
def test_every_model_can_be_submitted_as_it_is(name: str) -> None:
    entry = models()[name]
    spec = prepare(Request(name), "ada").spec
    assert (spec.model, spec.data, spec.loss, spec.metric) == (name, entry.data, entry.loss, entry.metric)
    assert (spec.strategy, spec.num_devices, spec.kind) == ("single", 1, "train")
    assert entry.defaults.items() <= dataclasses.asdict(spec.training).items()
    assert JobSpec.from_json(spec.to_json()) == spec


def test_flags_win_over_set_over_the_models_own_over_the_defaults() -> None:
    training = {"lr": "0.5", "epochs": None}
    spec = prepare(Request("lenet", training=training, sets=["momentum=0.1", "trainer.weight-decay=0.2"]), "ada").spec
    assert (spec.training.lr, spec.training.momentum, spec.training.weight_decay) == (0.5, 0.1, 0.2)
    assert spec.training.epochs == models()["lenet"].defaults["epochs"]
    assert spec.training.clip_norm == Training().clip_norm


def test_a_model_option_that_is_left_alone_is_left_to_the_worker() -> None:
    assert prepare(Request("lenet"), "ada").spec.model_options == {}
    assert prepare(Request("lenet", sets=["model.num_classes=12"]), "ada").spec.model_options == {"num_classes": 12}


def test_a_datas_options_are_frozen_into_the_spec() -> None:
    assert prepare(Request("lenet"), "ada").spec.data_options == {"seed": 0}
    assert prepare(Request("lenet", sets=["data.seed=4"]), "ada").spec.data_options == {"seed": 4}


def test_every_number_of_the_training_has_a_range_and_a_default_within_it() -> None:
    numbers = {name: option for name, option in training_options().items() if option.type in ("int", "float")}
    assert set(TRAINING_RANGES) == set(numbers)
    for name, (lowest, highest) in TRAINING_RANGES.items():
        assert lowest <= numbers[name].default <= highest


@pytest.mark.parametrize("name", list(TRAINING_RANGES))
def test_absurd_numbers_are_refused_and_the_nearest_sane_one_said(name: str) -> None:
    lowest, highest = TRAINING_RANGES[name]
    whole = training_options()[name].type == "int"
    for value in (str(int(highest) + 1) if whole else str(highest * 2), f"{lowest - 1:g}"):
        with pytest.raises(UsageError) as caught:
            prepare(Request("lenet", sets=[f"trainer.{name}={value}"]), "ada")
        assert name in caught.value.message
        assert "nearest" in caught.value.hint


@given(batch_size=st.integers(1, 4096), num_ranks=st.integers(2, 64))
def test_a_global_batch_is_shared_out_equally_or_refused_with_one_that_is(batch_size: int, num_ranks: int) -> None:
    request = Request("lenet", num_devices=num_ranks, training={"batch_size": batch_size})
    try:
        assert prepare(request, "ada").spec.training.batch_size % num_ranks == 0
    except UsageError as error:
        assert batch_size % num_ranks != 0
        nearest = [int(word) for word in error.hint.split() if word.isdigit()]
        assert nearest
        assert all(size > 0 and size % num_ranks == 0 for size in nearest)


def test_dp_shares_out_any_batch() -> None:
    spec = prepare(Request("lenet", num_devices=3, strategy="dp"), "ada").spec
    assert (spec.strategy, spec.training.batch_size) == ("dp", 64)


@given(st.text(), st.text())
def test_any_setting_is_taken_or_refused_in_words(key: str, value: str) -> None:
    try:
        prepare(Request("lenet", sets=[f"{key}={value}"]), "ada")
    except UsageError as error:
        assert error.message


def options_of_evaluation(spec: JobSpec, data: str) -> dict[str, object]:
    job = {"id": 1, "spec_json": spec.to_json()}
    return dict(prepare_evaluation(job, 7, data, "ada").spec.data_options)


def test_another_table_is_measured_by_the_one_that_was_learned_from(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def net(in_features: int, out_features: int): ...\n")
    sets = ["task=regression", "target=price", "split=0.3"]
    spec = prepare(Request(f"{tmp_path}/net.py:net", data="csv:/a.csv", sets=sets), "ada").spec
    options = options_of_evaluation(spec, f"csv:{tmp_path}/b.csv")
    assert options == {**spec.data_options, "test": f"{tmp_path}/b.csv"}
    assert options["path"] == "/a.csv"


def test_other_images_get_the_size_that_was_learned_from() -> None:
    spec = prepare(Request("resnet18"), "ada").spec
    options = options_of_evaluation(spec, "imagefolder:/photos")
    assert (options["image_size"], options["channels"], options["path"]) == (224, 3, "/photos")
    assert options_of_evaluation(spec, "mnist") == {}


@pytest.mark.parametrize("size", [{"num_devices": 8, "min_devices": 2}, {"share_percent": 50}])
@pytest.mark.parametrize("nodes", [{"num_nodes": 2}, {"may_spread": True}])
def test_a_range_or_a_share_is_of_one_node(size: dict[str, int], nodes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="is of one node"):
        prepare(Request("lenet", **size, **nodes), "ada")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"num_devices": 4, "num_nodes": 2, "strategy": "dp"}, "dp is one process"),
        ({"num_devices": 4, "may_spread": True, "strategy": "dp"}, "dp is one process"),
        ({"num_devices": 4, "num_nodes": 3}, "cannot be shared out equally to 3 nodes"),
        ({"num_devices": 1, "num_nodes": 2}, "cannot be shared out equally to 2 nodes"),
        ({"num_devices": 4, "num_nodes": 2, "may_spread": True}, "give one of them|leaves it open"),
        ({"num_devices": 4, "min_devices": 2, "num_nodes": 2}, "of one node"),
        ({"num_devices": 4, "num_nodes": 0}, "nodes"),
    ],
)
def test_what_cannot_be_on_several_nodes_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        prepare(Request("lenet", **asked), "ada")


def test_equal_parts_on_several_nodes() -> None:
    new = prepare(Request("lenet", num_devices=4, num_nodes=2), "ada")
    assert (new.num_nodes, new.may_spread, new.spec.strategy) == (2, False, "ddp")
