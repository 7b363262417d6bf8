"""One training run: epochs of steps, their history, early stopping, the best weights, checkpoints."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import torch
from torch import Tensor

from ppl_vae.data import Rows, sizes_of, units_in
from ppl_vae.distributed.group import ALONE, Group, Lost
from ppl_vae.errors import Finding, UnsavedWarning, UserError, spelled
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.runs.result import Best, Record, unfinished
from ppl_vae.schedules import Capacity, FreeBits, Objective
from ppl_vae.speed.threads import Threads
from ppl_vae.training._acceleration import GraphStep
from ppl_vae.training._averaging import Average, bounds_of
from ppl_vae.training._distributed import DistributedStep
from ppl_vae.training._divergence import explain_divergence, failed_step
from ppl_vae.training._drifting import Drift
from ppl_vae.training._identity import differences
from ppl_vae.training._outcomes import Cursor, Outcomes
from ppl_vae.training._snapshots import Recorder
from ppl_vae.training._steps import BoundStep, PyroStep
from ppl_vae.training._stratified import StratifiedBatches
from ppl_vae.training._together import checkpoint_of_all
from ppl_vae.training.checkpoint import Checkpoint, restore, snapshot, write_checkpoint
from ppl_vae.training.settings import Settings

__all__ = ["Loop", "Stopped"]

Stopped = Literal["epochs", "patience", "interrupted", "on_epoch"]
"""What ended a run; "on_epoch" where that function said so."""

CHECKPOINT_SECONDS = 5.0
"""How long a state is in memory alone, longer where writing takes more than a twentieth of that; 0 is every epoch."""


class Done(NamedTuple):
    """What stands of a run after a number of whole epochs; `state` is for its checkpoint, where it has one."""

    epochs: int
    best: Best
    kept: dict[str, Tensor]
    state: dict[str, Tensor] | None


class Loop:
    """The state of one training run."""

    is_within = False
    """Whether the last checkpoint was written within an epoch."""

    def __init__(
        self,
        pair: Pair,
        step: BoundStep | PyroStep | GraphStep | DistributedStep,
        optimizer: Any,
        train: Rows,
        validation: Rows | None,
        settings: Settings,
        on_epoch: Callable[[Record], Any] | None,
        strata: StratifiedBatches | None = None,
        threads: Threads | None = None,
        group: Group = ALONE,
        recorder: Recorder | None = None,
    ) -> None:
        self.pair, self.step, self.train, self.validation = pair, step, train, validation
        self.beta, self.settings, self.on_epoch = settings.kl_weight, settings, on_epoch
        self.optimizer, self.strata, self.threads, self.group = optimizer, strata, threads or Threads(), group
        self.recorder = recorder if group.leads else None
        self.critic = step.critic if isinstance(step, BoundStep) else None
        self.folder: Path | None = None
        self.identity: dict[str, Any] = {}
        self.overridden: tuple[str, ...] = ()
        self.findings: tuple[Finding, ...] = ()
        self.drift = Drift(pair, step.structure, settings.passes)
        # the posterior of what all rows share is that of the training rows: no held-out row is a reason to stop short
        learns = any(p.requires_grad for p in pair.model.parameters())
        self.chooses = validation is not None and (learns or not step.structure.global_latents)
        # at a falling rate the last weights settle by themselves
        constant = not callable(settings.lr)
        self.average = Average(pair, bool(self.drift.sites) and not self.chooses and constant)
        self.generator = torch.Generator(train.device).manual_seed(settings.seed)
        self.history: list[Record] = []
        self.best = Best(0, -math.inf)
        self.judged_since = 0
        self.kept: dict[str, Tensor] = {}
        self.done: Done | None = None
        self.cursor: Cursor | None = None
        self.saved, self.took = time.monotonic(), 0.0

    def run(self) -> Stopped:
        """Train until the epochs are over, patience is or the user is, then put the best weights back.

        Raises:
            KeyboardInterrupt: when interrupted before the first epoch is over.
            Lost: another process of the run is gone; what this one stands at is saved.
        """
        try:
            stopped = self._train()
            self._keep_mean()
        except Lost as error:
            raise Lost(f"{error}: {self._goes_on()}") from error
        except KeyboardInterrupt:
            if self.done is None:
                raise
            stopped = "interrupted"
            self.history = self.history[: self.done.epochs]  # of the epoch that was cut short nothing is kept
            self.best, self.kept = self.done.best, self.done.kept
        finally:
            self.pair.eval()
        steps = max(1, math.ceil(len(self.train) / self.settings.batch_size))
        self.findings = (*self.findings, *self.drift.findings(self.history, len(self.train), steps, self.best.averaged))
        if stopped == "epochs" and (more := unfinished(self.history, self.best.epoch, self.settings.passes)):
            self.findings = (*self.findings, more)
        if self.recorder is not None:
            self.findings = (*self.findings, *self.recorder.findings(len(self.history)))
        if self.folder is not None and not (stopped == "interrupted" and self.is_within):
            self.save(self.folder, "the result is whole all the same, but cannot be continued from there")
        self.pair.load_state_dict(self.kept)
        return stopped

    def _train(self) -> Stopped:
        self.saved, self.took = time.monotonic(), 0.0
        self._look(len(self.history))
        self.pair.train()
        for epoch in range(len(self.history) + 1, self.settings.passes + 1):
            if self._out_of_patience(epoch - 1):
                return "patience"
            record = self._epoch(epoch)
            self.history.append(record)
            self.drift.look(epoch, self.train)
            self._keep_best(record)
            self._look(epoch)
            self._stand()
            if self._told_to_stop(record):
                return "on_epoch"
            if self.folder is not None and self._is_due():
                self.save(self.folder)
        return "patience" if self._out_of_patience(len(self.history)) else "epochs"

    def _look(self, epoch: int) -> None:
        """Keep what the pair makes of some rows now, where that is asked for; before the state that it belongs to."""
        if self.recorder is not None and self.cursor is None:
            self.recorder.look(epoch, self.folder)

    def _told_to_stop(self, record: Record) -> bool:
        """Whether `on_epoch` returned False: it is asked in the first process, for all."""
        stop = False
        if self.on_epoch is not None and self.group.leads:
            stop = self.on_epoch(record) is False
        return bool(self.group.told(b"stop" if stop else b"")) if self.group.size > 1 else stop

    def _goes_on(self) -> str:
        """Save what stands, and say how to go on from there."""
        again = spelled("start them again with resume=True", "start them again with the same options and --resume")
        if self.folder is None:
            return again if self.group.rank else f"no state was kept, {spelled('checkpoint= keeps one', 'start anew')}"
        self.save(self.folder, "an older state is there")
        return f"{again}, epoch {0 if self.done is None else self.done.epochs} is in {self.folder}"

    @property
    def _keeps_within(self) -> bool:
        """Whether checkpoints are written within epochs: by one process, which sees whole batches."""
        return self.folder is not None and self.group.size == 1 and CHECKPOINT_SECONDS > 0

    def _is_due(self) -> bool:
        return time.monotonic() - self.saved >= (CHECKPOINT_SECONDS and max(CHECKPOINT_SECONDS, 20 * self.took))

    def _stand(self) -> None:
        """Note in one go what stands now, so that an interruption at any moment finds whole epochs."""
        state = None if self.folder is None else self._snapshot()
        self.done = Done(len(self.history), self.best, self.kept, state)

    def _snapshot(self) -> dict[str, Tensor]:
        return snapshot(self.pair, self.optimizer, self.generator, self.critic) | self.average.state()

    def save(self, folder: Path, otherwise: str = "training goes on, and it is tried again") -> None:
        """Write the checkpoint of the last whole epoch; where that fails, warn, and go on."""
        if self.done is None or self.done.state is None:
            return
        self._write(folder, self.done, {}, otherwise)
        self.is_within = False

    def _save_within(self, cursor: Cursor, of: int) -> None:
        """Write a checkpoint within an epoch."""
        state = self._snapshot() | cursor.tensors()
        within = {"within": {"step": cursor.step, "of": of}}
        done = Done(len(self.history), self.best, self.kept, state)
        self._write(Path(self.folder or ""), done, within, "training goes on")
        self.is_within = True

    def _write(self, folder: Path, done: Done, more: dict[str, Any], otherwise: str) -> None:
        progress = {
            "history": self.history[: done.epochs],
            "best": [done.best.epoch, done.best.bound if done.epochs else 0.0],
            "judged_since": self.judged_since,
            "overridden": list(self.overridden),
        }
        began = time.monotonic()
        try:
            write_checkpoint(folder, done.state or {}, done.kept, progress | more, self.identity)
        except OSError as error:
            text = f"the checkpoint of epoch {done.epochs} is not written ({error.strerror}: {error.filename})"
            warnings.warn(f"{text}: {otherwise}", UnsavedWarning, stacklevel=3)
        self.saved, self.took = time.monotonic(), time.monotonic() - began

    def resume(self, *, override: bool = False) -> None:
        """Continue from the checkpoint.

        Raises:
            UserError: it is of another run, unless that is to be overridden.
        """
        folder = Path(self.folder or "")
        found = checkpoint_of_all(self.group, folder)
        self._refuse_another(found, folder, override)
        self.kept = restore(found, folder, self.pair, self.optimizer, self.generator, self.critic)
        progress = found.progress
        self.history, self.findings = progress["history"], found.findings
        self.best = Best(int(progress["best"][0]), float(progress["best"][1]) if self.history else -math.inf)
        self.judged_since = int(progress.get("judged_since", 0))
        if self.recorder is not None:
            self.recorder.resume(folder, len(self.history))
        if len(self.overridden) > len(progress.get("overridden", ())):
            # Bounds of other rows, programs or settings are no bounds of these: the best is looked for anew.
            self.judged_since = len(self.history)
            self.best, self.kept = Best(len(self.history), self.best.bound), _copy(self.pair)
            self._stand()
            return
        self.average.restore(found.tensors)
        self.cursor = Cursor.of(found.tensors, progress, self.pair.device)
        if self.cursor is None:
            self._stand()
        elif self.history:  # what is on disk is further than that, and stays
            self.done = Done(len(self.history), self.best, self.kept, None)
            self.is_within = True

    def _refuse_another(self, found: Checkpoint, folder: Path, override: bool) -> None:
        before, epochs = tuple(found.progress.get("overridden", ())), len(found.progress["history"])
        if epochs > self.settings.passes:
            raise UserError(
                f"{folder} is a run of {epochs} epochs already: continue it with epochs of at least {epochs}, "
                f"got {self.settings.passes}"
            )
        others = differences(found.identity, self.identity)
        if others and not override:
            told = "; ".join(others[:4]) + (f"; and {len(others) - 4} more" if len(others) > 4 else "")
            raise UserError(
                f"{folder} is of another run: {told}: continue it with what it was, or go on with "
                f"{spelled('override=True', '--override')}, and run.json says so"
            )
        self.overridden = before + tuple(f"after epoch {epochs}: {other}" for other in others)

    def _epoch(self, epoch: int) -> Record:
        start = time.perf_counter()
        self.threads.look()
        before = _copy(self.pair)
        cursor, self.cursor = self.cursor, None
        begin = self.generator.get_state()
        if cursor is None:
            batches, outcomes, first = self._batches(), Outcomes(), 0
        else:
            now, first = begin, cursor.step
            self.generator.set_state(cursor.begin)
            begin, batches, outcomes = cursor.begin, self._batches(), Outcomes(cursor.outcomes)
            self.generator.set_state(now)
        sizes = sizes_of(batches)
        if isinstance(self.step, GraphStep | DistributedStep):
            self.step.plan(self._epochs_left(epoch), sizes)
        for i, (_, batch) in enumerate(self.train.served(batches, self.generator, first), first):
            self._set_lr(epoch - 1 + i / len(batches))
            with self._told(before, batch, epoch, i + 1):
                outcomes.add(self.step(batch, epoch - 1 + i / len(batches)))
            if self._is_settled(epoch):
                self.average.after(i + 1, len(batches))
            if self._keeps_within and i + 1 < len(batches) and self._is_due():
                self._save_within(Cursor(i + 1, begin, outcomes.columns()), len(batches))
        if isinstance(self.step, DistributedStep):
            self.step.refuse_apart(epoch)
        values = outcomes.columns()["objective"]
        if not bool(torch.isfinite(values).all()):
            bad = int((~torch.isfinite(values)).nonzero()[0])
            batch = self.train.batch(batches[bad])
            self._diverged(before, batch, epoch, bad + 1)
        record = {"epoch": epoch, "beta": self.beta(epoch)} | outcomes.mean(sizes, "train")
        if self.validation is not None:
            found = self._validate(self.validation)
            if not all(value is None or math.isfinite(value) for value in found.values()):
                self._diverged(before, self.validation.batch(slice(0, 1000)), epoch, len(batches))
            record |= found
        return record | {"seconds": round(time.perf_counter() - start, 4)}

    def _diverged(self, before: dict[str, Tensor], batch: Batch, epoch: int, step: int) -> NoReturn:
        """Say what is not finite after a step, and put the last good weights back."""
        message = explain_divergence(self.pair, self.step.structure, batch, epoch, step)
        self.pair.load_state_dict(self.kept or before)
        raise UserError(message)

    @contextmanager
    def _told(self, before: dict[str, Tensor], batch: Batch, epoch: int, step: int) -> Iterator[None]:
        """What a step raises is said with the epoch and the step; the last good weights are put back."""
        try:
            yield
        except Lost:
            raise
        except Exception as error:
            if all(bool(torch.isfinite(p).all()) for p in self.pair.parameters()):
                told = failed_step(error, batch, epoch, step)
            else:
                told = UserError(explain_divergence(self.pair, self.step.structure, batch, epoch, step))
            self.pair.load_state_dict(self.kept or before)
            raise told from error

    def _set_lr(self, epoch: float) -> None:
        if callable(self.settings.lr):
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.lr(epoch)

    def _batches(self) -> Sequence[Tensor]:
        if self.step.structure.rows_total:  # the model draws its own rows out of all
            steps = math.ceil(len(self.train) / self.settings.batch_size)
            return [torch.arange(len(self.train), device=self.train.device)] * steps
        if self.strata is not None:
            return self.strata.batches(self.generator)
        return self.train.batches(self.settings.batch_size, self.generator)

    def _validate(self, split: Rows, more: int = 0) -> Record:
        """The bound on held-out rows, with the same draws at every epoch so that epochs can be compared."""
        outcomes, sizes = Outcomes(), []
        training = [module for module in self.pair.modules() if module.training]
        self.pair.eval()  # noise and penalties are for training
        with preserved_randomness():
            seed_draws(self.settings.seed + more)
            for batch in split.scan(1000):
                outcomes.add(self.step.evaluate(batch))
                sizes.append(units_in(batch))
        for module in training:
            module.training = True
        seen = outcomes.mean(sizes, "validation")
        found = {"validation": seen["validation"]}
        if isinstance(self.beta, Objective):
            return found | {"validation_objective": seen["objective"]}
        weight = 1.0 if isinstance(self.beta, FreeBits | Capacity) else self.beta(self.settings.passes)
        if weight != 1 and seen["rate"] is not None:
            found["validation_objective"] = -seen["distortion"] - weight * seen["rate"]
        return found

    def _keep_mean(self) -> None:
        """Where the last weights go to and fro, keep their mean instead if its bound on the training rows is higher."""
        if not (self.average.count and self.history and self.drift.goes_to_and_fro):
            return
        mean = self.average.over(self.kept)
        try:
            last, found = bounds_of((self.kept, mean), self.pair.load_state_dict, self._judge, len(self.history))
        except (UserError, ValueError, torch.linalg.LinAlgError):  # no weights of a program
            return
        if found > last:
            self.best, self.kept = Best(self.best.epoch, found, averaged=True), mean

    def _judge(self, seed: int) -> float:
        return _score(self._validate(self.train, seed))

    def _keep_best(self, record: Record) -> None:
        value = _score(record)
        # While beta is still below its end value the pair is being led there: the last such epoch is kept, no more.
        settled = self._is_settled(record["epoch"])
        before = self._is_settled(self.best.epoch) and bool(self.kept) and self.best.epoch > self.judged_since
        if not self.chooses or not settled or not before or value > _score(self.history[self.best.epoch - 1]):
            self.best = Best(record["epoch"], record["validation" if self.chooses else "train"])
            self.kept = _copy(self.pair)

    def _is_settled(self, epoch: int) -> bool:
        return self.beta(epoch) == self.beta(self.settings.passes)

    def _epochs_left(self, epoch: int) -> int:
        """How many epochs may be counted on, this one included: all, or with patience as many as there were already."""
        left = self.settings.passes - epoch + 1
        if not self.chooses or self.settings.waits is None:
            return left
        return min(left, max(epoch - 1, self.settings.waits - (epoch - 1 - self.best.epoch)))

    def _out_of_patience(self, epoch: int) -> bool:
        patience = self.settings.waits
        return self.chooses and patience is not None and epoch - self.best.epoch >= patience


def _score(record: Record) -> float:
    """What epochs are judged by: held-out rows where there are any, and with a KL weight what it makes of them."""
    names = ("validation_objective", "validation", "train")
    return float(next(record[name] for name in names if name in record))


def _copy(pair: Pair) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in pair.state_dict().items()}
