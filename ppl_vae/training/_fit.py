"""fit(): everything that is checked and made before a training run, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

import pyro

from ppl_vae.bounds import ELBO
from ppl_vae.checks.reading import read_pair
from ppl_vae.checks.support import check_support
from ppl_vae.checks.unobserved import rows_that_tell
from ppl_vae.data import Data, Schema, Split, as_one_unit, as_split, is_unit, load
from ppl_vae.distributed.group import Group, joined
from ppl_vae.errors import Finding, UserError, check_flag, unknown_name
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair, prepare
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.registry import catalog
from ppl_vae.registry.resolve import resolve
from ppl_vae.runs.result import Best, Record, Result
from ppl_vae.saving.atomic import sweep
from ppl_vae.saving.locks import held
from ppl_vae.saving.paths import path_of
from ppl_vae.speed.device import pick_device
from ppl_vae.speed.precision import check_precision, tensor_cores
from ppl_vae.speed.threads import suitable_threads
from ppl_vae.training._acceleration import accelerated
from ppl_vae.training._distributed import distributed_step, refuse_undivided
from ppl_vae.training._identity import identity
from ppl_vae.training._loop import Loop
from ppl_vae.training._optimizers import optimizer_of
from ppl_vae.training._snapshots import recorder
from ppl_vae.training._starting import begin_shared
from ppl_vae.training._steps import BoundStep, make_step
from ppl_vae.training._stratified import stratified
from ppl_vae.training._together import refuse_other_runs, same_weights
from ppl_vae.training.callbacks import Callback, telling
from ppl_vae.training.checkpoint import has_checkpoint, refuse_full_disk
from ppl_vae.training.keywords import refuse_unknown, with_settings
from ppl_vae.training.settings import Settings, SettingsKeywords

__all__ = ["Best", "fit"]


NOT_GIVEN: Any = object()
"""Where None is a value: a program that has its own data is given None."""


@with_settings
@exclusive
def fit(
    model: Callable[..., Any] | str,
    guide: Any,
    data: Any = NOT_GIVEN,
    bound: Any = None,
    *,
    rows: str | None = "auto",
    on_epoch: Callable[[Record], Any] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Callable[[str], None] | str | bool | None = "auto",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    override: bool = False,
    **settings: Unpack[SettingsKeywords],
) -> Result:
    """Train a model and its guide by stochastic variational inference and keep the best weights.

    Maximises the bound per row, (1/N) [N/B sum_i bound_i + global part], with Adam. The factor N/B is applied to the
    data plate here, so that the objective does not depend on the batch size.

    Where there are held-out rows, the best epoch is kept, else the last; where the posterior of latents that all rows
    share goes to and fro at a constant rate, the mean of the last weights, if its bound is higher.

    Args:
        model: p(z) p(x | z), a callable with Pyro statements, or one of `ppl_vae.models` by its class or name ("vae").
        guide: q(z | x), a callable or a generated guide, or its class or name, with options ("iaf:flows=2").
            `fit(model, data)` uses the default guide of the model, usually `MeanField`.
        data: a data set, a split, a dict of arrays by field name, or one array (field `x`).
        bound: `ELBO()` by default; any bound of `ppl_vae.bounds`, or one of Pyro's own, or its name
            ("iwae:particles=16").
        rows: None takes all data as one unit, for a program without independent rows (a time series, a field, eight
            schools): ELBO, IWAE and the other bounds are then bounds on log p(all data), in nats; every step uses all
            data, and nothing is amortized over rows. Fields may have different lengths; with data=None the program
            contains its data. Data loaded with rows=None are one unit anyway. "auto": the rows are those of the data
            plate of the program.
        on_epoch: called with the record of every epoch; training stops if it returns False.
        callbacks: `ppl_vae.training.Callback` objects, called at the start, after every epoch and at the end.
        progress: "auto" shows a bar in terminals and notebooks, True also prints lines elsewhere, False shows nothing;
            a function such as `print` receives messages about slow preparations.
        checkpoint: a folder for the state of the run while it trains. No other run may use it.
        resume: continue the run of that folder where it stopped. Programs, data, bound, settings and versions must be
            the same; only epochs, patience, device, compile and snapshots may differ.
        override: continue although they differ; `overridden` of the result lists the differences.
        {settings}

    If you interrupt it (Ctrl-C, the stop button of a notebook) after the first epoch, it returns the result so far with
    `stopped="interrupted"`. Model and guide are in eval mode afterwards.

    Several processes started by torchrun train one run, with the numbers of one process: see docs/processes.md. Only
    the first one writes the checkpoint and calls `on_epoch`; all return the result.

    Raises:
        UserError: for numbers out of range, programs that break the contract, data outside the likelihood's
            support, or a training run that diverges (the last good weights are kept).
        Lost: another process of the run has died (a UserError); resume=True continues with any number of processes.

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
    options = ("bound", "rows", "on_epoch", "callbacks", "progress", "checkpoint", "resume", "override")
    refuse_unknown(settings, *options)
    said = Settings(**settings)
    check_flag("resume", resume)
    check_flag("override", override)
    if data is NOT_GIVEN:
        guide, data = usual_guide(model, guide), guide
    group = joined(said.distributed)
    data = load(data) if isinstance(data, str) else data
    made: tuple[Any, Any] = _programs(model, guide, data, said.seed)
    bound = ELBO() if bound is None else resolve("bound", bound)
    train, validation = _splits(data, rows, getattr(made[0], "schema", None))
    said = said.settled(len(train))
    prepare(made[1], train)
    pair = Pair(*made)
    where = pick_device(said.device)
    check_precision(said.precision, where)
    train, validation = train.to(where), validation and validation.to(where)
    pair.to(where)
    with (
        suitable_threads() as threads,
        tensor_cores(said.precision),
        preserved_randomness(),
        pyro.validation_enabled(False),
        telling(on_epoch, callbacks, progress, said.passes, _headline(made, train), group.leads) as told,
    ):
        reading = read_pair(pair, train)
        structure = reading.sound()
        refuse_undivided(structure, bound, group)
        if validation is not None and reading.seen is not None:
            check_support(reading.seen.values, reading.batch, validation)
        restarts = 0 if resume else said.restarts
        silent: tuple[Finding, ...] = ()
        if reading.seen is not None and not (structure.is_one_unit or structure.rows_total):
            train, validation, silent = rows_that_tell(reading.seen.values, reading.batch, train, validation)
        begun = begin_shared(pair, structure, train, restarts=restarts, seed=said.seed, say=told.words)
        optimizer = optimizer_of(pair, said)
        strata = stratified(train, structure, bound, said)
        weights = None if strata is None else strata.weights
        stepping = make_step(pair, structure, bound, optimizer, len(train), said, weights)
        if isinstance(stepping, BoundStep):
            stepping.begin(reading.batch, group.size)
        own = None if said.optimizer is None else optimizer
        step: Any
        if group.size > 1 and isinstance(stepping, BoundStep):
            refuse_other_runs(group, identity(pair, bound, said, own, train, validation, data))
            same_weights(group, pair)
            step = distributed_step(stepping, group, train.batch(slice(0, 2 * group.size + 1)))
        else:
            step = accelerated(stepping, said.compile)
        kept = recorder(pair, structure, data, train, validation, said.snapshots, said.seed)
        seed_draws(said.seed)  # here, so that draws depend on no check made before
        loop = Loop(pair, step, optimizer, train, validation, said, told.epoch, strata, threads, group, kept)
        told.start(said.plain())
        with _checkpointed(checkpoint, resume, group) as loop.folder:
            if loop.folder is not None:
                refuse_full_disk(loop.folder, pair)
            if checkpoint is not None:
                loop.identity = identity(pair, bound, said, own, train, validation, data)
            if resume:
                loop.resume(override=override)
            stopped = loop.run()
    programs = pair.model.public, pair.guide.public
    result = Result(
        *programs,
        loop.history,
        loop.best,
        bound,
        train.schema,
        said.plain(),
        data,
        (*reading.findings, *silent, *begun, *getattr(step, "findings", ()), *loop.findings, *threads.findings),
        stopped,
        loop.overridden,
        None if kept is None else kept.found(len(loop.history)),
    )
    told.end(result)
    return result


