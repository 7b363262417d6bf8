"""Each entry of a row under its prediction from the row's other entries: LOO-PIT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.diagnostics._common.features import is_nominal
from ppl_vae.diagnostics._common.multiple_tests import holm
from ppl_vae.diagnostics._criticism.held_out import held_out
from ppl_vae.diagnostics._criticism.left_out import left_out, refuse_field
from ppl_vae.diagnostics._criticism.uniformity import Uniformity, uniformity
from ppl_vae.display import Displayed
from ppl_vae.display.working import shows_progress, tracked
from ppl_vae.errors import UserError
from ppl_vae.evaluation.joint_weights import shares_latents
from ppl_vae.evaluation.passes import FLOATS_AT_ONCE, passes
from ppl_vae.evaluation.shared_draws import AT_ONCE
from ppl_vae.prediction.sharing import HasShared, posterior_draws
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LooPIT", "loo_pit"]

LEVEL = 0.05

MOST_UNRELIABLE = 0.1

FEWEST = 25
"""Fewer effective particles leave an error of more than 0.1 in u."""

COLUMNS = 100
"""With more entries a row, single ones are not tested."""


@dataclass(frozen=True, repr=False)
class LooPIT(Displayed):
    """What `loo_pit` found: u of every entry, uniform on [0, 1] if the model is right; NaN where entries are missing.

    `ess` is the effective number of particles behind each u, whose Monte Carlo error is at most 1 / (2 sqrt(ess)), and
    `khat` the tail index of the weights that leave the entry out: above 1 they have no mean, and more particles do not
    help. u is a share, between 0 and 1 whatever the weights, so that a k-hat of 0.7 does it no harm. `randomised` says
    that values are discrete, so that u is drawn between P(X < x) and P(X <= x). `names` are those of the entries of a
    row, where they have any; `rows` are the places of the rows in the data.

    Example:
        >>> u = torch.rand(500, 2, generator=torch.manual_seed(1))
        >>> found = LooPIT("x", 0.5 + 0.8 * (u - 0.5), 0 * u, 0 * u + 100, particles=100)
        >>> found.p_value < 0.01, found.shape
        (True, 'too wide')
    """

    field: str
    u: Float[Tensor, "row ..."]
    khat: Float[Tensor, "row ..."]
    ess: Float[Tensor, "row ..."]
    particles: int
    randomised: bool = False
    names: tuple[str, ...] = ()
    seed: int = 0
    rows: Int[Tensor, " row"] | None = None

    @cached_property
    def overall(self) -> Uniformity:
        """The test over all entries; rows are taken to be independent, the entries of a row not."""
        return uniformity(self._entries(), seed=self.seed)

    @property
    def p_value(self) -> float:
        """Of the hypothesis that all u are uniform."""
        return self.overall.p_value

    @cached_property
    def by_entry(self) -> dict[str, float]:
        """p-values of single entries of a row, corrected for their number (Holm); none if they are more than 100."""
        entries = self._entries()
        if not 1 < entries.shape[1] <= COLUMNS:
            return {}
        names = self.names if len(self.names) == entries.shape[1] else tuple(map(str, range(entries.shape[1])))
        seen = [j for j in range(entries.shape[1]) if bool((~entries[:, j].isnan()).any())]
        found = [uniformity(entries[:, j : j + 1], draws=9999, seed=self.seed).p_value for j in seen]
        return dict(zip([names[j] for j in seen], holm(found), strict=True))

    @property
    def unreliable(self) -> float:
        """The share of entries whose u rests on too few particles, fewer than 25, or on weights without a mean."""
        seen = ~self.u.isnan()
        return float(((self.khat > 1) | (self.ess < FEWEST))[seen].double().mean())

    @property
    def shape(self) -> str:
        """In which way u is not uniform, by the larger of two deviations: "too narrow", "too wide", "low", "high".

        Predictions are too narrow where u gathers at both ends, too wide where it gathers in the middle; they are too
        low where values are above them. Standard errors are over rows.
        """
        u = self._entries()
        seen = (~u.isnan()).sum()
        middle, spread = ((u - 0.5).nan_to_num(0.0), ((u - 0.5).square() - 1 / 12).nan_to_num(0.0))
        a, b = (v.sum(1) / seen for v in (middle, spread))
        z, w = (float(v.sum() / v.square().sum().sqrt().clamp(min=1e-12)) for v in (a, b))
        if abs(z) > abs(w):
            return "too low" if z > 0 else "too high"
        return "too narrow" if w > 0 else "too wide"

    def coverage(self, mass: float = 0.9) -> tuple[float, float]:
        """The share of entries inside their central predictive interval of this mass, and its standard error."""
        u = self._entries()
        seen = ~u.isnan()
        inside = ((u - 0.5).abs() <= mass / 2).double()
        share = float(inside[seen].mean())
        error = (inside - share).masked_fill(~seen, 0.0).sum(1).square().sum().sqrt() / seen.sum()
        return share, float(error)

    def _entries(self) -> Tensor:
        return self.u.reshape(len(self.u), -1)

    def summary(self) -> dict[str, Any]:
        """Plain numbers: the p-value, coverage of intervals, k-hat, and p-values of single entries."""
        found: dict[str, Any] = {"field": self.field, "rows": len(self.u), "entries": int((~self.u.isnan()).sum())}
        found |= {"particles": self.particles, "randomised": self.randomised, "p_value": self.p_value}
        found |= {"shape": self.shape if self.p_value < LEVEL else "uniform"}
        for mass in (0.5, 0.9):
            found[f"coverage_{mass:g}"], found[f"coverage_{mass:g}_se"] = self.coverage(mass)
        seen = ~self.u.isnan()
        found |= {"ess_median": float(self.ess[seen].median()), "khat_median": float(self.khat[seen].median())}
        return found | {"unreliable": self.unreliable, "entries_p_adjusted": dict(self.by_entry)}

    @property
    def verdict(self) -> str:
        """Whether entries are predicted with the right spread from the others of their row, and what to try."""
        if self.unreliable > MOST_UNRELIABLE:
            return (
                f"Not to be believed yet: in {100 * self.unreliable:.0f} % of the entries of field {self.field!r} "
                f"predictions rest on fewer than {FEWEST} effective particles. Take more particles, or a wider "
                f"or richer guide. As far as these go: {self._found()}"
            )
        return self._found()

    def _found(self) -> str:
        (share, error), p = self.coverage(), f"p = {self.p_value:.2g}"
        words = f"Intervals of 90 % hold {100 * share:.1f} ± {100 * error:.1f} % of the entries of field {self.field!r}"
        if self.p_value >= LEVEL:
            words += f", and predictions of entries from the others of their row are calibrated ({p})."
        else:
            words += f": predictions from the other entries of a row are {self.shape} ({p}). {self._try()}"
        off = [name for name, p in self.by_entry.items() if p < LEVEL]
        if off:
            rest = f" and {len(off) - 5} more" if len(off) > 5 else ""
            words += f" Individually miscalibrated entries: {', '.join(off[:5])}{rest}."
        return words

    def _try(self) -> str:
        return {
            "too narrow": "Try a likelihood with a larger or learned scale, or heavier tails.",
            "too wide": "Try a likelihood with a smaller or learned scale, or more latents.",
        }.get(self.shape, "Try a skewed likelihood, a transform of the field, or a decoder with more capacity.")

    def figure(self) -> Figure:
        """The distribution function of u minus that of a uniform one, with its band."""
        from ppl_vae.diagnostics._criticism.plot_loo_pit import figure

        return figure(self)


@takes_results
@exclusive
@shows_progress
def loo_pit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    field: str = "x",
    *,
    particles: int = 1000,
    rows: int = 1000,
    posterior: HasShared | None = None,
    seed: int = 0,
    progress: Any = "auto",
) -> LooPIT:
    """The probability integral transform of every entry under its prediction from the other entries of its row.

    u_ij = P(X_ij <= x_ij | x_i without x_ij). With z_k ~ q(z | x_i), weights that leave the entry out are
    w_k = p(x_i, z_k) / (q(z_k | x_i) p(x_ij | z_k)), Pareto smoothed and normalised, and
    u = sum_k w_k P(X <= x_ij | z_k). It is exact as K grows, whatever the guide, so that it judges the model. Held-out
    rows are out of sample for the parameters already; an entry is not for its own latents, and is left out here.
    Discrete values are randomised: u is uniform between P(X < x) and P(X <= x). Where a likelihood has no distribution
    function, its draws are compared. Rows that are known to be outliers are left out.

    Args:
        model: p(z) p(x | z), with entries that are independent given latents.
        guide: q(z | x), the proposal.
        data: rows that the pair was not trained on: a data set (its test split), a split, a dict of arrays by field
            name, or one array (field `x`).
        field: whose entries are judged.
        particles: draws of z for each row, K.
        rows: at most; of more, as many are chosen at random, see `LooPIT.rows`.
        posterior: where latents are shared by all rows, their draws given the rows of training, as
            `ppl_vae.posterior` has them; a row's own latents are drawn given each, and weighed with the row's entries.
        seed: of all draws; the global generators are left alone.
        progress: "auto" shows a bar on a terminal and in a notebook where it takes more than a second, True elsewhere,
            too, False nothing; a function is told how many steps are done, and of how many.

    Raises:
        UserError: for a field without an order, one that the model does not observe or makes other fields from, entries
            that are not independent given latents, shared latents without a posterior, and what `evaluate` refuses.

    Source: Gelfand, Dey & Chang 1992; Czado, Gneiting & Held 2009 (discrete values); Vehtari, Gelman & Gabry 2017,
    arXiv 1507.04544 (by importance weights).

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> def model(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 2), 0.5).to_event(1), obs=x)
        >>> def posterior(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(4 * x.sum(-1) / 9, 1 / 3))
        >>> rows = torch.randn(200, 1) + 0.5 * torch.randn(200, 2)
        >>> loo_pit(model, posterior, rows).p_value > 0.05, loo_pit(model, posterior, 1.5 * rows).shape
        (True, 'too narrow')
    """
    pair = Pair(model, guide)
    split, places = held_out(model, guide, data, rows, seed)
    split = split.to(pair.device)
    about = split.schema[field]
    if is_nominal(about):
        raise UserError(
            f"field {field!r} has categories without an order, of which no value is below another: ask for another "
            "field, or see ppl_vae.predict for its probabilities"
        )
    most = min(particles, AT_ONCE) if shares_latents(pair, split) else None
    with passes(pair, split, particles, seed=seed, at_once=most) as plan:
        shared = posterior_draws(plan.structure.global_latents, particles, posterior, "LOO-PIT")
        refuse_field(pair, plan, about)
        # all particles of a row are needed at once: weights, densities and distribution functions of its entries
        at_once = max(1, min(plan.rows, FLOATS_AT_ONCE // (6 * particles * about.size)))
        batches = [split.batch(slice(start, start + at_once)) for start in range(0, len(split), at_once)]
        whole = [{n: v.contiguous() for n, v in batch.items()} for batch in batches]
        parts = [left_out(pair, plan, about, batch, shared) for batch in tracked(whole, "leaving out")]
    u, tails, ess = (torch.cat(column).cpu() for column in zip(*(p[:3] for p in parts), strict=True))
    return LooPIT(field, u, tails, ess, particles, any(p[3] for p in parts), about.names, seed, places)
