"""The trainer: one loop for every model and every strategy.

`Trainer._train` is the loop; what it calls stands below it in the order of the calls. All ranks run the same code, and
each collective (in the backward pass, `Agreement.reach`, evaluation, `Strategy.gather`) is reached by all of them after
the same step. Rank 0 alone speaks and writes. It knows no process, no launcher and no store.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dljobs.errors import DataError, UsageError
from dljobs.models.data_record import DataRecord

from .agreement import Agreement
from .artifacts import ArtifactWriter
from .channel import EventWriter
from .checkpoint import Checkpoint, copy_optimizer, spec_digest
from .compiling import compiled_if_right
from .folder import RunFolder, RunRequest
from .gradient import Gradient
from .loader import Loader, Take
from .loss_record import LossRecord, NonFiniteLoss
from .narration import epoch_line, say
from .optimizers import build_optimizer, learning_rate, set_learning_rate
from .plan import Plan
from .progress import Progress
from .random_state import capture, restore, seed_all
from .sharding import Batches, Shard
from .stop_rule import StopRule
from .strategies import Strategy
from .weights import HostCopy, copy_to_host, digest, write_state_dict
from .workload import evaluate_on_test, load_workload, scalars

_PROGRESS_EVERY_S = 1.0  # also of what only tells that the run is alive
_KEPT_BYTES = 256 << 20  # how much the state_dicts of a run may take together before some epochs are passed over


class _Stop(Exception):
    """All ranks have agreed to stop, while they evaluate."""


class Trainer:
    """The training of one run, on one rank."""

    def __init__(self, request: RunRequest, strategy: Strategy, channel: EventWriter) -> None:
        self.request, self.strategy, self.channel = request, strategy, channel
        self.spec, self.training = request.spec, request.spec.training
        self.workload = load_workload(request, strategy, channel)
        self.model = self.workload.model
        self.data_record = DataRecord.of(self.workload.data)
        self.wrapped = strategy.wrap(self._compiled() if self.training.compile else self.model)
        see_outside: Any = getattr(self.model, "see_outside", None)
        if see_outside is not None:  # what only its caller sees: the whole batch of a model that is split
            self.wrapped.register_forward_hook(lambda _, args, out: see_outside(args[0], out))
        self.gradient = Gradient(self.workload, self.wrapped, strategy, self.training.micro_batch_size)
        self.optimizer = build_optimizer(self.training, self.model)
        self.batches = Batches(
            num_samples=len(self.workload.data.train),
            batch_size=self.training.batch_size,
            seed=self.training.seed,
            rank=strategy.rank,
            world_size=strategy.world_size,
            endless=self.workload.data.endless,
        )
        self.loader = Loader.of(self.workload.data.train, request, strategy)
        self.progress = Progress()
        self._follow(Plan.onward(self.training, self.batches, self.progress))
        self.until = StopRule(self.training.until, self.workload.data.task)
        averaged, told = self.workload.loss.averaged, channel if strategy.rank == 0 else None
        self.losses = LossRecord(self.training, self.until, self.total_steps, averaged=averaged, channel=told)
        folder = RunFolder(Path(request.folder))
        self.artifacts = ArtifactWriter(folder.artifacts, channel) if strategy.rank == 0 else None
        self.agreement = Agreement(
            strategy, folder.control_json, self.training.checkpoint_every_s, self._is_writing_checkpoint
        )
        self.result: dict[str, Any] | None = None  # of the last evaluation
        self.num_steps_here = 0
        self.differences: list[str] = []  # why what follows a resume is not exact
        self._progress_at = self._alive_at = 0.0
        self._keep_every = self.training.keep_every or self._keep_every_by_size()

    def run(self) -> None:
        """Train to the end, or until the ranks agree to stop."""
        try:
            self._train()
        except BaseException:
            if self.artifacts:
                self.artifacts.settle()
            raise

    def _compiled(self) -> nn.Module:
        """The model as it is to be called, before ranks meet in it."""
        self._emit("stage", text="compiling the model")
        return compiled_if_right(self.workload, self.strategy, self.training.batch_size)

    def _train(self) -> None:
        self._begin()
        while self.progress.epoch <= self.last_epoch:
            for shard, take in self._remaining_batches():
                self._step(shard, take)
                if self._ranks_meet() and self._agree():
                    return
            if self._end_epoch():
                return
        self._finish()

    def _follow(self, plan: Plan) -> None:
        self.plan = plan
        self.total_steps, self.last_epoch = plan.steps, plan.epochs  # less, where a stop rule ends the training early

    def _begin(self) -> None:
        """Take up a checkpoint or seed each rank's own randomness, and announce the plan."""
        # Weights are the same everywhere; what is drawn in training (dropout) differs between the ranks.
        seed_all(self.training.seed, 1 + self.strategy.rank)
        if self.request.resume:
            self._resume(Path(self.request.resume))
        self._emit(
            "plan",
            total_steps=self.total_steps,
            steps_per_epoch=self.batches.steps_per_epoch,
            epochs=self.last_epoch,
            num_parameters=self.workload.num_parameters,
            num_train=len(self.workload.data.train),
            num_test=len(self.workload.data.test),
        )
        self.wrapped.train()
        self.agreement.restart_clock()
        self._emit("stage", text="training")
        self._started_at = self._epoch_started_at = time.monotonic()

    def _remaining_batches(self) -> Iterator[tuple[Shard, Take]]:
        """What is left of the epoch, and of the steps that the run may take."""
        progress = self.progress
        num_left = max(0, self.total_steps - progress.step)
        shards = islice(self.batches.epoch(progress.epoch, progress.step_in_epoch), num_left)
        for batch in self.loader.batches(shards, progress.step):
            if progress.step >= self.total_steps:  # a stop rule was met
                return
            yield batch

    def _step(self, shard: Shard, take: Take) -> None:
        """One optimizer step on one global batch."""
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = self.gradient.compute(shard, take)
        set_learning_rate(self.optimizer, learning_rate(self.training, self.progress.step + 1, self.plan.steps))
        self.workload.precision.step(self.optimizer, self.model, self.training.clip_norm)
        self.progress.step += 1
        self.progress.step_in_epoch += 1
        self.num_steps_here += 1
        self.agreement.record(loss_sum, shard.num_global)

    def _ranks_meet(self) -> bool:
        every = self.training.checkpoint_every_steps
        if every and self.progress.step % every == 0:
            self.agreement.owe_checkpoint()
            return True
        return self._epoch_is_over() or self.agreement.is_due() or self.until.is_due(self.progress.step)

    def _epoch_is_over(self) -> bool:
        progress = self.progress
        return progress.step_in_epoch == self.batches.steps_per_epoch or progress.step == self.total_steps

    def _agree(self) -> bool:
        """Meet the other ranks: look at the losses, report, checkpoint if it is time; True if the run stops here."""
        is_first = not self._progress_at
        agreed = self.agreement.reach()
        if why := self.losses.add(agreed.losses, self.progress, self.total_steps):
            self._end_here(why)
        if is_first:
            self._emit("first_step")
        if time.monotonic() - self._progress_at >= _PROGRESS_EVERY_S or self.progress.step == self.total_steps:
            self._progress_at = self._alive_at = time.monotonic()
            progress = {"step": self.progress.step, "total_steps": self.total_steps, "epoch": self.progress.epoch}
            self._emit("progress", **progress, steps_per_s=round(agreed.steps_per_s, 3))
        # At the end of an epoch the one that follows its evaluation is worth more.
        if agreed.wants_checkpoint and (agreed.stop or not self._epoch_leaves_checkpoint()):
            self._checkpoint()
        if agreed.stop:
            self._say_stopped()
        return agreed.stop

    def _say_stopped(self) -> None:
        self._flush()
        self._emit("stopped", step=self.progress.step, epoch=self.progress.epoch, reason=self.agreement.reason)

    def _end_here(self, why: str) -> None:
        """The training is over with the step that was last taken: what it still has to do is to end the epoch."""
        self.progress.ended = why
        self.total_steps, self.last_epoch = self.progress.step, self.progress.worked_epoch

    def _epoch_leaves_checkpoint(self) -> bool:
        """Whether the last step has ended an epoch that leaves a checkpoint."""
        every, epoch = self.training.checkpoint_every_epochs, self.progress.epoch
        return self._epoch_is_over() and (epoch == self.last_epoch or bool(every and epoch % every == 0))

    def _end_epoch(self) -> bool:
        """Evaluate, keep the weights, and leave a checkpoint before the next epoch; True if the run stops here."""
        progress = self.progress
        # A summed loss is one of a batch: of these the mean, as of samples where it is averaged.
        num = progress.num_samples if self.workload.loss.averaged else progress.step_in_epoch
        epoch_loss = progress.loss_sum / num
        where = {"step": progress.step, "epoch": progress.epoch}
        self._emit("metrics", **where, split="train", values={"epoch_loss": epoch_loss})
        random_state = capture()
        try:
            values = self._evaluate(progress.epoch)
        except _Stop:
            # As after the epoch's last step: whoever continues evaluates from the beginning.
            restore(random_state)
            if self.agreement.ask(lambda: self.agreement.reason != "cancel"):
                self._checkpoint()
            self._say_stopped()
            return True
        now = time.monotonic()
        took, self._epoch_started_at = now - self._epoch_started_at, now
        metric = self.spec.metric
        self._say(epoch_line(progress.epoch, self.plan.epochs, epoch_loss, metric, values[metric], took))
        weights = self._keep_weights(progress.epoch, values)
        is_best, is_last = progress.epoch == progress.best_epoch, progress.epoch == self.last_epoch
        leaves_checkpoint = self._epoch_leaves_checkpoint()
        progress.next_epoch()
        # Never two at once; but a run is not over before its last checkpoint is on its way.
        if leaves_checkpoint and self.agreement.is_writing() and not is_last:
            self.agreement.owe_checkpoint()
        elif leaves_checkpoint:
            self._checkpoint(values, best=is_best, weights=weights, final=is_last)
        self.agreement.restart_clock()
        return False

    def _look_up(self) -> None:
        """Between two batches of an evaluation."""
        if time.monotonic() - self._alive_at >= _PROGRESS_EVERY_S:
            self._alive_at = time.monotonic()
            self._emit("alive")
        if self.agreement.must_stop():
            raise _Stop

    def _evaluate(self, epoch: int) -> dict[str, float]:
        """Evaluate over all ranks, tell what was found, and judge whether the training ends here."""
        progress, spec = self.progress, self.spec
        size = self.training.batch_size
        result, _ = evaluate_on_test(self.workload, self.wrapped, self.strategy, size, self._look_up)
        values = scalars(result)
        if spec.metric not in values:
            if result["loss"] is None:
                where = f"after step {progress.step} (epoch {epoch})"
                raise NonFiniteLoss(f"the test loss is not finite {where}", self.training)
            known = ", ".join(sorted(values))
            raise UsageError(f"the metric {spec.metric!r} is not among the results of {spec.data}: {known}")
        value = values[spec.metric]
        is_better = value >= progress.best_value if spec.goal == "max" else value <= progress.best_value
        if is_better or not progress.best_epoch:
            progress.best_epoch, progress.best_value = epoch, value
        self.result = result
        self._emit("metrics", step=progress.step, epoch=epoch, split="test", values=values)
        if not progress.ended and (why := self.until.judge_results(progress.step, values)):
            self._end_here(why)
        return values

    def _keep_weights(self, epoch: int, values: dict[str, float]) -> HostCopy | None:
        """Save the state_dict if the epoch is the best so far, the last, or one to keep; the copy, if one was taken."""
        is_best, is_last = epoch == self.progress.best_epoch, epoch == self.last_epoch
        if not self.artifacts or not (is_best or is_last or epoch % self._keep_every == 0):
            return None
        weights = copy_to_host(self.model.state_dict(), final=is_last)
        event = {"kind": "state_dict", "name": f"epoch-{epoch}", "step": self.progress.step, "epoch": epoch}
        save = partial(write_state_dict, *weights, data=self.data_record)
        self.artifacts.write(save, {**event, "metrics": values, "best": is_best}, must=is_last)
        return weights

    def _finish(self) -> None:
        if self.result is None:  # resumed from a checkpoint behind the last epoch
            try:
                self._keep_weights(self.last_epoch, self._evaluate(self.last_epoch))
            except _Stop:
                self._say_stopped()
                return
        self._flush()
        seconds = time.monotonic() - self._started_at
        ended = self._describe_end()
        origin = self.data_record.origin
        best = {"epoch": self.progress.best_epoch, "metric": self.spec.metric, "value": self.progress.best_value}
        self._emit(
            "finished",
            result={
                **(self.result or {}),
                **({"data_sha256": origin.sha256} if origin else {}),
                "best": best,
                "step": self.progress.step,
                "epochs": self.last_epoch,
                **ended,
                "train_seconds": round(seconds, 3),
                "steps_per_s": round(self.num_steps_here / seconds, 3),
                "weights_sha256": digest(self.model.state_dict()) if self.strategy.rank == 0 else "",
            },
        )

    def _describe_end(self) -> dict[str, str]:
        """Whether a stop rule was met, for the result; in the log, too."""
        if not self.until.text:
            return {}
        how = self.progress.ended or f"not stopped: {self.until.text} was not met in {self.progress.step} steps"
        self._say(how)
        return {"until": how}

    def _checkpoint(
        self,
        metrics: dict[str, float] | None = None,
        *,
        best: bool = False,
        weights: HostCopy | None = None,
        final: bool = False,
    ) -> None:
        """Save everything that continues the run from here; a full disk costs the checkpoint, not the run."""
        random_states = self.strategy.gather(capture())
        self.agreement.checkpoint_saved()
        if not self.artifacts:
            return
        checkpoint = Checkpoint.of(
            weights or copy_to_host(self.model.state_dict(), final=final),
            copy_optimizer(self.optimizer, final=final),
            self.progress,
            random_states,
            self.spec,
            self.plan,
            self.data_record.to_json(),
            self.workload.precision.state(),
        )
        event = {"kind": "checkpoint", "name": f"step-{self.progress.step}", "step": self.progress.step}
        event |= {"epoch": self.progress.worked_epoch, "metrics": metrics or {}, "best": best}
        self.artifacts.write(checkpoint.write, {**event, "answers": self.agreement.answers})

    def _is_writing_checkpoint(self) -> bool:
        return self.artifacts is not None and self.artifacts.is_writing("checkpoint")

    def _resume(self, path: Path) -> None:
        """Continue from a checkpoint: exactly, if it is of the same job with the same ranks and threads."""
        saved = Checkpoint.read(path)
        if saved.progress.step_in_epoch and (others := self.plan.other_order(saved.plan)):
            raise UsageError(
                f"the checkpoint was cut in mid-epoch, and the rest of the epoch would be other samples: {others}",
                hint="continue from the checkpoint of an epoch's end, or keep what decides the order of the samples",
            )
        self.strategy.warm_up(self.wrapped, self.workload.data.train.batch(torch.arange(2))[0].to(self.strategy.device))
        saved.restore(self.model, self.optimizer)
        self.workload.precision.restore(saved.scaler)
        self.differences = saved.differences(self.spec, self.strategy.world_size)
        if change := DataRecord.from_json(saved.data).change_of(self.workload.data):
            if not self.request.resumes_other_job:
                raise DataError(change, "put the file back, or submit the job anew")
            self.differences.append(change)
        self._take_up(saved)
        rank, world_size = self.strategy.rank, self.strategy.world_size
        if saved.world_size == world_size:
            restore(saved.random_states[rank])
        else:
            seed_all(self.training.seed, 1 + rank, self.progress.step)
        exactly = f"not bit by bit ({'; '.join(self.differences)})" if self.differences else "exactly"
        self._say(f"continuing after step {self.progress.step}, {exactly}")

    def _take_up(self, saved: Checkpoint) -> None:
        """Stand where the checkpoint stood; under other settings, with what these leave to do."""
        self.progress = progress = saved.progress
        if self.request.resumes_other_job:
            progress.best_epoch, progress.best_value = 0, 0.0  # those weights are the other job's
        if saved.spec_sha256 == spec_digest(self.spec):
            self._follow(saved.plan)
            if progress.ended:
                self._end_here(progress.ended)
        else:
            # The stop rule may be another one: it is judged anew, from the next whole window of losses on.
            progress.ended, progress.window_sum = "", math.nan
            self._follow(Plan.onward(self.training, self.batches, progress))

    def _keep_every_by_size(self) -> int:
        num_bytes: int = sum(tensor.numel() * tensor.element_size() for tensor in self.model.state_dict().values())
        return max(1, math.ceil(self.last_epoch * num_bytes / _KEPT_BYTES))

    def _flush(self) -> None:
        if self.artifacts:
            self.artifacts.flush()

    def _say(self, text: str) -> None:
        if self.strategy.rank == 0:
            say(text)

    def _emit(self, type_: str, **fields: Any) -> None:
        if self.strategy.rank == 0:
            self.channel.write(type_, **fields)
