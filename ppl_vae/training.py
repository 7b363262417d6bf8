"""fit(): batches, steps, history, early stopping, the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.acceleration import GraphStep, accelerated
from ppl_vae.analysis import analyse, preserved_randomness, representative
from ppl_vae.bounds import ELBO
from ppl_vae.checkpoint import read_checkpoint, write_checkpoint
from ppl_vae.data import Data, Schema, Split, as_split
from ppl_vae.errors import ProgramError, UserError
from ppl_vae.generated import GeneratedGuide
from ppl_vae.lanes import Compile
from ppl_vae.linter import Finding, check
from ppl_vae.memory import kept_memory
from ppl_vae.precision import Precision, check_precision, tensor_cores
from ppl_vae.program import Pair
from ppl_vae.schedules import Capacity, FreeBits, Schedule, as_schedule
from ppl_vae.steps import BoundStep, Outcome, PyroStep, make_step
from ppl_vae.support import check_support
from ppl_vae.trouble import explain_divergence

__all__ = ["Best", "Result", "fit"]

Record = dict[str, Any]

CHECKPOINT_SECONDS = 5.0


@dataclass(frozen=True)
class Best:
    """The epoch whose weights were kept, and its bound in nats per row (on validation rows if there are any)."""

    epoch: int
    bound: float


@dataclass(frozen=True)
class Result:
    """What `fit` returns: the trained programs, the history (one dict per epoch) and the best epoch.

    History keys: `epoch`, `train` and `validation` (the unweighted bound, nats per row, higher is better),
    `objective` (what was maximised, with its KL weight `beta`), `rate`, `distortion`, `seconds`; with a last KL weight
    other than 1 `validation_objective`, the weighted ELBO by which epochs are then judged. `findings` are the linter's
    warnings, such as a site whose gradient is a score-function estimate.

    Where the guide draws points (`Point`) none of these is a bound of anything: `train` is log p(x | f(x)) + log p(z)
    minus the penalties, `rate` is what is taken off for them, `distortion` is -log p(x | f(x)), and `validation` is
    the same as `train`, without noise or penalties, which are of training only.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    history: list[Record]
    best: Best
    bound: Any
    schema: Schema
    settings: dict[str, Any] = field(default_factory=dict)
    data: Any = None
    findings: tuple[Finding, ...] = ()

    def save(self, path: str | Path) -> Path:
        """Write a run folder (no pickle anywhere); see `ppl_vae.open_run`."""
        from ppl_vae.runs import save_run

        return save_run(self, Path(path))


@dataclass(frozen=True)
class _Settings:
    epochs: int
    batch_size: int
    lr: float | Schedule
    weight_decay: float
    patience: int | None
    seed: int
    label_weight: float = 0.0
    precision: str = "float32"


def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    bound: Any = None,
    *,
    epochs: int = 300,
    batch_size: int = 64,
    lr: float | Schedule = 1e-3,
    weight_decay: float = 0.0,
    beta: float | Schedule = 1.0,
    label_weight: float = 0.0,
    patience: int | None = 40,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: Compile = "auto",
    precision: Precision = "float32",
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    on_epoch: Callable[[Record], None] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> Result:
    """Train a model and its guide by stochastic variational inference and keep the best weights.

    Maximises the bound per row, (1/N) [N/B sum_i bound_i + global part], with Adam. The model is unchanged by
    the batch size: N/B is put on its data plate here.

    Args:
        model: p(z) p(x | z), a callable with Pyro statements.
        guide: q(z | x), a callable or a generated guide.
        data: a data set, a split, a dict of arrays by field name, or one array (field `x`).
        bound: `ELBO()` by default; any bound of `ppl_vae.bounds`, or one of Pyro's own.
        epochs: passes over the training rows, at most.
        batch_size: rows per step, B.
        lr: Adam's learning rate: a number, or a schedule such as `ppl_vae.schedules.Cosine`.
        weight_decay: AdamW's decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101), on the
            `weight` matrices of networks only; 0 is plain Adam.
        beta: weight of the KL part: a number, or a schedule of `ppl_vae.schedules` (WarmUp, Cyclical, FreeBits,
            Capacity); it shapes what is maximised, never what is reported.
        label_weight: weight of log q(y | x) of every row whose label was observed, for a model with a label that is
            latent in some rows (M2): the classifier's own loss, which the bound alone gives no gradient for these
            rows (Kingma et al. 2014, arXiv 1406.5298, alpha; they take 0.1 N over the number of labels). It shapes
            what is maximised, never what is reported.
        patience: epochs without a better validation bound (with a KL weight other than 1 the weighted one) after which
            training stops; None for never.
            Without a validation split there is no early stopping.
        seed: of batches and draws. The state of the global generators is left alone.
        device: "auto" takes CUDA where there is one.
        compile: "auto" starts at once and changes to a captured, then a compiled step where the epochs that are left
            pay for it (docs/design/007-capture.md); "on" does so before the first step and raises where it cannot;
            "off" runs the programs at every step. Capturing changes no bit of any number; compiling changes rounding
            alone, so only a run that "auto" had compiled is repeated up to rounding and not exactly.
        precision: of the matrix products of a step. "bfloat16": the layers of networks round their factors to 8 bits,
            forwards and backwards (sums, densities, parameters and Adam stay float32); "tf32": a GPU rounds float32
            factors to 11 bits. Either is faster where the device has it; validation with bfloat16 is in float32.
        optimizer: from parameters to an optimizer, instead of Adam.
        on_epoch: called with the record of every epoch.
        checkpoint: a folder in which the state of the run is kept while it trains.
        resume: continue the run of that folder exactly where it was.

    Raises:
        UserError: for numbers out of range, programs that break the contract, data outside the likelihood's
            support, or a training run that diverges (the last good weights are kept).

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> from ppl_vae.guides import MeanField
        >>> data = ppl_vae.load("digits")
        >>> model = VAE(data, latent_dim=4)
        >>> result = ppl_vae.fit(model, MeanField(model), data, epochs=1)
        >>> len(result.history)
        1
    """
    settings = _Settings(epochs, batch_size, lr, weight_decay, patience, seed, label_weight, precision)
    _check_numbers(settings)
    bound = ELBO() if bound is None else bound
    train, validation = _splits(data)
    if isinstance(guide, GeneratedGuide) and not guide.ready:
        guide.setup(train)
    pair = Pair(model, guide)
    where = pick_device(device)
    check_precision(precision, where)
    train, validation = train.to(where), validation and validation.to(where)
    pair.to(where)
    with kept_memory(), tensor_cores(precision), preserved_randomness(), pyro.validation_enabled(False):
        findings = check(model, guide, train)
        for finding in findings:
            if finding.severity == "error":
                raise ProgramError(finding.site, finding.problem, finding.remedy)
        structure = analyse(pair, representative(pair, train, min(batch_size, len(train))))
        if validation is not None:
            check_support(pair, structure.holes, structure.latents, validation)
        parameters = [p for p in pair.parameters() if p.requires_grad]
        make = optimizer or (lambda _: _adam(pair, settings))
        trained: Any = make(parameters) if parameters else _NoOptimizer()
        step = accelerated(
            make_step(pair, structure, bound, trained, len(train), as_schedule(beta), label_weight, precision), compile
        )
        torch.manual_seed(seed)  # here, so that draws depend on no check made before
        loop = _Loop(pair, step, trained, train, validation, as_schedule(beta), settings, on_epoch)
        if checkpoint is not None:
            loop.folder = Path(checkpoint)
            if resume:
                loop.resume()
        loop.run()
    programs = pair.model.public, pair.guide.public
    return Result(
        *programs,
        loop.history,
        loop.best,
        bound,
        train.schema,
        vars_of(settings, beta),
        data,
        (*findings, *getattr(step, "findings", ())),
    )


