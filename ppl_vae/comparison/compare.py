"""Pairs of model and guide on the same held-out rows: bounds, paired differences and what they allow to say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ppl_vae.comparison._pairs import BoundKey, Compared, Difference, LatentUse, difference, ladder
from ppl_vae.comparison.comparable import observed, preparation, refuse_incomparable
from ppl_vae.data import Data, Split, as_split
from ppl_vae.diagnostics import certify
from ppl_vae.display import Displayed
from ppl_vae.display.tables import latex, markdown
from ppl_vae.errors import NoDensity, UserError, check_flag, check_number, unknown_name
from ppl_vae.evaluation import Evaluation, evaluate_rows
from ppl_vae.evaluation.means import standard_error
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.weights.psis import khat_limit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table

    from ppl_vae.comparison._order import Order

__all__ = ["Comparison", "compare", "judged", "pace", "ranked", "size_of"]


@dataclass(frozen=True, repr=False)
class Comparison(Displayed):
    """What `compare` found: the pairs, best log evidence first, on the same rows with as many particles.

    `rows` is how many rows there are, `where` what they are called, `particles` the draws per row, `ladder` the
    numbers of particles whose bounds are known, `levels` what a grid varied, in the order in which it was asked for,
    `failed` why cells of a grid are not there, `accuracy` to what log p(x) was certified, if it was. Everything is in
    nats per row.
    """

    pairs: tuple[Compared, ...]
    rows: int
    where: str
    particles: int
    ladder: tuple[int, ...]
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    accuracy: float | None = None

    @property
    def best(self) -> Compared:
        """The pair with the highest log evidence."""
        return self.pairs[0]

    def __getitem__(self, name: str) -> Compared:
        for pair in self.pairs:
            if pair.name == name:
                return pair
        raise unknown_name("pair", name, [pair.name for pair in self.pairs])

    def difference(self, one: str, other: str, bound: BoundKey = "log_evidence") -> Difference:
        """How much higher a bound ("elbo", "log_evidence", or particles of an IWAE) is for `one`, row by row."""
        return difference(self[one], self[other], bound)

    @property
    def order(self) -> Order:
        """Whether ELBO <= IWAE_k <= IWAE_2k <= ... holds for every pair, within three paired standard errors."""
        from ppl_vae.comparison._order import check_order

        return check_order(self)

    @property
    def verdict(self) -> str:
        """What can be said and what not, in a few sentences."""
        from ppl_vae.comparison._verdict import verdict

        return verdict(self)

    def table(self, width: int | None = None) -> Table:
        """A `rich` table, one line a pair, at most so wide; print it, or `str()` of the comparison."""
        from ppl_vae.comparison._verdict import table

        return table(self, width)

    def __str__(self) -> str:
        from ppl_vae.comparison._verdict import text

        return text(self)

    def summary(self) -> dict[str, Any]:
        """Everything but the rows as plain numbers, strings and lists; nan where there is no error to tell."""
        return {
            "rows": self.rows,
            "where": self.where,
            "particles": self.particles,
            "iwae": list(self.ladder),
            "khat_limit": khat_limit(self.particles),
            "certified_accuracy": self.accuracy,
            "best": self.best.name,
            "pairs": [self._record(pair) for pair in self.pairs],
            "order": self.order.summary(),
            "failed": dict(self.failed),
            "verdict": self.verdict,
        }

    def _record(self, pair: Compared) -> dict[str, Any]:
        found: dict[str, Any] = {"name": pair.name, **pair.factors, "seeds": len(pair.evaluations)}
        bounds: list[BoundKey] = ["elbo", *self.ladder, "log_evidence"]
        for bound in bounds:
            key = f"iwae_{bound}" if isinstance(bound, int) else bound
            estimate = pair.estimate(bound)
            found |= {key: estimate.value} | {f"{key}_{n}": v for n, v in estimate._asdict().items() if n != "value"}
        for bound in ("log_evidence", "elbo"):
            gap = difference(pair, self.best, bound)
            found |= {f"{bound}_to_best": gap.value, f"{bound}_to_best_se": gap.se}
            found[f"{bound}_to_best_seed_se"] = gap.seed_se
        for part in ("rate", "distortion"):
            values = torch.stack([getattr(e, part).double().mean().cpu() for e in pair.evaluations])
            found |= {part: float(values.mean()), f"{part}_seed_se": float(standard_error(values))}
        for what in LatentUse._fields if pair.latents else ():
            value, seed_se = pair.use(what)
            found |= {what: value, f"{what}_seed_se": seed_se}
        return found | {
            "told_apart": difference(pair, self.best).told_apart,
            "unreliable_rows": pair.unreliable_rows,
            "parameters_model": pair.parameters[0],
            "parameters_guide": pair.parameters[1],
            "seconds_per_epoch": pair.seconds_per_epoch,
            "epochs": pair.epochs,
        }

    def frame(self) -> pd.DataFrame:
        """The lines of `summary()["pairs"]` as a DataFrame, indexed by name."""
        import pandas

        return pandas.DataFrame([self._record(pair) for pair in self.pairs]).set_index("name")

    def to_markdown(self) -> str:
        """The bounds and paired differences as a table in Markdown, errors in the last digits: -92.64(49)."""
        from ppl_vae.comparison._paper import paper

        return markdown(*paper(self))

    def to_latex(self) -> str:
        """The same table in LaTeX, with the rules of booktabs."""
        from ppl_vae.comparison._paper import paper

        return latex(*paper(self))

    def figure(self) -> Figure:
        """Bounds against K for each pair, and a forest of the paired differences of log p(x) to the best pair."""
        from ppl_vae.comparison._plot import bounds_against_particles

        return bounds_against_particles(self)

    def rate_distortion(self) -> Figure:
        """Rate against distortion, the two parts of the ELBO, a point for each training; lines are of equal ELBO."""
        from ppl_vae.comparison._plane import rate_distortion

        return rate_distortion(self)


@exclusive
def compare(
    pairs: Mapping[str, Any] | Sequence[Any],
    data: Any = None,
    *,
    particles: int = 1000,
    iwae: Sequence[int] | None = None,
    certified: float | None = None,
    latents: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare pairs on the same held-out rows with the same number of particles: bounds, evidence, paired differences.

    Args:
        pairs: by name (model, guide), or the result of `fit`, or an opened run; a list of these is one pair that
            was trained several times (seeds): its rows are averaged, and the error between trainings is estimated.
            Results in a list are named after their programs and bounds.
        data: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`); by default
            those of the first result.
        particles: draws per row, the K of the log evidence.
        iwae: values k <= K for which IWAE_k is reported; by default 1, 5, 10, 50, ... below K.
        certified: an accuracy in nats, such as 0.05: log p(x) of every row is then certified (`ppl_vae.certify`) and
            replaces the estimate by the weights of the guide; this takes minutes for each pair.
        latents: tell what latents are used for, too: how many are active, their total correlation, and the mutual
            information gap (MIG) where factors of the training rows are known (sprites), else the accuracy of a linear
            probe of the label.
        seed: of the draws, the same for every pair; the global generators are left alone.

    Raises:
        UserError: for no pair, an IWAE of more particles than there are, what `evaluate` refuses, and pairs whose
            evidence is of different things: a mass and a density, other fields, other values of the same rows, or
            training rows that were prepared in another way.
        NoDensity: for a guide that draws a latent of the rows from a point mass.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> from ppl_vae.programs.toy import model, posterior
        >>> def wide(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 1.0))
        >>> rows = torch.linspace(-1, 1, 50)
        >>> found = compare({"wide": (model, wide), "exact": (model, posterior)}, rows, particles=1000)
        >>> round(found.difference("exact", "wide", "elbo").value, 2)  # KL(N(0, 1) || N(0, 1/2)) = (1 - log 2) / 2
        0.15
        >>> found.order.holds
        True
    """
    check_flag("latents", latents)
    accuracy = None if certified is None else float(check_number("certified", certified, positive=True))
    named = _named(pairs)
    if data is None:
        data = next((one.data for one in named.values() if getattr(one, "data", None) is not None), None)
    if data is None:
        raise UserError("compare needs the rows on which pairs are judged: compare(pairs, data)")
    trained = {name: _trained(name, value) for name, value in named.items()}
    rungs = ladder(particles, iwae)
    rows = fixed(as_split(data, "test", _schema(trained)), seed)
    seen = {}
    for name, several in trained.items():
        for one in several:
            with _of(name):
                pair = Pair(one.model, one.guide)
                mine = rows_of(one.model, one.guide, rows).to(pair.device)
                seen[_numbered(name, one, several)] = observed(pair, mine, preparation(one.origin, one.model))
    refuse_incomparable(seen)
    found = []
    for name, several in trained.items():
        with _of(name):
            evaluations = tuple(
                judged(t.model, t.guide, rows, particles, rungs, accuracy=accuracy, seed=seed) for t in several
            )
            uses = _uses(several, data, rows, seed) if latents else ()
        size = size_of(several[0].model, several[0].guide)
        found.append(Compared(name, evaluations, size, *pace([t.history for t in several]), latents=uses))
    return ranked(found, where=_where(data, rows), particles=particles, rungs=rungs, accuracy=accuracy)


