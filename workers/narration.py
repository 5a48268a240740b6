"""Narration: the lines by which rank 0 tells people how the training goes; programs read events instead.

It owns their wording. It does not know when one is due.
"""

from __future__ import annotations

import contextlib

from dljobs.service.durations import show_duration


def say(text: str) -> None:
    """Print a line to the rank's log; a full disk must not stop the training for it."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def epoch_line(epoch: int, last_epoch: int, loss: float, metric: str, value: float, seconds: float) -> str:
    """`epoch 3/15  loss 0.43  test accuracy 0.87  1.2 s`: the training's mean loss, then the metric that decides."""
    took = f"{seconds:.1f} s" if seconds < 100 else show_duration(seconds)
    return f"epoch {epoch}/{last_epoch}  loss {loss:.4g}  test {metric} {value:.4g}  {took}"


def running_loss_line(epoch: int, step_in_epoch: int, loss: float) -> str:
    """`[1,  2000] loss: 2.187`, as the 60-minute blitz prints it: epoch, batches done in it, their mean loss."""
    return f"[{epoch}, {step_in_epoch:5d}] loss: {loss:.4g}"
