"""What a run of `fit` is asked for in words, as the command line and a grid say it, and the objects that they mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from ppl_vae.errors import UserError
from ppl_vae.registry import catalog, construction, user_files
from ppl_vae.registry.programs import ProgramWords
from ppl_vae.registry.rows import DataWords
from ppl_vae.registry.words import (
    check_choice,
    check_number,
    check_whole,
    column_likelihoods,
    field_columns,
    kind_words,
    marks,
    split_words,
    whole_numbers,
)

if TYPE_CHECKING:
    from ppl_vae.data import Data

__all__ = ["Request"]

EPOCHS, PATIENCE = 300, 40
STEPS = 4800
"""Optimiser steps that the default epochs come to where there are 1,000 training rows."""


@dataclass(frozen=True)
class Request:
    """The words for a run: its pair, its data, its training. Where nobody said it, the model says guide and KL weight.

    Example:
        >>> Request("auto_encoder").guide, Request("information_bottleneck").beta
        ('point', 0.01)
    """

    model: str = "vae"
    guide: str | None = None
    prior: str | None = None
    likelihood: str | None = None
    bound: str = "elbo"
    particles: int | None = None
    data: str = "digits"
    label: str | None = None
    labels: int | None = None
    outliers: str | None = None
    columns: str | None = None
    field: list[str] | None = None
    kind: list[str] | None = None
    missing: str = "refuse"
    missing_marks: str | None = None
    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    binarise: str | None = None
    epochs: int | None = None
    batch_size: int = 64
    lr: float = 1e-3
    lr_schedule: str = "constant"
    weight_decay: float | None = None
    warm_up: float | None = None
    beta: float | None = None
    label_weight: float | None = None
    label_share: float | None = None
    patience: int | None = None
    pace: int = 1
    latent_dim: int | None = None
    hidden: str | None = None
    start: Path | None = None
    freeze: bool = False
    given: str | None = None
    seed: int = 0
    device: str = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        name, _ = catalog.split_options(self.model)
        if self.guide is None:
            object.__setattr__(self, "guide", catalog.default_of(name, "default_guide", "mean_field"))
        if self.beta is None:
            object.__setattr__(self, "beta", catalog.default_of(name, "default_beta", None))

    def check(self) -> None:
        """Refuse what can be refused before anything is imported or read."""
        for name in ("epochs", "batch_size", "particles", "latent_dim", "labels"):
            check_whole(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        check_whole("--seed", self.seed, 0)
        check_whole("--patience", self.patience, 0)
        check_number("--lr", self.lr, positive=True)
        for name in ("weight_decay", "warm_up", "beta", "label_weight"):
            check_number(f"--{name.replace('_', '-')}", getattr(self, name))
        if self.label_share is not None and not 0 < self.label_share < 1:
            raise UserError(f"--label-share must be between 0 and 1, got {self.label_share:g}")
        if self.freeze and self.start is None:
            raise UserError("--freeze keeps the networks of another run as they are: name the run, --start RUN")
        check_choice("--lr-schedule", self.lr_schedule, ("constant", "cosine"))
        check_choice("--compile", self.compile, ("auto", "on", "off"))
        check_choice("--precision", self.precision, ("float32", "tf32", "bfloat16"))
        check_choice("--missing", self.missing, ("refuse", "allow"))
        if self.binarise is not None:
            check_choice("--binarise", self.binarise, ("dynamic", "static", "none"))
        split_words("--columns", self.columns)
        split_words("--outliers", self.outliers)
        kind_words(self.kind)
        if field_columns(self.field) and self.columns:
            raise UserError("--columns and --field both say which columns are used: give one of them")
        whole_numbers("--hidden", self.hidden)
        split_words("--given", self.given)
        self.programs.check()
        likelihoods: list[str | None] = [*self._column_likelihoods.values()] or [self.likelihood]
        for kind, word in (("priors", self.prior), *(("likelihoods", each) for each in likelihoods)):
            if word is not None:
                catalog.find(kind, catalog.split_options(word)[0])
        if self.is_pyro:
            for option, value, only in (("--warm-up", self.warm_up, 0), ("--beta", self.beta, 1)):
                if value is not None and value != only:
                    raise UserError(f"{option} {value:g}: Pyro's own bounds have no KL weight, use --bound elbo")

    def settled(self, rows: int) -> Self:
        """The same with the epochs, patience and warm-up that so many training rows need, where nobody said them.

        A network learns by steps, and an epoch of few rows has few: 300 epochs, or up to 8 times as many for 4,800
        steps, with patience and warm-up in proportion.

        Example:
            >>> Request().settled(1000).epochs, Request().settled(105).epochs, Request(epochs=7).settled(105).patience
            (300, 2400, 40)
        """
        steps = EPOCHS * -(-rows // self.batch_size)
        pace = 1 if self.epochs is not None else min(8, max(1, round(STEPS / steps)))
        epochs = EPOCHS * pace if self.epochs is None else self.epochs
        patience = PATIENCE * pace if self.patience is None else self.patience
        return replace(self, epochs=epochs, patience=patience, pace=pace)

    @property
    def passes(self) -> int:
        """The epochs, at most."""
        return self.epochs or EPOCHS

    @property
    def programs(self) -> ProgramWords:
        """The words for the pair."""
        return ProgramWords(self.model, str(self.guide))

    def rows(self) -> Data:
        """The data set that the words say."""
        words = DataWords(self.data, self.label, split_words("--columns", self.columns), self.missing)
        return words.load(
            binarise=self.binarise,
            fields=field_columns(self.field),
            kinds=self._kinds(),
            labels=self.labels,
            outliers=split_words("--outliers", self.outliers),
            separator=None if self.separator is None else self.separator.replace("\\t", "\t"),
            decimal=self.decimal,
            encoding=self.encoding,
            missing_marks=marks(self.missing_marks),
        )

    @property
    def _column_likelihoods(self) -> dict[str, str]:
        return column_likelihoods(self.likelihood)

    def _kinds(self) -> dict[str, str] | None:
        """What was said of fields; a likelihood that was named for a column says its kind."""
        found = {
            column: catalog.find("likelihoods", catalog.split_options(word)[0]).load().kinds[0]
            for column, word in self._column_likelihoods.items()
        }
        return found | (kind_words(self.kind) or {}) or None

    @property
    def is_pyro(self) -> bool:
        """Whether the bound is one of Pyro's own."""
        return catalog.find("bounds", catalog.split_options(self.bound)[0]).is_pyro

    @property
    def is_own(self) -> bool:
        """Whether a program is of a user's file."""
        return user_files.is_file(self.model) or user_files.is_file(self.programs.guide)

    def program_options(self) -> dict[str, Any]:
        """What was asked of the programs, by argument name."""
        found: dict[str, Any] = {}
        if self._column_likelihoods:
            columns = catalog.find("likelihoods", "columns").load()
            found["likelihood"] = columns(**{c: _made("likelihood", w) for c, w in self._column_likelihoods.items()})
        for kind in ("prior", "likelihood"):
            if kind not in found and (word := getattr(self, kind)) is not None:
                found[kind] = _made(kind, word)
        found |= {"latent_dim": self.latent_dim, "hidden": whole_numbers("--hidden", self.hidden)}
        found |= {"given": split_words("--given", self.given)}
        return {name: value for name, value in found.items() if value is not None}

    def schedule(self, *, points: bool = False) -> Any:
        """The KL weight; where the guide draws points there is no KL, and only a warm-up that was asked for."""
        from ppl_vae.schedules import WarmUp

        beta = 1.0 if self.beta is None else self.beta
        usual = 0.0 if points else min(10.0 * self.pace, self.passes / 5)
        epochs = usual if self.warm_up is None else self.warm_up
        return beta if self.is_pyro or epochs == 0 else WarmUp(epochs, beta)


def _made(kind: str, word: str) -> Any:
    """A prior or likelihood from its name and options."""
    name, options = catalog.split_options(word)
    entry = catalog.find(f"{kind}s", name)
    return construction.construct(entry.load(), {}, options, f"{kind} {entry.name}")[0]
