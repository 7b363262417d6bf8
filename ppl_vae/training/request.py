"""What a run of `fit` is asked for in words, as the command line and a grid say it, and the objects that they mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ppl_vae.errors import UserError, check_flag, check_several, option, shown, spelled
from ppl_vae.registry import catalog, user_files
from ppl_vae.registry.programs import ProgramWords
from ppl_vae.registry.resolve import resolve
from ppl_vae.registry.rows import DataWords
from ppl_vae.registry.words import (
    check_choice,
    check_number,
    check_whole,
    column_likelihoods,
    field_columns,
    kind_words,
    marks,
    split_options,
    split_words,
    whole_numbers,
)
from ppl_vae.training.settings import EPOCHS, PATIENCE, SETTINGS, Settings, pace

if TYPE_CHECKING:
    from ppl_vae.data import Data

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """The words for a run: its pair, its data, its training. Where nobody said it, the model says guide and KL weight.

    Example:
        >>> Request("auto_encoder").programs.guide_word, Request("information_bottleneck").beta
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
    stream: bool | None = None
    group: str | None = None
    time: str | None = None
    lengths: str | None = None
    rows: str = "auto"
    binarise: str | None = None
    objective: str | None = None
    lr_schedule: str = "constant"
    warm_up: float | None = None
    pace: int = 1
    latent_dim: int | None = None
    hidden: str | None = None
    start: Path | None = None
    freeze: bool = False
    given: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of `Settings`, as far as they were said; then all that have a word, None where that is decided later."""
    loaded: dict[Path, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    """Users' files that were run for this request, so that each is run once."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """A request from options by name, those of `Settings` among them."""
        settings = {name: value for name, value in options.items() if name in SETTINGS}
        return cls(**{name: value for name, value in options.items() if name not in SETTINGS}, settings=settings)

    def __post_init__(self) -> None:
        usual = {
            each.name: None if SETTINGS[each.name].decided else each.default
            for each in dataclasses.fields(Settings)
            if SETTINGS[each.name].word is not None
        }
        usual["beta"] = None  # the model may say it
        said = {name: value for name, value in self.settings.items() if value is not None}
        object.__setattr__(self, "settings", usual | said)

    def _refuse_other_kinds(self) -> None:
        """The command line gives words; what comes from Python may be anything."""
        for each in dataclasses.fields(self):
            value, kind = getattr(self, each.name), str(each.type).partition(" ")[0]
            if kind == "bool" and not (value is None and str(each.type).endswith("None")):
                check_flag(option(each.name), value)
            elif kind == "str" and not isinstance(value, str | None):
                raise UserError(f"{option(each.name)} expects text, got {shown(value)}")
            elif kind == "list[str]" and value is not None:
                for word in check_several(option(each.name), value, "words, such as ['NAME=...']"):
                    if not isinstance(word, str):
                        raise UserError(f"{option(each.name)} expects words, got {shown(word)} among them")

    def check(self) -> None:
        """Refuse what can be refused before anything is imported or read."""
        self._refuse_other_kinds()
        for name in ("particles", "latent_dim", "labels"):
            check_whole(option(name), getattr(self, name), 1)
        check_number(option("warm_up"), self.warm_up)
        for name, value in self.settings.items():
            setting = SETTINGS[name]
            if setting.word is None or callable(value):
                raise UserError(f"{option(name)} has no word for {type(value).__name__}: use ppl_vae.fit in Python")
            if value is not None:
                setting.check(option(name), setting.read(value))
        if self.freeze and self.start is None:
            run = spelled("start=", "--start RUN")
            raise UserError(f"{option('freeze')} keeps the networks of another run as they are: name the run, {run}")
        check_choice(option("lr_schedule"), self.lr_schedule, ("constant", "cosine"))
        check_choice(option("missing"), self.missing, ("refuse", "allow"))
        check_choice(option("rows"), self.rows, ("auto", "none"))
        if self.binarise is not None:
            check_choice(option("binarise"), self.binarise, ("dynamic", "static", "none"))
        split_words(option("columns"), self.columns)
        split_words(option("outliers"), self.outliers)
        kind_words(self.kind)
        if field_columns(self.field) and self.columns:
            raise UserError(
                f"{option('columns')} and {option('field')} both say which columns are used: give one of them"
            )
        whole_numbers(option("hidden"), self.hidden)
        split_words(option("given"), self.given)
        self.programs.check()
        likelihoods: list[str | None] = [*self._column_likelihoods.values()] or [self.likelihood]
        for kind, word in (("priors", self.prior), *(("likelihoods", each) for each in likelihoods)):
            if word is not None:
                catalog.find(kind, word)
        if self.objective is not None:
            self._refuse_objective(self.objective)
        if self.is_pyro:
            for name, value, only in (("warm_up", self.warm_up, 0), ("beta", self.beta, 1)):
                if value is not None and value != only:
                    told, remedy = option(name, f"{value:g}"), option("bound", "elbo")
                    raise UserError(f"{told}: Pyro's own bounds have no KL weight, use {remedy}")

    def _refuse_objective(self, word: str) -> None:
        """An objective that there is, with a KL weight from `beta` and a bound that has a KL to take apart."""
        catalog.find("objectives", word)
        if "beta" in split_options(word)[1]:
            raise UserError(f"{option('objective')} {word}: the KL weight is said by {option('beta')}: leave it out")
        if self.is_pyro:
            remedy = option("bound", "elbo")
            raise UserError(f"{option('objective')}: Pyro's own bounds have no parts to weigh, use {remedy}")

    def settled(self, rows: int) -> Self:
        """The same with the epochs, patience and warm-up that so many training rows need, where nobody said them.

        As `Settings.settled`, with the warm-up in proportion.

        Example:
            >>> Request().settled(1000).passes, Request().settled(105).passes
            (300, 2400)
            >>> Request(settings={"epochs": 7}).settled(105).settings["patience"]
            40
        """
        said = self.settings
        times = 1 if said["epochs"] is not None else pace(rows, said["batch_size"])
        found = {"epochs": EPOCHS * times, "patience": PATIENCE * times}
        return replace(self, settings=found | {k: v for k, v in said.items() if v is not None}, pace=times)

    @property
    def passes(self) -> int:
        """The epochs, at most."""
        return int(self.settings["epochs"] or EPOCHS)

    @property
    def programs(self) -> ProgramWords:
        """The words for the pair."""
        return ProgramWords(self.model, self.guide, self.loaded)

    @property
    def beta(self) -> float:
        """The KL weight: what was said, else what the model says, else 1."""
        said = self.settings["beta"]
        return self.programs.usual("default_beta", 1.0) if said is None else said

    def load(self, progress: Callable[[int, int], None] | None = None) -> Data:
        """The data set that the words say; `progress` is told how far the pass over streamed rows is."""
        words = DataWords(self.data, self.label, split_words(option("columns"), self.columns), self.missing)
        return words.load(
            binarise=self.binarise,
            fields=field_columns(self.field),
            kinds=self._kinds(),
            labels=self.labels,
            outliers=split_words(option("outliers"), self.outliers),
            separator=None if self.separator is None else self.separator.replace("\\t", "\t"),
            decimal=self.decimal,
            encoding=self.encoding,
            missing_marks=marks(self.missing_marks),
            group=self.group,
            time=self.time,
            lengths=self.lengths,
            rows=None if self.rows == "none" else self.rows,
            stream=self.stream,
            progress=progress,
        )

    @property
    def _column_likelihoods(self) -> dict[str, str]:
        return column_likelihoods(self.likelihood)

    def _kinds(self) -> dict[str, str] | None:
        """What was said of fields; a likelihood that was named for a column says its kind."""
        found = {
            column: catalog.find("likelihoods", word).load().kinds[0]
            for column, word in self._column_likelihoods.items()
        }
        return found | (kind_words(self.kind) or {}) or None

    @property
    def is_pyro(self) -> bool:
        """Whether the bound is one of Pyro's own."""
        return catalog.find("bounds", self.bound).is_pyro

    @property
    def is_own(self) -> bool:
        """Whether a program is of a user's file."""
        return user_files.is_file(self.model) or user_files.is_file(self.guide or "")

    def program_options(self) -> dict[str, Any]:
        """What was asked of the programs, by argument name."""
        found: dict[str, Any] = {}
        if self._column_likelihoods:
            columns = catalog.find("likelihoods", "columns").load()
            found["likelihood"] = columns(**{c: resolve("likelihood", w) for c, w in self._column_likelihoods.items()})
        for kind in ("prior", "likelihood"):
            if kind not in found and (word := getattr(self, kind)) is not None:
                found[kind] = resolve(kind, word)
        found |= {"latent_dim": self.latent_dim, "hidden": whole_numbers(option("hidden"), self.hidden)}
        found |= {"given": split_words(option("given"), self.given)}
        return {name: value for name, value in found.items() if value is not None}

    def chosen(self, *, points: bool = False, begun: bool = False, **decided: Any) -> dict[str, Any]:
        """The settings as keywords of `fit`: what was said, or `decided` where nobody said it."""
        from ppl_vae.schedules import Cosine

        found = {name: SETTINGS[name].read(value) for name, value in self.settings.items() if value is not None}
        if self.lr_schedule == "cosine":
            found["lr"] = Cosine(found["lr"], self.passes)
        return found | {"beta": self.schedule(points=points, begun=begun)} | decided

    def schedule(self, *, points: bool = False, begun: bool = False) -> Any:
        """What is maximised: the KL weight, or the objective that was asked for, of which it weighs the KL."""
        weight = self.weight(points=points, begun=begun)
        return weight if self.objective is None else replace(resolve("objective", self.objective), beta=weight)

    def weight(self, *, points: bool = False, begun: bool = False) -> Any:
        """The KL weight, with a warm-up, or only one that was asked for where it has no use.

        There is no KL where the guide draws points, and a pair that begins at a linear model has latents in use.
        """
        from ppl_vae.schedules import WarmUp

        usual = 0.0 if points or begun else min(10.0 * self.pace, self.passes / 5)
        epochs = usual if self.warm_up is None else self.warm_up
        return self.beta if self.is_pyro or epochs == 0 else WarmUp(epochs, self.beta)