def pick_device(device: str | torch.device) -> torch.device:
    """The device that a name stands for; "auto" is CUDA where there is one.

    Raises:
        UserError: for an unknown device, or CUDA where there is none.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"unknown device {str(device)!r}: use auto, cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but torch sees no CUDA device: use cpu or auto")
    return chosen


def _check_numbers(settings: _Settings) -> None:
    for name in ("epochs", "batch_size"):
        value = getattr(settings, name)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{name} must be a whole number of at least 1, got {value!r}")
    if not callable(settings.lr) and not (isinstance(settings.lr, int | float) and 0 < settings.lr < math.inf):
        raise UserError(f"lr must be positive, got {settings.lr!r}")
    if not (isinstance(settings.weight_decay, int | float) and 0 <= settings.weight_decay < math.inf):
        raise UserError(f"weight_decay must not be negative, got {settings.weight_decay!r}")
    if not (isinstance(settings.label_weight, int | float) and 0 <= settings.label_weight < math.inf):
        raise UserError(f"label_weight must not be negative, got {settings.label_weight!r}")
    if settings.patience is not None and settings.patience < 1:
        raise UserError(f"patience must be at least 1, or None to never stop early, got {settings.patience!r}")


def _adam(pair: Pair, settings: _Settings) -> torch.optim.Optimizer:
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


def _splits(data: Any) -> tuple[Split, Split | None]:
    if isinstance(data, Data):
        return data.train, data.validation
    return as_split(data), None


class _NoOptimizer:
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


class _Loop:
    """The state of one training run."""

    def __init__(
        self,
        pair: Pair,
        step: BoundStep | PyroStep | GraphStep,
        optimizer: Any,
        train: Split,
        validation: Split | None,
        beta: Schedule,
        settings: _Settings,
        on_epoch: Callable[[Record], None] | None,
    ) -> None:
        self.pair, self.step, self.train, self.validation = pair, step, train, validation
        self.beta, self.settings, self.on_epoch = beta, settings, on_epoch
        self.optimizer = optimizer
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
                sizes.append(len(next(iter(batch.values()))))
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


def _score(record: Record) -> float:
    """What epochs are judged by: held-out rows where there are any, and with a KL weight what it makes of them."""
    names = ("validation_objective", "validation", "train")
    return float(next(record[name] for name in names if name in record))


def _copy(pair: Pair) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in pair.state_dict().items()}


def _mean(outcomes: list[Outcome], sizes: list[int], name: str) -> Record:
    """Averages over the rows of an epoch, read back from the device once."""
    weight = torch.tensor(sizes, dtype=torch.float64)
    weight = weight / weight.sum()
    there = [field for field in Outcome._fields if getattr(outcomes[0], field) is not None]
    columns = torch.stack([torch.stack([getattr(o, field) for o in outcomes]).double() for field in there]).cpu()
    seen = dict(zip(there, ((column * weight).sum().item() for column in columns), strict=True))
    return {name if field == "bound" else field: seen.get(field) for field in Outcome._fields}


def vars_of(settings: _Settings, beta: float | Schedule) -> dict[str, Any]:
    """The settings of a run as plain values, for its run.json."""
    scheduled = {"lr": settings.lr, "beta": beta}
    return settings.__dict__ | {n: v if isinstance(v, int | float) else repr(v) for n, v in scheduled.items()}
