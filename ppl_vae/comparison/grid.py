"""A grid of models, guides, priors and bounds that is trained to be compared: every cell is a run of `ppl-vae fit`.

Like the command line, whose words it takes, this knows models and guides by name, and nothing imports it but that.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from ppl_vae.comparison.cells import train_grid
from ppl_vae.comparison.compare import Comparison
from ppl_vae.errors import UserError, check_flag, check_number, check_several, check_whole, option, shown, unknown_name
from ppl_vae.registry import catalog, user_files
from ppl_vae.registry.programs import ProgramWords
from ppl_vae.registry.words import split_options
from ppl_vae.saving.paths import path_of
from ppl_vae.training.request import Request
from ppl_vae.training.settings import SETTINGS, SYNONYMS

__all__ = ["Cell", "Grid", "compare_grid"]

FACTORS = ("model", "prior", "guide", "bound", "objective", "beta")
"""What a grid varies beside the seed; the options of `fit` of the same names."""

_ALWAYS = FACTORS[:4]
"""Those that a grid says of every cell; of the others a cell may have what all have."""

MOST_CELLS = 10_000
"""Trainings of a grid at most."""

OWN = "own"
"""The word for the prior that a model has by itself, and for an objective or KL weight that is not varied."""

BETA = "beta"
"""The word among objectives for the plain bound with a KL weight."""


class Cell(NamedTuple):
    """One training: a word for each factor, and the seed."""

    factors: Mapping[str, str]
    seed: int

    @property
    def folder(self) -> str:
        """The name of its run folder, of all its words."""
        words = [f"{factor}{w}" if factor == "beta" else w for factor, w in _said_of(self.factors).items()]
        plain = [
            re.sub(r"[^\w.+]+", "_", split_options(w)[0].rpartition(":")[2] if user_files.is_file(w) else w)
            for w in words
        ]
        tail = "" if plain == words else f"-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:6]}"
        return f"{'-'.join(plain)}{tail}-seed{self.seed}"


@dataclass(frozen=True)
class Grid:
    """Every combination of the words for models, priors, guides, bounds, objectives, betas, each with seeds 0, 1, ....

    An objective is "beta", the bound with a KL weight, or a word of `fit --objective`; a beta is the KL weight of the
    first, and of any other the number that it is named after: tc of decomposed, gamma of factor, off of dip, weight of
    mmd.

    `training` are further options of `ppl-vae fit`, by name, the same for all cells. With one of Pyro's own bounds,
    which have no warm-up, no cell has one unless it is asked for, so that cells differ only in what is varied.

    Raises:
        UserError: for an empty list, a word twice, an unknown name, or an option that `fit` does not have.
    """

    models: tuple[str, ...] = ("vae",)
    priors: tuple[str, ...] = (OWN,)
    guides: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ("elbo",)
    seeds: int = 3
    objectives: tuple[str, ...] = (OWN,)
    betas: tuple[str, ...] = (OWN,)
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(_number(beta) for beta in self.betas))
        for name in ("models", "priors", "bounds", "guides", "objectives", "betas"):
            if name == "guides" and not self.guides:  # by now the models are known to be there
                usual = {ProgramWords(model, None).guide_word for model in self.models}
                object.__setattr__(self, "guides", tuple(sorted(usual)))
            words = tuple(getattr(self, name))
            object.__setattr__(self, name, words)
            for word in words:
                if not isinstance(word, str):
                    raise UserError(f"{name} expects names, such as ('vae',), got {shown(word)}")
            if not words or not all(words):
                raise UserError(f"{name}: expected at least one name, got {', '.join(words) or 'none'}")
            for word in words:
                if words.count(word) > 1:
                    raise UserError(f"{name}: {word!r} is there twice: name each once")
                if not user_files.is_file(word) and word not in (OWN, BETA) and name != "betas":
                    catalog.find(name, word)
        self._refuse_endless()
        object.__setattr__(self, "training", self._training())

    def _refuse_endless(self) -> None:
        each = prod(len(getattr(self, f"{factor}s")) for factor in FACTORS)
        if check_whole("seeds", self.seeds) * each > MOST_CELLS:
            raise UserError(
                f"a grid of {each:,} x {self.seeds:,} trainings has no end: take seeds={max(1, MOST_CELLS // each):,} "
                "at most, or fewer names"
            )

    def _training(self) -> dict[str, Any]:
        usual = _fit_options()
        given = {name: _said(value) for name, value in self.training.items() if value is not None}
        if "patience" in self.training and self.training["patience"] is None:
            given["patience"] = 0  # the word for never
        for name, words in (("objective", self.objectives), ("beta", self.betas)):
            if name in given and words != (OWN,):
                raise UserError(f"{option(name)} is what the grid varies, {option(name + 's')}: leave it out")
        for name in given:
            if name not in usual:
                raise unknown_name("option of fit", name, usual, SYNONYMS)
        if any(catalog.find("bounds", b).is_pyro for b in self.bounds):
            given.setdefault("warm_up", 0.0)
        return {"data": "digits"} | given

    @property
    def cells(self) -> list[Cell]:
        """All trainings: the first seed of every combination first, so that there is something to compare early."""
        words = [getattr(self, f"{factor}s") for factor in FACTORS]
        choices = [dict(zip(FACTORS, choice, strict=True)) for choice in itertools.product(*words)]
        return [Cell(choice, seed) for seed in range(self.seeds) for choice in choices]

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """The words of each factor that is varied."""
        found = {factor: tuple(getattr(self, f"{factor}s")) for factor in FACTORS}
        return {factor: words for factor, words in found.items() if len(words) > 1}

    def name(self, cell: Cell) -> str:
        """What a cell is called in tables: its words for what is varied."""
        return " + ".join(cell.factors[factor] for factor in self.levels) or cell.factors["guide"]

    def options(self, cell: Cell) -> dict[str, Any]:
        """The options of `fit` for a cell, by name."""
        factors = _said_of(cell.factors)
        objective, beta = factors.pop("objective", BETA), factors.pop("beta", None)
        if objective == BETA:
            weight: dict[str, Any] = {} if beta is None else {"beta": float(beta)}
        else:
            weight = {"objective": objective if beta is None else _with_strength(objective, beta)}
        return {**self.training, **factors, **weight, "seed": cell.seed}

    def digest(self, cell: Cell) -> str:
        """A hash of all that a training depends on: its options, its data file, a user's programs."""
        options = self.options(cell)
        own = [split_options(w)[0].rpartition(":")[0] for w in cell.factors.values() if user_files.is_file(w)]
        files = [str(options["data"]), *own]
        said = {k: str(v) for k, v in sorted(options.items())} | {f"content of {f}": _content(f) for f in files}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _said(value: Any) -> Any:
    """A path as its text, several numbers as the command line says them, "8,8"; all else as it is."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple) and all(isinstance(each, int) for each in value):
        return ",".join(map(str, value))
    return value


def _fit_options() -> set[str]:
    """The options of `ppl-vae fit` that are the same for all cells."""
    words = {name for name, setting in SETTINGS.items() if setting.word is not None}
    return (words | {field.name for field in fields(Request)}) - {*_ALWAYS, "seed", "settings", "pace", "loaded"}


def _said_of(factors: Mapping[str, str]) -> dict[str, str]:
    """The words of a cell that say something: not the prior that the model has, nor what no cell varies."""
    return {name: word for name, word in factors.items() if word != OWN or name not in ("prior", "objective", "beta")}


def _number(beta: Any) -> str:
    """A KL weight as a word.

    Example:
        >>> _number(4), _number("0.25"), _number("own")
        ('4', '0.25', 'own')
    """
    if isinstance(beta, str) and beta == OWN:
        return beta
    try:
        number = float(beta)
    except (TypeError, ValueError) as error:
        raise UserError(f"betas expect numbers, such as (0.25, 1, 4), got {shown(beta)}") from error
    return f"{check_number('betas', number):g}"


def _with_strength(objective: str, beta: str) -> str:
    """An objective with the number that it is named after.

    Example:
        >>> _with_strength("decomposed:mi=0", "4"), _with_strength("factor", "16")
        ('decomposed:mi=0,tc=4', 'factor:gamma=16')
    """
    strength = fields(catalog.find("objectives", objective).load())[0].name
    said = split_options(objective)[1]
    if strength in said:
        raise UserError(f"objective {objective} and {option('betas')} both say {strength}: give one of them")
    return f"{objective}{',' if said else ':'}{strength}={beta}"


def _content(file: str) -> str | None:
    path = Path(file).expanduser()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def compare_grid(
    *,
    models: Sequence[str] = ("vae",),
    priors: Sequence[str] = (OWN,),
    guides: Sequence[str] = (),
    bounds: Sequence[str] = ("elbo",),
    objectives: Sequence[str] = (OWN,),
    betas: Sequence[float | str] = (OWN,),
    seeds: int = 3,
    out: str | Path,
    particles: int = 1000,
    iwae: Sequence[int] | None = None,
    certified: float | None = None,
    jobs: int | None = None,
    executor: Executor | None = None,
    resume: bool = False,
    **training: Any,
) -> Comparison:
    """Train every combination of models, priors, guides and bounds, several seeds of each, and compare them.

    Cells are trained by `ppl-vae fit` in parallel processes and are run folders, which `open_run` opens; so data and
    programs are given by the names, with options, or `FILE.py:NAME`, that the command line takes.

    Args:
        models, priors, guides, bounds: words such as "iaf", "mixture:components=50", "iwae:particles=16"; "own" is the
            prior that the model has, no guide is the model's own choice.
        objectives: "beta", and words of `fit --objective` such as "decomposed".
        betas: KL weights, and of another objective the number that it is named after (tc, gamma, off, weight).
        seeds: trainings of each combination.
        out: the folder of the comparison.
        particles, iwae, certified: of the evaluations, as for `compare`.
        jobs: processes at once; by default as many as there are cores, on CUDA one.
        executor: a `concurrent.futures.Executor` that runs the cells instead, such as Dask's (`client.get_executor()`):
            its workers have this package, and see `out`, the data and your programs at the same paths. A worker that is
            gone costs its cell, unless the executor tries again; the cell goes on where it was.
        resume: go on in the folder of the same grid: cells that are finished are kept.
        training: options of `ppl-vae fit`, such as `data="my.csv"`, `epochs=100`, `latent_dim=8`.

    Raises:
        UserError: for a name, an option or a pair that is refused, before anything is trained; if every cell failed.
            Why some did is in `failed` of the comparison.

    Example:
        >>> compare_grid(guides=["mean_field", "iaff"], out="runs/none")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: unknown guide 'iaff': did you mean 'iaf'...
    """
    factors = {"models": models, "priors": priors, "guides": guides, "bounds": bounds}
    factors |= {"objectives": objectives, "betas": [_number(b) for b in check_several("betas", betas, "numbers")]}
    words = {name: check_several(name, value, "names, such as ('vae',)") for name, value in factors.items()}
    jobs, resume = None if jobs is None else check_whole("jobs", jobs), check_flag("resume", resume)
    if executor is not None and not isinstance(executor, Executor):
        raise UserError(f"executor must be a concurrent.futures.Executor, got {shown(executor)}")
    if executor is not None and jobs is not None:
        raise UserError("jobs is of the processes of this machine, and executor= has workers of its own: give one")
    grid = Grid(**words, seeds=seeds, training=training)
    place = path_of("out", out)
    found = train_grid(
        grid, place, particles=particles, iwae=iwae, certified=certified, jobs=jobs, resume=resume, executor=executor
    )
    if found.comparison is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.failed.items())
        raise UserError(f"every cell failed ({reasons}): mend it, then go on with resume=True")
    return found.comparison