def _uses(several: Sequence[_Trained], data: Any, rows: Split, seed: int) -> tuple[LatentUse, ...]:
    from ppl_vae.comparison.latents import latent_use

    return tuple(latent_use(one.model, one.guide, _all_splits(one, data), rows, seed) for one in several)


def _all_splits(one: _Trained, data: Any) -> Any:
    """The data set that rows are of, or the one that a pair was trained on, where it is there."""
    if isinstance(data, Data):
        return data
    own = getattr(one.origin, "data", None)
    try:
        own = own() if callable(own) else own
    except UserError:
        return data
    return own if isinstance(own, Data) else data


def judged(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    rows: Split,
    particles: int,
    rungs: Sequence[int],
    *,
    accuracy: float | None,
    seed: int,
) -> Evaluation:
    """The evaluation of a pair on rows, whose log p(x) is certified if there is an accuracy; grey levels drawn once."""
    rows = fixed(rows, seed)
    found = evaluate_rows(model, guide, rows, particles, iwae=rungs, seed=seed)
    if accuracy is None:
        return found
    return replace(found, certified=certify(model, guide, rows, accuracy, draws=1, seed=seed))


def ranked(
    pairs: Sequence[Compared],
    *,
    where: str,
    particles: int,
    rungs: Sequence[int],
    levels: Mapping[str, tuple[str, ...]] | None = None,
    failed: Mapping[str, str] | None = None,
    accuracy: float | None = None,
) -> Comparison:
    """A comparison of pairs that were judged on the same rows, best first; those without a number come last."""
    order = sorted(pairs, key=lambda pair: -_or_lowest(pair.estimate().value))
    count = len(order[0].rows())
    return Comparison(tuple(order), count, where, particles, tuple(rungs), levels or {}, failed or {}, accuracy)


