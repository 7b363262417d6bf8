"""Replicated data against the data: in which statistics a model does not make rows like the held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import Field, Split
from ppl_vae.diagnostics._common.features import with_gaps
from ppl_vae.diagnostics._criticism.held_out import held_out
from ppl_vae.diagnostics._criticism.replicas import FromGuide, FromPrior, Rows
from ppl_vae.diagnostics._criticism.statistics import defaults, of_pairs
from ppl_vae.display import Displayed
from ppl_vae.display.working import shows_progress, tracked
from ppl_vae.errors import UserError, check_whole, shown, unknown_name
from ppl_vae.evaluation.joint_weights import shares_latents
from ppl_vae.evaluation.passes import judging, passes, refuse_endless
from ppl_vae.prediction.sharing import HasShared, posterior_draws
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PredictiveCheck", "predictive_check"]

KINDS = ("prior", "posterior")

LEVEL = 0.05


@dataclass(frozen=True, repr=False)
class PredictiveCheck(Displayed):
    """What `predictive_check` found: statistics of the data, and of every replicated data set.

    `p_values` are two-sided, min(1, 2 min(P(T_rep >= T), P(T_rep <= T))), where the data count among the replicas and
    ties count in both tails, so that they are never too small: with D replicas at least 2 / (1 + D). `adjusted` are
    corrected for the number of statistics by the largest deviation over all of them (Westfall and Young's maxT), which
    takes account of their dependence: with D replicas at least 1 / (1 + D).

    Example:
        >>> found = PredictiveCheck(("mean",), torch.tensor([4.0]), torch.randn(99, 1), "prior", rows=10)
        >>> [round(float(v), 2) for v in (found.p_values[0], found.adjusted[0])]
        [0.02, 0.01]
    """

    names: tuple[str, ...]
    observed: Float[Tensor, " statistic"]
    replicated: Float[Tensor, "draw statistic"]
    kind: str
    rows: int

    @property
    def p_values(self) -> Float[Tensor, " statistic"]:
        """Two-sided, of each statistic by itself."""
        above = (self.replicated >= self.observed).sum(0)
        below = (self.replicated <= self.observed).sum(0)
        return (2.0 * (1 + torch.minimum(above, below)) / (1 + len(self.replicated))).clamp(max=1.0)

    @property
    def adjusted(self) -> Float[Tensor, " statistic"]:
        """Two-sided, of all statistics together."""
        every = torch.cat([self.observed.unsqueeze(0), self.replicated])
        middle, spread = every.mean(0), every.std(0)
        off = ((every - middle).abs() / torch.where(spread > 0, spread, 1.0)).nan_to_num()
        largest = off.max(1).values
        # the same sums in another order may differ in the last digit
        return (largest.unsqueeze(1) >= off[0] * (1 - 1e-9)).double().mean(0)

    @property
    def p_value(self) -> float:
        """Of the hypothesis that the data are like the replicas in every statistic."""
        return float(self.adjusted.min())

    @property
    def deviations(self) -> Float[Tensor, " statistic"]:
        """How far the data are from the mean of the replicas, in deviations of these."""
        spread = self.replicated.std(0)
        return (self.observed - self.replicated.mean(0)) / torch.where(spread > 0, spread, 1.0)

    def summary(self) -> dict[str, Any]:
        """Plain numbers: for every statistic its value, the replicas' mean and deviation, and both p-values."""
        columns = {
            "observed": self.observed,
            "mean": self.replicated.mean(0),
            "sd": self.replicated.std(0),
            "p": self.p_values,
            "p_adjusted": self.adjusted,
        }
        table = {name: {key: float(v[i]) for key, v in columns.items()} for i, name in enumerate(self.names)}
        return {
            "kind": self.kind,
            "rows": self.rows,
            "draws": len(self.replicated),
            "p_value": self.p_value,
            "statistics": table,
        }

    @property
    def verdict(self) -> str:
        """In which statistics the data differ from the replicated data sets."""
        made = "rows that the model makes" + ("" if self.kind == "prior" else " from the latents of the very rows")
        off = [i for i in self.deviations.abs().argsort(descending=True).tolist() if self.adjusted[i] < LEVEL]
        if not off:
            return (
                f"In none of {len(self.names)} statistics do {self.rows:,} held-out rows differ from {made} "
                f"(p = {self.p_value:.2g}, all together)."
                + (" These p-values are conservative." if self.kind == "posterior" else "")
            )
        said = [
            f"{self.names[i]} is {self.observed[i]:.3g}, of replicas {self.replicated[:, i].mean():.3g} ± "
            f"{self.replicated[:, i].std():.2g}"
            for i in off[:3]
        ]
        advice = (
            "If single entries are too noisy or too smooth, try another likelihood; if samples are too similar, use a "
            "learned prior or more latents"
            if self.kind == "prior"
            else "Try another likelihood, more capacity of the decoder, or a richer guide: the prior matters little"
        )
        return (
            f"In {len(off)} of {len(self.names)} statistics held-out rows differ from {made} "
            f"(p = {self.p_value:.2g}, all together): {'; '.join(said)}. {advice}."
        )

    def figure(self) -> Figure:
        """The replicas' distribution of the statistics that are furthest off, and the data."""
        from ppl_vae.diagnostics._criticism.plot_predictive_check import figure

        return figure(self)


@takes_results
@exclusive
@shows_progress
def predictive_check(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    statistics: Mapping[str, Any] | None = None,
    *,
    draws: int = 500,
    kind: Literal["prior", "posterior"] = "prior",
    rows: int = 1000,
    posterior: HasShared | None = None,
    seed: int = 0,
    progress: Any = "auto",
) -> PredictiveCheck:
    """Compare statistics of held-out rows with those of data sets of as many rows that the model makes.

    "prior" makes new rows, x ~ p(x | z), z ~ p(z): whether the model's population is that of the data. Then the data
    are one more replica under the null, and the p-values are exact. "posterior" makes each row anew from its own
    latents, x ~ p(x | z), z ~ q(z | x_i): whether the likelihood and the pair describe single rows. Here a row is used
    twice, and the p-values are conservative: under the null they gather at 1/2 and are seldom small (Gelman 2013,
    Bayarri & Berger 2000), so that a small one is to be believed and a large one says little.

    Conditions and missing entries of replicas are those of the rows; missing entries are skipped. Replicas are draws,
    never means. Rows that are known to be outliers are left out.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x); not used for kind "prior".
        data: rows that the pair was not trained on: a data set (its test split), a split, a dict of arrays by field
            name, or one array (field `x`).
        statistics: functions of the rows [row, *S] of the field (floats, missing entries NaN) by name, each to one
            number; of several fields a mapping from field names to such mappings. None: by the kinds of the fields,
            see `ppl_vae.diagnostics._criticism.statistics.defaults`.
        draws: replicated data sets, D.
        kind: "prior" or "posterior".
        rows: at most; of more, as many are chosen at random.
        posterior: where latents are shared by all rows, their draws given the rows of training, as
            `ppl_vae.posterior` has them. Each replicated data set has one draw, the same for all rows; with kind
            "prior" the held-out rows are then one more replica, as without shared latents.
        seed: of the draws; the global generators are left alone.
        progress: "auto" shows a bar on a terminal and in a notebook where it takes more than a second, True elsewhere,
            too, False nothing; a function is told how many steps are done, and of how many.

    Raises:
        UserError: for an unknown kind or field, draws < 2, statistics that are not finite numbers, shared latents
            without a posterior, and what `evaluate` refuses.

    Source: Rubin 1984; Gelman, Meng & Stern 1996; Gelman 2013 (two-sided, conservative); Westfall & Young 1993 (maxT).

    Example:
        >>> from ppl_vae.programs.toy import model, posterior
        >>> rows = 1 + 2**0.5 * torch.randn(200, generator=torch.manual_seed(0))
        >>> found = predictive_check(model, posterior, rows, {"mean": torch.mean, "sd": torch.std}, draws=99)
        >>> (found.adjusted < 0.05).tolist()
        [True, False]
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown_name("kind of replicas", kind, KINDS)
    draws = check_whole("draws", draws, 2)
    pair = Pair(model, guide)
    split = held_out(model, guide, data, rows, seed)[0].to(pair.device)
    refuse_endless("draws", draws, len(split))
    with _replicas(pair, split, kind, draws, posterior, seed) as replicas:
        wanted, seen = _wanted(statistics, replicas.fields), replicas.observed
        if statistics is None:  # of a column without entries, or of a single row, there is no deviation
            wanted = {name: how for name, how in wanted.items() if bool(torch.isfinite(torch.as_tensor(how(seen))))}
        observed = _values(wanted, seen, "the rows")
        made = tracked(replicas.draws(draws), "replicating", draws)
        replicated = torch.stack([_values(wanted, rows, "replicated rows") for rows in made])
    return PredictiveCheck(tuple(wanted), observed, replicated, kind, len(split))


@contextmanager
def _replicas(
    pair: Pair, split: Split, kind: str, draws: int, posterior: HasShared | None, seed: int
) -> Iterator[FromPrior | FromGuide]:
    if kind == "prior" and posterior is None:
        with judging(pair, seed):
            yield FromPrior(pair.model, split)
        return
    shares = shares_latents(pair, split)
    with passes(pair, split, FLOCK, seed=seed, at_once=FLOCK if shares else None) as plan:
        shared = posterior_draws(plan.structure.global_latents, draws, posterior, "a data set that the model makes")
        yield FromPrior(pair.model, split, shared) if kind == "prior" else FromGuide(pair, plan, shared)


FLOCK = 64
"""How many draws of the latents of a row are made together, at most."""


def _wanted(statistics: Mapping[str, Any] | None, fields: tuple[Field, ...]) -> dict[str, Callable[[Rows], Any]]:
    """Every statistic by its full name, as a function of rows by field."""
    if statistics is None:
        found: dict[str, Callable[[Rows], Any]] = {}
        for field in fields:
            found |= {name: _of(field, how) for name, how in defaults(field).items()}
        return found | of_pairs(list(fields))
    if not isinstance(statistics, Mapping):
        raise UserError(f"statistics expects functions by name, got {shown(statistics)}")
    if not statistics:
        raise UserError("statistics expects functions by name, got none: leave it out for the usual ones")
    if all(callable(how) for how in statistics.values()):
        if len(fields) > 1:
            names = ", ".join(f.name for f in fields)
            raise UserError(
                f"the model makes fields {names}: name the one of the statistics, {{field: {{name: function}}}}"
            )
        return {name: _of(fields[0], how) for name, how in statistics.items()}
    found, known = {}, {f.name: f for f in fields}
    for name, several in statistics.items():
        if name not in known:
            raise unknown_name("field that the model makes", name, known)
        if not isinstance(several, Mapping):
            raise UserError(f"statistics of field {name!r} expect functions by name, got {type(several).__name__}")
        found |= {f"{name} {what}": _of(known[name], how) for what, how in several.items()}
    return found


def _of(field: Field, how: Callable[[Tensor], Any]) -> Callable[[Rows], Any]:
    return lambda rows: how(with_gaps(field, rows[field.name]).reshape(rows[field.name].shape))


def _values(wanted: Mapping[str, Callable[[Rows], Any]], rows: Rows, what: str) -> Tensor:
    found = []
    for name, how in wanted.items():
        try:
            value = torch.as_tensor(how(rows), dtype=torch.float64)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"statistic {name!r} fails on {what} ({reason}): it is given a tensor [row, ...]"
            ) from error
        if value.numel() != 1 or not bool(torch.isfinite(value).all()):
            came = f"shape {tuple(value.shape)}" if value.numel() != 1 else f"{value.item()}"
            raise UserError(
                f"statistic {name!r} expects one finite number, got {came} from {what}: skip missing entries"
            )
        found.append(value.reshape(()).cpu())
    return torch.stack(found)
