"""One training run: epochs of steps, their history, early stopping, the best weights, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ppl_vae.data import Split, units_in
from ppl_vae.errors import UserError
from ppl_vae.programs.program import Pair
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.runs.result import Best, Record
from ppl_vae.schedules import Capacity, FreeBits, Schedule
from ppl_vae.training.acceleration import GraphStep
from ppl_vae.training.checkpoint import read_checkpoint, write_checkpoint
from ppl_vae.training.divergence import explain_divergence
from ppl_vae.training.steps import BoundStep, PyroStep, StepOutcome
from ppl_vae.training.stratified import StratifiedBatches

__all__ = ["Loop", "NoOptimizer", "Settings", "adam"]


CHECKPOINT_SECONDS = 5.0


@dataclass(frozen=True)
class Settings:
    """The numbers of a run, as `fit` was given them."""

    epochs: int
    batch_size: int
    lr: float | Schedule
    weight_decay: float
    patience: int | None
    seed: int
    label_weight: float = 0.0
    label_share: float | None = None
    precision: str = "float32"


class Loop:
    """The state of one training run."""

    def __init__(
        self,
        pair: Pair,
        step: BoundStep | PyroStep | GraphStep,
        optimizer: Any,
        train: Split,
        validation: Split | None,
        beta: Schedule,
        settings: Settings,
        on_epoch: Callable[[Record], None] | None,
        strata: StratifiedBatches | None = None,
    ) -> None:
        self.pair, self.step, self.train, self.validation = pair, step, train, validation
        self.beta, self.settings, self.on_epoch = beta, settings, on_epoch
        self.optimizer, self.strata = optimizer, strata
        self.folder: Path | None = None
        self.generator = torch.Generator(train.device).manual_seed(settings.seed)
        self.history: list[Record] = []
        self.best = Best(0, -math.inf)
        self.kept: dict[str, Tensor] = {}

    def run(self) -> None:
        """Train until the epochs are over or patience is, then put the best weights back."""
        saved = time.monotonic()
        self.pair.train()
        for epoch in range(len(self.history) + 1, self.settings.epochs + 1):
            if self._out_of_patience(epoch - 1):
                break
            record = self._epoch(epoch)
            self.history.append(record)
            self._keep_best(record)
            if self.on_epoch is not None:
                self.on_epoch(record)
            if self.folder is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.save(self.folder)
                saved = time.monotonic()
        if self.folder is not None:
            self.save(self.folder)
        self.pair.load_state_dict(self.kept)

    def save(self, folder: Path) -> None:
        """Write the checkpoint."""
        progress = {"history": self.history, "best": [self.best.epoch, self.best.bound]}
        write_checkpoint(folder, self.pair, self.optimizer, self.kept, self.generator, progress)

    def resume(self) -> None:
        """Continue from the checkpoint."""
        self.kept, progress = read_checkpoint(Path(self.folder or ""), self.pair, self.optimizer, self.generator)
        self.history, self.best = progress["history"], Best(*progress["best"])

    def _epoch(self, epoch: int) -> Record:
        start = time.perf_counter()
        before = _copy(self.pair)
        batches = self._batches()
        if isinstance(self.step, GraphStep):
            self.step.plan(self._epochs_left(epoch), [len(index) for index in batches])
        outcomes, sizes = [], []
        for i, index in enumerate(batches):
            batch = self.train.batch(index, self.generator)
            self._set_lr(epoch - 1 + i / len(batches))
            outcomes.append(self.step(batch, epoch - 1 + i / len(batches)))
            sizes.append(len(index))
        values = torch.stack([o.objective for o in outcomes])
        if not bool(torch.isfinite(values).all()):
            bad = int((~torch.isfinite(values)).nonzero()[0])
            batch = self.train.rows(batches[bad]).batch()
            message = explain_divergence(self.pair, self.step.structure, batch, epoch, bad + 1)
            self.pair.load_state_dict(self.kept or before)
            raise UserError(message)
        record = {"epoch": epoch, "beta": self.beta(epoch)} | _mean(outcomes, sizes, "train")
        if self.validation is not None:
            record |= self._validate(self.validation)
        return record | {"seconds": round(time.perf_counter() - start, 4)}

    def _set_lr(self, epoch: float) -> None:
        if callable(self.settings.lr):
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.lr(epoch)

    def _batches(self) -> list[Tensor]:
        if self.step.structure.rows_total:  # the model draws its own rows out of all
            steps = math.ceil(len(self.train) / self.settings.batch_size)
            return [torch.arange(len(self.train), device=self.train.device)] * steps
        if self.strata is not None:
            return self.strata.batches(self.generator)
        order = torch.randperm(len(self.train), generator=self.generator, device=self.train.device)
        return list(order.split(self.settings.batch_size))

    def _validate(self, split: Split) -> Record:
        """The bound on held-out rows, with the same draws at every epoch so that epochs can be compared."""
        outcomes, sizes = [], []
        training = [module for module in self.pair.modules() if module.training]
        self.pair.eval()  # noise and penalties are for training
        with preserved_randomness():
            torch.manual_seed(self.settings.seed)
            for start in range(0, len(split), 1000):
                batch = split.batch(slice(start, start + 1000))
                outcomes.append(self.step.evaluate(batch))
                sizes.append(units_in(batch))
        for module in training:
            module.training = True
        seen = _mean(outcomes, sizes, "validation")
        found = {"validation": seen["validation"]}
        weight = 1.0 if isinstance(self.beta, FreeBits | Capacity) else self.beta(self.settings.epochs)
        if weight != 1 and seen["rate"] is not None:
            found["validation_objective"] = -seen["distortion"] - weight * seen["rate"]
        return found

    def _keep_best(self, record: Record) -> None:
        value = _score(record)
        # While beta is still below its end value the pair is being led there: the last such epoch is kept, no more.
        settled = self._is_settled(record["epoch"])
        before = self._is_settled(self.best.epoch) and bool(self.kept)
        if self.validation is None or not settled or not before or value > _score(self.history[self.best.epoch - 1]):
            self.best = Best(record["epoch"], record["train" if self.validation is None else "validation"])
            self.kept = _copy(self.pair)

    def _is_settled(self, epoch: int) -> bool:
        return self.beta(epoch) == self.beta(self.settings.epochs)

    def _epochs_left(self, epoch: int) -> int:
        """How many epochs may be counted on, this one included: all, or with patience as many as there were already."""
        left = self.settings.epochs - epoch + 1
        if self.validation is None or self.settings.patience is None:
            return left
        return min(left, max(epoch - 1, self.settings.patience - (epoch - 1 - self.best.epoch)))

    def _out_of_patience(self, epoch: int) -> bool:
        patience = self.settings.patience
        return self.validation is not None and patience is not None and epoch - self.best.epoch >= patience


def adam(pair: Pair, settings: Settings) -> torch.optim.Optimizer:
    """Adam; with weight decay on the matrices of networks, which torch names `weight`.

    Biases, scales, the means of a mixture and pseudo-inputs have no reason to be near 0.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in pair.named_parameters():
        if parameter.requires_grad:
            decays = settings.weight_decay > 0 and name.endswith("weight") and parameter.dim() > 1
            (decayed if decays else others).append(parameter)
    groups = [(decayed, settings.weight_decay), (others, 0.0)]
    lr = settings.lr(0.0) if callable(settings.lr) else settings.lr
    # without decay one group, so one operation, for all parameters
    return torch.optim.AdamW([{"params": p, "weight_decay": d} for p, d in groups if p], lr, fused=True)


class NoOptimizer:
    """For programs without parameters."""

    param_groups: ClassVar[list[dict[str, Any]]] = []

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {"state": {}, "param_groups": []}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to put back."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to do."""

    def step(self) -> None:
        """Nothing to do."""


def _score(record: Record) -> float:
    """What epochs are judged by: held-out rows where there are any, and with a KL weight what it makes of them."""
    names = ("validation_objective", "validation", "train")
    return float(next(record[name] for name in names if name in record))


def _copy(pair: Pair) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in pair.state_dict().items()}


def _mean(outcomes: list[StepOutcome], sizes: list[int], name: str) -> Record:
    """Averages over the rows of an epoch, read back from the device once."""
    weight = torch.tensor(sizes, dtype=torch.float64)
    weight = weight / weight.sum()
    there = [field for field in StepOutcome._fields if getattr(outcomes[0], field) is not None]
    columns = torch.stack([torch.stack([getattr(o, field) for o in outcomes]).double() for field in there]).cpu()
    seen = dict(zip(there, ((column * weight).sum().item() for column in columns), strict=True))
    return {name if field == "bound" else field: seen.get(field) for field in StepOutcome._fields}