def _or_lowest(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def size_of(model: Callable[..., Any], guide: Callable[..., Any]) -> tuple[int, int]:
    """How many numbers are learned in the model, and in the guide beside those."""
    pair = Pair(model, guide)
    own = {id(p): p.numel() for p in pair.model.parameters() if p.requires_grad}
    rest = {id(p): p.numel() for p in pair.guide.parameters() if p.requires_grad and id(p) not in own}
    return sum(own.values()), sum(rest.values())


# -- what was given ----------------------------------------------------------------------------------------


class _Trained(NamedTuple):
    model: Callable[..., Any]
    guide: Callable[..., Any]
    history: Sequence[Mapping[str, Any]]
    origin: Any


def _named(pairs: Mapping[str, Any] | Sequence[Any]) -> Mapping[str, Any]:
    if isinstance(pairs, list | tuple) and pairs and all(hasattr(one, "history") for one in pairs):
        found: dict[str, Any] = {}
        for one in pairs:
            words = [getattr(p, "__name__", type(p).__name__) for p in (one.model, one.guide)]
            name = ", ".join([" with ".join(words), *([str(one.bound)] if hasattr(one, "bound") else [])])
            same = sum(known == name or known.startswith(f"{name} (") for known in found)
            found[f"{name} ({same + 1})" if same else name] = one
        return found
    if not isinstance(pairs, Mapping) or not pairs:
        raise UserError(f"pairs: expected a dict of (model, guide) by name, got {type(pairs).__name__} {pairs!r:.60}")
    return pairs


def _trained(name: str, value: Any) -> list[_Trained]:
    if isinstance(value, list):
        if not value:
            raise UserError(f"pair {name!r}: expected at least one training in the list, got none")
        return [each for one in value for each in _trained(name, one)]
    if isinstance(value, tuple) and len(value) == 2 and all(map(callable, value)):
        return [_Trained(*value, (), None)]
    if callable(getattr(value, "model", None)) and callable(getattr(value, "guide", None)):
        return [_Trained(value.model, value.guide, getattr(value, "history", ()), value)]
    raise UserError(
        f"pair {name!r}: expected (model, guide), the result of fit, an opened run, or a list of these for several "
        f"seeds, got {type(value).__name__}"
    )


def _numbered(name: str, one: _Trained, several: Sequence[_Trained]) -> str:
    return name if len(several) == 1 else f"{name} (seed {several.index(one)})"


def _schema(trained: Mapping[str, Sequence[_Trained]]) -> Any:
    return next((s for several in trained.values() for t in several if (s := getattr(t.model, "schema", None))), None)


def fixed(split: Split, seed: int) -> Split:
    """The rows with their grey levels drawn once, so that every pair sees the same."""
    if not split.draws:
        return split
    generator = torch.Generator(split.device).manual_seed(seed)
    return Split(split.schema, split.name, split.batch(None, generator), frozenset(), split.hidden)


def _where(data: Any, rows: Split) -> str:
    """What the rows are called."""
    if rows.name == "rows":
        return "rows"
    return f"{rows.name} rows of {data.name}" if isinstance(data, Data) else f"{rows.name} rows"


@contextmanager
def _of(name: str) -> Iterator[None]:
    """What is refused is said with the name of the pair."""
    try:
        yield
    except UserError as error:
        kind = NoDensity if isinstance(error, NoDensity) else UserError
        raise kind(f"pair {name!r}: {error}") from error


def pace(histories: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[float | None, float | None]:
    """Seconds per epoch, the median over all epochs, and epochs, the mean over trainings."""
    seconds = [r["seconds"] for history in histories for r in history if r.get("seconds") is not None]
    counts = [len(history) for history in histories]
    return (median(seconds) if seconds else None), (sum(counts) / len(counts) if all(counts) else None)
