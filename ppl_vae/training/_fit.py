"""fit(): everything that is checked and made before a training run, and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch

from ppl_vae.bounds import ELBO
from ppl_vae.checks.reading import read_pair
from ppl_vae.checks.support import check_support
from ppl_vae.data import Data, Split, as_one_unit, as_split
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair, prepare
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.runs.result import Best, Record, Result
from ppl_vae.saving.atomic import sweep
from ppl_vae.saving.locks import held
from ppl_vae.schedules import Schedule, as_schedule
from ppl_vae.speed.device import pick_device
from ppl_vae.speed.modes import Compile
from ppl_vae.speed.precision import Precision, check_precision, tensor_cores
from ppl_vae.training.acceleration import accelerated
from ppl_vae.training.checkpoint import has_checkpoint, refuse_full_disk
from ppl_vae.training.identity import identity
from ppl_vae.training.loop import Loop, NoOptimizer, Settings, adam
from ppl_vae.training.steps import make_step
from ppl_vae.training.stratified import stratified

__all__ = ["Best", "fit"]


@exclusive
def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    bound: Any = None,
    *,
    rows: str | None = "auto",
    epochs: int = 300,
    batch_size: int = 64,
    lr: float | Schedule = 1e-3,
    weight_decay: float = 0.0,
    beta: float | Schedule = 1.0,
    label_weight: float = 0.0,
    label_share: float | None = None,
    patience: int | None = 40,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: Compile = "auto",
    precision: Precision = "float32",
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    on_epoch: Callable[[Record], None] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    override: bool = False,
) -> Result:
    """Train a model and its guide by stochastic variational inference and keep the best weights.

    Maximises the bound per row, (1/N) [N/B sum_i bound_i + global part], with Adam. The model is unchanged by
    the batch size: N/B is put on its data plate here.

    Args:
        model: p(z) p(x | z), a callable with Pyro statements.
        guide: q(z | x), a callable or a generated guide.
        data: a data set, a split, a dict of arrays by field name, or one array (field `x`).
        bound: `ELBO()` by default; any bound of `ppl_vae.bounds`, or one of Pyro's own.
        rows: None takes all data as one unit, for a program without independent rows (a time series, a field, eight
            schools): ELBO, IWAE and the others are then bounds of log p(all data), in nats, every step sees all of it,
            and nothing is amortized over rows. Fields may have different lengths; with data=None the program has its
            own. "auto" reads the rows off the program's data plate.
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
        label_share: of the rows of every batch, how many have a label, between 0 and 1 (M2 with a label in one row of
            a hundred or fewer: 0.5); None leaves it to chance. Rows with a label so count for more in what is
            maximised, and the model learns from them what a label means; what is reported is the bound of all rows
            (`ppl_vae.training.stratified`).
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
        checkpoint: a folder in which the state of the run is kept while it trains. It belongs to this run alone.
        resume: continue the run of that folder exactly where it was. Programs, data, bound, settings and versions have
            to be the same; only epochs, patience, device and compile may be others.
        override: continue with others all the same; `overridden` of the result says which.

    When interrupted (Ctrl-C, the stop button of a notebook) after the first epoch, the result so far is returned, with
    `stopped="interrupted"`. The pair is in eval mode afterwards.

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
    settings = Settings(epochs, batch_size, lr, weight_decay, patience, seed, label_weight, label_share, precision)
    _check_numbers(settings)
    bound = ELBO() if bound is None else bound
    train, validation = _splits(data, rows)
    prepare(guide, train)
    pair = Pair(model, guide)
    where = pick_device(device)
    check_precision(precision, where)
    train, validation = train.to(where), validation and validation.to(where)
    pair.to(where)
    with tensor_cores(precision), preserved_randomness(), pyro.validation_enabled(False):
        reading = read_pair(pair, train)
        structure = reading.sound()
        if validation is not None and reading.seen is not None:
            check_support(reading.seen.values, reading.batch, validation)
        parameters = [p for p in pair.parameters() if p.requires_grad]
        make = optimizer or (lambda _: adam(pair, settings))
        trained: Any = make(parameters) if parameters else NoOptimizer()
        strata = None if label_share is None else stratified(train, structure, bound, batch_size, label_share)
        weights = None if strata is None else strata.weights
        made = make_step(
            pair, structure, bound, trained, len(train), as_schedule(beta), label_weight, precision, weights
        )
        step = accelerated(made, compile)
        torch.manual_seed(seed)  # here, so that draws depend on no check made before
        loop = Loop(pair, step, trained, train, validation, as_schedule(beta), settings, on_epoch, strata)
        with _checkpointed(checkpoint, resume) as loop.folder:
            if loop.folder is not None:
                refuse_full_disk(loop.folder, pair)
                told = vars(settings) | {"beta": beta}
                own = None if optimizer is None else trained
                loop.identity = identity(pair, bound, told, own, train, validation, data)
            if resume:
                loop.resume(override=override)
            stopped = loop.run()
    programs = pair.model.public, pair.guide.public
    return Result(
        *programs,
        loop.history,
        loop.best,
        bound,
        train.schema,
        vars_of(settings, beta),
        data,
        (*reading.findings, *getattr(step, "findings", ()), *loop.findings),
        stopped,
        loop.overridden,
    )


@contextmanager
def _checkpointed(folder: str | Path | None, resume: bool) -> Iterator[Path | None]:
    """Hold the folder of the checkpoints for this run; None where there is none.

    Raises:
        UserError: another process trains there, or there is another run.
    """
    if folder is None:
        if resume:
            raise UserError("resume continues from a checkpoint: pass its folder, checkpoint=...")
        yield None
        return
    place = Path(folder).expanduser()
    if resume and not has_checkpoint(place):
        raise UserError(f"there is no checkpoint in {place}: start the run without resume")
    if not resume and has_checkpoint(place):
        raise UserError(f"there is a run in {place} already: continue it with resume=True, or choose another folder")
    place.mkdir(parents=True, exist_ok=True)
    with held(place, "fit"):
        if not resume and has_checkpoint(place):  # somebody was quicker
            raise UserError(f"there is a run in {place} already: choose another folder")
        sweep(place)
        yield place


def _check_numbers(settings: Settings) -> None:
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


def _splits(data: Any, rows: str | None) -> tuple[Split, Split | None]:
    if rows not in ("auto", None):
        raise unknown_name("rows", rows, ("auto", "None"))
    if rows is None or data is None:
        return as_one_unit(data), None
    if isinstance(data, Data):
        return data.train, data.validation
    return as_split(data), None


def vars_of(settings: Settings, beta: float | Schedule) -> dict[str, Any]:
    """The settings of a run as plain values, for its run.json."""
    scheduled = {"lr": settings.lr, "beta": beta}
    return settings.__dict__ | {n: v if isinstance(v, int | float) else repr(v) for n, v in scheduled.items()}