def usual_guide(model: Any, data: Any) -> Any:
    """The word for the guide that goes with a model, where `fit(model, data)` names none.

    Raises:
        UserError: if what stands there is a guide, and the data are missing.
    """
    if isinstance(data, str | type) or callable(data):
        raise UserError("fit needs rows: fit(model, guide, data), or fit(model, data) with the guide that is usual")
    kind = catalog.find("models", model).load() if isinstance(model, str) else model
    return getattr(kind, "default_guide", "mean_field")


def _headline(made: tuple[Any, Any], train: Split) -> str:
    names = (getattr(program, "__name__", type(program).__name__) for program in made)
    return f"{' with '.join(names)}, {'one unit' if train.is_one_unit else f'{len(train):,} training rows'}"


@contextmanager
def _checkpointed(folder: str | Path | None, resume: bool, group: Group) -> Iterator[Path | None]:
    """Hold the folder of the checkpoints for this run; None where there is none, or another process holds it.

    Raises:
        UserError: another process trains there, or there is another run.
    """
    if folder is None:
        if resume:
            raise UserError("resume continues from a checkpoint: pass its folder, checkpoint=...")
        yield None
        return
    if not group.leads:
        yield None
        return
    place = path_of("checkpoint", folder)
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


def _programs(model: Any, guide: Any, data: Any, seed: int) -> tuple[Any, Any]:
    """The two programs; those that came as a name or a class are made for these data, under the seed."""
    if not any(isinstance(program, str | type) for program in (model, guide)):
        return model, guide
    with preserved_randomness():
        seed_draws(seed)
        model = resolve("model", model, {"data": data})
        return model, resolve("guide", guide, {"model": model, "data": data})


def _splits(data: Any, rows: str | None, schema: Schema | None) -> tuple[Split, Split | None]:
    """Rows to train and to validate on, as the model has them, where it has a schema: so the run can be rebuilt."""
    if rows is not None and not (isinstance(rows, str) and rows == "auto"):
        raise unknown_name("rows", rows, ("auto", "None"))
    if is_unit(data, rows):
        return as_one_unit(data), None
    if isinstance(data, Data):
        return as_split(data.train, schema=schema), data.validation and as_split(data.validation, schema=schema)
    return as_split(data, schema=schema), None
