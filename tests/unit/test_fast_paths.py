"""Faster ways to the same weights: each is held against the plain one, and continues as exactly as that does."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from dljobs.workers.checkpoint import Checkpoint
from dljobs.workers.precision import Precision
from tests.small_jobs import events_of, train_losses

from .test_trainer import STEPS_PER_EPOCH, cut, one_thread, result_of, train

__all__ = ["one_thread"]  # a fixture

# How far a loss may be from that of float32. One product of bfloat16 is off by 2^-9, of float16 by 2^-11, and twelve
# steps of a learning rate of 0.1 amplify that; the others only add in another order.
TOLERANCES = {"tf32": 1e-6, "bf16": 0.1, "fp16": 0.03}
FAST: list[tuple[dict[str, Any], float]] = [
    *(({"precision": name}, tolerance) for name, tolerance in TOLERANCES.items()),
    ({"channels_last": True}, 1e-4),
    ({"precision": "bf16", "channels_last": True, "clip_norm": 0.5}, 0.1),
]


@pytest.mark.parametrize(("changes", "tolerance"), FAST)
def test_the_losses_are_those_of_the_plain_way(tmp_path: Path, changes: dict[str, Any], tolerance: float) -> None:
    plain = train(tmp_path / "plain", "conv", **{k: v for k, v in changes.items() if k == "clip_norm"})
    fast = train(tmp_path / "fast", "conv", **changes)
    assert train_losses(fast) == pytest.approx(train_losses(plain), rel=tolerance, abs=tolerance / 10)
    if changes.get("precision") in {"bf16", "fp16"}:
        assert train_losses(fast) != train_losses(plain)
    for artifact in events_of(fast, type_="artifact"):
        if artifact["kind"] == "checkpoint":
            tensors = Checkpoint.read(Path(artifact["path"])).tensors
            assert {t.dtype for name, t in tensors.items() if "num_batches" not in name} == {torch.float32}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"precision": "fp16", "clip_norm": 1.0}, {"channels_last": True}]
)
def test_a_cut_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], optimizer: str
) -> None:
    changes = {"model": "conv", "optimizer": optimizer, "lr": 0.01, **changes}
    whole = train(tmp_path / "whole", **changes)
    at_step = random.SystemRandom().randrange(1, 3 * STEPS_PER_EPOCH)
    path = cut(tmp_path, monkeypatch, at_step, **changes)
    rest = train(tmp_path / "rest", resume=path, **changes)
    assert result_of(rest)["weights_sha256"] == result_of(whole)["weights_sha256"], at_step
    assert train_losses(rest) == train_losses(whole)[at_step:], at_step


def test_a_checkpoint_holds_the_scale_of_float16_gradients(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", "conv", precision="fp16")
    (last,) = [e["path"] for e in events_of(folder, type_="artifact") if e["name"] == "step-12"]
    saved = Checkpoint.read(Path(last))
    assert saved.scaler["scale"] > 1
    precision = Precision("fp16", torch.device("cpu"))
    assert precision.state() != saved.scaler  # it has grown older
    precision.restore(saved.scaler)
    assert precision.state() == saved.scaler
    other = train(tmp_path / "other", "conv")
    (last,) = [e["path"] for e in events_of(other, type_="artifact") if e["name"] == "step-12"]
    assert Checkpoint.read(Path(last)).scaler == {}


def compile_with(backend: str) -> Any:
    """`torch.compile` without the half minute of a C++ compiler."""
    real = torch.compile
    return mock.patch("torch.compile", lambda model, **_: real(model, dynamic=True, backend=backend))


def test_a_compiled_model_learns_the_same_and_continues_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = train(tmp_path / "plain", "conv")
    with compile_with("aot_eager"):
        whole = train(tmp_path / "whole", "conv", compile=True)
        assert "compiled; the gradients of 16 and 2 samples are the plain model's" in capfd.readouterr().out
        path = cut(tmp_path, monkeypatch, 6, model="conv", compile=True)
        rest = train(tmp_path / "rest", "conv", resume=path, compile=True)
    assert train_losses(whole) == pytest.approx(train_losses(plain), rel=1e-4)
    assert result_of(rest)["weights_sha256"] == result_of(whole)["weights_sha256"]
    assert not [name for name in Checkpoint.read(Path(path)).tensors if "_orig_mod" in name]


def test_a_model_that_cannot_be_compiled_runs_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(_model: nn.Module, **_: Any) -> Any:
        def call(_x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C++ compiler\nand more")

        called = mock.Mock(side_effect=call)
        called.train = lambda: None
        return called

    plain = train(tmp_path / "plain", "conv")
    with mock.patch("torch.compile", refuse):
        fallen_back = train(tmp_path / "run", "conv", compile=True)
    told = capfd.readouterr().out
    assert "not compiled, the model runs as it is: torch.compile failed: no C++ compiler\n" in told
    assert result_of(fallen_back)["weights_sha256"] == result_of(plain)["weights_sha256"]


def test_a_model_that_is_compiled_wrongly_runs_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Wrong(nn.Module):
        """Right for full batches, as compilers have been, and wrong for what is left."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.model(x)
            return out if len(x) == 16 else out * 2

    plain = train(tmp_path / "plain", "conv")
    with mock.patch("torch.compile", lambda model, **_: Wrong(model)):
        fallen_back = train(tmp_path / "run", "conv", compile=True)
    assert "the compiled model's gradient of 2 samples is off by" in capfd.readouterr().out
    assert result_of(fallen_back)["weights_sha256"] == result_of(plain)["weights_sha256"]


@pytest.mark.slow
def test_inductor_learns_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain = train(tmp_path / "plain", "conv")
    compiled = train(tmp_path / "compiled", "conv", compile=True)
    assert "compiled; the gradients of" in capfd.readouterr().out
    assert train_losses(compiled) == pytest.approx(train_losses(plain), rel=1e-4)
