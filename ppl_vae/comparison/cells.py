"""The cells of a grid: checked, trained in parallel processes, judged, kept in a folder, and put together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from ppl_vae.comparison._executors import elsewhere_done
from ppl_vae.comparison._pairs import Compared, LatentUse, ladder
from ppl_vae.comparison._workers import GRACE, Job, Watcher, cores, work
from ppl_vae.comparison.cache import CachedEvaluation, read_cache
from ppl_vae.comparison.comparable import Observed, observed, preparation, refuse_incomparable
from ppl_vae.comparison.compare import Comparison, ranked
from ppl_vae.errors import UserError, check_number, spelled, unknown_name
from ppl_vae.registry import user_files
from ppl_vae.registry.programs import build
from ppl_vae.registry.resolve import resolve_bound
from ppl_vae.runs.folder import is_whole
from ppl_vae.runs.place import elsewhere, emptied, is_empty, made
from ppl_vae.saving.atomic import write_json
from ppl_vae.saving.locks import InUse, held
from ppl_vae.saving.reading import read_json
from ppl_vae.training.checkpoint import continues
from ppl_vae.training.request import Request

if TYPE_CHECKING:
    from ppl_vae.comparison.grid import Cell, Grid

__all__ = ["GridOutcome", "check_grid", "claim_grid", "judged_by", "train_cell", "train_grid"]

_QUICK = 50  # particles of fit's own evaluation, which the one of the comparison replaces


# -- the folder --------------------------------------------------------------------------------------------


class _GridFile(TypedDict):
    training: dict[str, str]
    cells: dict[str, str]


def _claim(grid: Grid, out: Path, resume: bool) -> None:
    """Refuse a folder that is not of this very grid; write down which cells it is for.

    A grid that is continued may have other cells than before, as long as they are trained in the same way.
    """
    file = out / "grid.json"
    training = {name: str(value) for name, value in sorted(grid.training.items())}
    known: dict[str, str] = {}
    if not is_empty(out):
        if not file.is_file():
            raise UserError(f"{out} exists already and is no comparison: {elsewhere()}")
        before = read_json(file, _GridFile, elsewhere())
        known, was = before["cells"], before["training"]
        _same(out, was, training)
        if not resume:
            go_on = spelled("resume=True", "--resume")
            raise UserError(f"{out} exists already: continue it with {go_on}, or {elsewhere()}")
    cells = {cell.folder: grid.digest(cell) for cell in grid.cells}
    for name, digest in cells.items():
        if known.get(name, digest) != digest:
            raise UserError(f"{name} in {out} was trained with another file of data or programs: {elsewhere()}")
        if name not in known and (out / name).exists():
            raise UserError(f"{out / name} is there, but not of this comparison: {elsewhere()}")
    write_json(file, {"training": training, "cells": known | cells})


def _same(out: Path, was: Mapping[str, str], training: Mapping[str, str]) -> None:
    for name in sorted({*was, *training}):
        if was.get(name) != training.get(name):
            raise UserError(
                f"{out} belongs to another comparison, its {name} is {was.get(name, 'the default')}, not "
                f"{training.get(name, 'the default')}: {elsewhere()}"
            )


# -- training ----------------------------------------------------------------------------------------------


class GridOutcome(NamedTuple):
    """What became of a grid: the comparison of the cells that finished (None if none did), and why others did not."""

    comparison: Comparison | None
    failed: dict[str, str]
    runs: dict[str, list[Path]]


def check_grid(grid: Grid, particles: int = 1000) -> None:
    """Build every pair once, before anything is trained, and refuse what cannot be built, judged or compared.

    Args:
        grid: what is to be trained.
        particles: of the evaluations.

    Raises:
        UserError: with the words of the cell.
    """
    asks = [(cell, Request.of(grid.options(cell))) for cell in grid.cells if cell.seed == 0]
    for _, ask in asks:
        ask.check()
        resolve_bound(ask.bound, ask.particles)
    data, loaded = asks[0][1].load(), dict[Path, Any]()
    seen: dict[str, Observed] = {}
    for cell, ask in asks:
        name = ", ".join(word for factor, word in cell.factors.items() if factor in ("model", "prior", "guide"))
        if name not in seen:
            seen[name] = _look(ask, data, loaded, particles)
    refuse_incomparable(seen)


def _look(ask: Request, data: Any, loaded: dict[Path, Any], particles: int) -> Observed:
    """What a pair observes, as it is before training."""
    from ppl_vae.evaluation.passes import refuse_endless
    from ppl_vae.evaluation.rows import rows_of
    from ppl_vae.programs.program import Pair, prepare
    from ppl_vae.programs.randomness import preserved_randomness

    with preserved_randomness():
        programs = build(replace(ask, loaded=loaded).programs, data, ask.program_options())
        model, guide = (program.value for program in programs)
        prepare(guide, data.train)
        rows = next(s for s in (data.test, data.validation, data.train) if s is not None)
        rows = rows_of(model, guide, rows)
        refuse_endless("particles", particles, len(rows))
        return observed(Pair(model, guide), rows, preparation(None, model))


def judged_by(
    particles: int, iwae: Sequence[int] | None = None, seed: int = 0, certified: float | None = None
) -> dict[str, Any]:
    """How cells are evaluated, as for `compare`: what their evaluations are kept under."""
    found: dict[str, Any] = {"particles": particles, "iwae": list(ladder(particles, iwae)), "seed": seed}
    accuracy = None if certified is None else float(check_number("certified", certified, positive=True))
    return found if accuracy is None else found | {"certified": accuracy}


def train_grid(
    grid: Grid,
    out: Path,
    *,
    particles: int = 1000,
    iwae: Sequence[int] | None = None,
    certified: float | None = None,
    seed: int = 0,
    jobs: int | None = None,
    resume: bool = False,
    watch: Callable[[int, int], AbstractContextManager[Watcher]] | None = None,
    executor: Executor | None = None,
) -> GridOutcome:
    """Train the cells that are not finished, judge those that are not judged, and compare them all.

    Args:
        grid: what to train.
        out: its folder: `grid.json` and one run folder for each cell.
        particles, iwae, certified, seed: of the evaluations, as for `compare`.
        jobs: processes at once; by default as many as there are cores, on CUDA one.
        resume: go on in a folder of the same grid.
        watch: from the numbers of cells, and of those that are finished, to a context manager with a `Watcher`.
        executor: what runs the cells instead of processes of this machine; its workers see the same folder.

    Raises:
        UserError: for what can be seen before training; what fails later is in the outcome.
    """
    key = judged_by(particles, iwae, seed, certified)
    check_grid(grid, particles)
    with made(out), held(out, "ppl-vae compare"):
        _claim(grid, out, resume)
        todo = [(cell, job) for cell in grid.cells if (job := _job(grid, cell, out, key)) is not None]
        with (watch or _silent)(len(grid.cells), len(grid.cells) - len(todo)) as watcher:
            at_once = jobs or _at_once(grid)
            if executor is None:
                failed = work([job for _, job in todo], min(at_once, max(1, len(todo))), watcher)
            else:
                calls = {job.name: (grid, cell.folder, out.resolve(), key) for cell, job in todo}
                failed = elsewhere_done(executor, train_cell, calls, watcher)
        return _outcome(grid, out, key, failed)


def claim_grid(grid: Grid, out: Path, particles: int = 1000) -> None:
    """Make the folder of a grid whose cells are trained by others, one by one (`train_cell`).

    Raises:
        UserError: for what can be seen before training, or a folder that is not of this very grid.
    """
    check_grid(grid, particles)
    with made(out), held(out, "ppl-vae compare"):
        _claim(grid, out, resume=(out / "grid.json").is_file())


def train_cell(grid: Grid, name: str, out: Path, key: Mapping[str, Any], watcher: Watcher | None = None) -> str | None:
    """Train and judge one cell in the folder of its grid, or go on with it; the reason if it fails.

    Done twice it is done once, so that whoever runs it may run it again where a worker is gone.
    """
    cell = next((c for c in grid.cells if c.folder == name), None)
    if cell is None:
        raise unknown_name("cell", name, [c.folder for c in grid.cells])
    known = read_json(out / "grid.json", _GridFile, elsewhere())["cells"]
    if known.get(name) != grid.digest(cell):
        raise UserError(f"{name} in {out} is of another grid, or its data or programs have changed: {elsewhere()}")
    _wait_for(out / name)
    job = _job(grid, cell, out, key)
    return None if job is None else next(iter(work([job], 1, watcher or _Nobody()).values()), None)


def _wait_for(run: Path) -> None:
    """A worker that is gone may have left a training that is still saving what it has."""
    deadline = time.monotonic() + 2 * GRACE
    while time.monotonic() < deadline:
        try:
            with held(run, "ppl-vae compare") if run.is_dir() else nullcontext():
                return
        except InUse:
            time.sleep(0.2)


def _silent(total: int, done: int) -> AbstractContextManager[Watcher]:
    return nullcontext(_Nobody())


class _Nobody:
    """Watches nothing."""

    def begin(self, name: str) -> None:
        """Not told."""

    def line(self, name: str, text: str) -> None:
        """Not told."""

    def end(self, name: str, reason: str | None) -> None:
        """Not told."""


def _at_once(grid: Grid) -> int:
    from ppl_vae.speed.device import pick_device

    return 1 if pick_device(grid.training.get("device", "auto")).type == "cuda" else cores()


def _job(grid: Grid, cell: Cell, out: Path, key: Mapping[str, Any]) -> Job | None:
    """What is left to do for a cell; None if it is finished."""
    run = out / cell.folder
    commands = []
    if not is_whole(run):
        begun = continues(run / "checkpoint")
        if not begun and run.exists():
            emptied(run)
        commands.append(["fit", *_words(grid.options(cell)), "--out", str(run), *(["--resume"] if begun else [])])
    elif read_cache(run, _judged_of(grid, key)) is not None:
        return None
    own = [(f"--{r}", cell.factors[r]) for r in ("model", "guide") if user_files.is_file(cell.factors[r])]
    rungs = ",".join(map(str, key["iwae"]))
    judge = [
        "compare-cell",
        str(run),
        "--particles",
        str(key["particles"]),
        "--iwae",
        rungs,
        "--seed",
        str(key["seed"]),
    ]
    judge += ["--certified", str(key["certified"])] if "certified" in key else []
    judge += [word for pair in own for word in pair]
    judge += ["--latents"] if "latents" in _judged_of(grid, key) else []
    judge += ["--device", str(grid.training["device"])] if "device" in grid.training else []
    return Job(f"{grid.name(cell)}, seed {cell.seed}", [*commands, judge])


def _judged_of(grid: Grid, key: Mapping[str, Any]) -> dict[str, Any]:
    """How cells of this grid are evaluated: where the weight of the KL is varied, what latents are used for, too."""
    return {**key, **({"latents": True} if {"beta", "objective"} & grid.levels.keys() else {})}


def _words(options: Mapping[str, Any]) -> list[str]:
    """The options of `fit` as words of the command line."""
    words = [str(options["model"]), "--no-report", "--evaluate-particles", str(_QUICK)]
    for name, value in options.items():
        if name != "model" and value is not None:
            for each in value if isinstance(value, list | tuple) else [value]:
                words += [f"--{name.replace('_', '-')}", str(each)]
    return words


def _outcome(grid: Grid, out: Path, key: Mapping[str, Any], failed: dict[str, str]) -> GridOutcome:
    groups: dict[str, list[tuple[Cell, CachedEvaluation]]] = {}
    for cell in grid.cells:
        judged = read_cache(out / cell.folder, _judged_of(grid, key))
        if judged is not None:
            groups.setdefault(grid.name(cell), []).append((cell, judged))
    runs = {name: [out / cell.folder for cell, _ in several] for name, several in groups.items()}
    if not groups:
        return GridOutcome(None, failed, runs)
    about = {name: several[0][1].about for name, several in groups.items()}
    refuse_incomparable({name: Observed.from_json(known["observed"]) for name, known in about.items()})
    pairs = [_compared(name, several) for name, several in groups.items()]
    levels = {f: tuple(w for w in words if any(p.factors[f] == w for p in pairs)) for f, words in grid.levels.items()}
    where = next(iter(about.values()))["where"]
    found = ranked(
        pairs, where=where, particles=key["particles"], rungs=key["iwae"], levels=levels, failed=failed,
        accuracy=key.get("certified"),
    )  # fmt: skip
    return GridOutcome(found, failed, runs)


def _compared(name: str, several: Sequence[tuple[Cell, CachedEvaluation]]) -> Compared:
    cell, first = several[0]
    abouts = [found.about for _, found in several]
    seconds = [about["seconds_per_epoch"] for about in abouts if about["seconds_per_epoch"] is not None]
    epochs = [about["epochs"] for about in abouts]
    uses = [about.get("latents") for about in abouts]
    return Compared(
        name,
        tuple(found.evaluation for _, found in several),
        (first.about["parameters"][0], first.about["parameters"][1]),
        median(seconds) if seconds else None,
        sum(epochs) / len(epochs) if all(epochs) else None,
        {factor: word for factor, word in cell.factors.items() if factor == "prior" or word != "own"},
        tuple(_use_of(use) for use in uses if use is not None),
    )


def _use_of(told: Sequence[float | None]) -> LatentUse:
    """As it was kept: JSON has no NaN."""
    active, units, *rest = (math.nan if value is None else value for value in told)
    return LatentUse(active, int(units), *rest)
