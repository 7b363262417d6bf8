"""Each entry of a row under its prediction from the row's other entries: LOO-PIT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.completion import completed
from ppl_vae.data import Field, as_split
from ppl_vae.data.convert import missing_in
from ppl_vae.diagnostics.cdf import at_most
from ppl_vae.diagnostics.features import is_nominal
from ppl_vae.diagnostics.several import holm
from ppl_vae.diagnostics.uniformity import Uniformity, uniformity
from ppl_vae.errors import ProgramError, UserError
from ppl_vae.filling import Target, observing
from ppl_vae.inversion import ancestors, dependencies
from ppl_vae.missing import Holes
from ppl_vae.moments import single
from ppl_vae.passes import FLOATS_AT_ONCE, Passes, passes
from ppl_vae.program import Pair
from ppl_vae.psis import khat, khat_limit, smooth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LooPIT", "loo_pit"]

LEVEL = 0.05

MOST_UNRELIABLE = 0.05

COLUMNS = 100
"""With more entries a row, single ones are not tested."""


@dataclass(frozen=True)
class LooPIT:
    """What `loo_pit` found: u of every entry, uniform on [0, 1] if the model is right; NaN where entries are missing.

    `khat` is the tail index of the weights that leave each entry out: above `khat_limit(particles)` its u rests on a
    few particles and cannot be believed. `randomised` says that values are discrete, so that u is drawn between
    P(X < x) and P(X <= x). `names` are those of the entries of a row, where they have any.

    Example:
        >>> u = torch.rand(500, 2, generator=torch.manual_seed(1))
        >>> found = LooPIT("x", 0.5 + 0.8 * (u - 0.5), torch.zeros(500, 2), particles=100)
        >>> found.p_value < 0.01, found.shape
        (True, 'too wide')
    """

    field: str
    u: Float[Tensor, "row ..."]
    khat: Float[Tensor, "row ..."]
    particles: int
    randomised: bool = False
    names: tuple[str, ...] = ()
    seed: int = 0

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
        """The share of entries whose k-hat is above its limit."""
        known = self.khat[~self.u.isnan()]
        return float((known > khat_limit(self.particles)).double().mean())

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
        known = self.khat[~self.u.isnan()]
        found |= {"khat_median": float(known.median()), "khat_limit": khat_limit(self.particles)}
        return found | {"unreliable": self.unreliable, "entries_p_adjusted": dict(self.by_entry)}

    @property
    def verdict(self) -> str:
        """Whether entries are predicted with the right spread from the others of their row, and what to try."""
        if self.unreliable > MOST_UNRELIABLE:
            return (
                f"Not to be believed yet: k-hat is above its limit in {100 * self.unreliable:.0f} % of the entries of "
                f"field {self.field!r}, where predictions rest on a few particles. Take more particles, or a wider "
                f"or richer guide. {self._found()}"
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
            words += f" By themselves, off are: {', '.join(off[:5])}{rest}."
        return words

    def _try(self) -> str:
        return {
            "too narrow": "Try a likelihood with a larger or learned scale, or heavier tails.",
            "too wide": "Try a likelihood with a smaller or learned scale, or more latents.",
        }.get(self.shape, "Try a skewed likelihood, a transform of the field, or a decoder with more capacity.")

    def figure(self) -> Figure:
        """The distribution function of u minus that of a uniform one, with its band."""
        from ppl_vae.diagnostics.plot_loo_pit import figure

        return figure(self)


def loo_pit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    field: str = "x",
    *,
    particles: int = 1000,
    seed: int = 0,
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
        seed: of all draws; the global generators are left alone.

    Raises:
        UserError: for a field without an order, one that the model does not observe or makes other fields from, entries
            that are not independent given latents, and what `evaluate` refuses.

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
    split = as_split(data, "test", getattr(model, "schema", None)).inliers().to(pair.device)
    about = split.schema[field]
    if is_nominal(about):
        raise UserError(
            f"field {field!r} has categories without an order, of which no value is below another: ask for another "
            "field, or see ppl_vae.predict for its probabilities"
        )
    with passes(pair, split, particles, seed=seed) as plan:
        _refuse(pair, plan, about)
        # all particles of a row are needed at once: weights, densities and distribution functions of its entries
        rows = max(1, min(plan.rows, FLOATS_AT_ONCE // (6 * particles * about.size)))
        batches = [split.batch(slice(start, start + rows)) for start in range(0, len(split), rows)]
        parts = [_some(pair, plan, about, {n: v.contiguous() for n, v in batch.items()}) for batch in batches]
    u, tails, discrete = zip(*parts, strict=True)
    return LooPIT(field, torch.cat(u).cpu(), torch.cat(tails).cpu(), particles, any(discrete), about.names, seed)


def _targets(pair: Pair, plan: Passes, field: Field, batch: dict[str, Tensor]) -> list[Target]:
    structure = plan.structure
    holes = Holes(structure.holes, structure.latents, batch)
    return [t for t in observing(pair.model, holes, structure.dim, plan.split.schema, batch) if t.name == field.name]


def _refuse(pair: Pair, plan: Passes, field: Field) -> None:
    """Raise for a field whose entries cannot be left out one by one."""
    batch = {n: v.contiguous() for n, v in plan.split.batch(slice(0, 4)).items()}
    targets = _targets(pair, plan, field, batch)
    if not targets:
        raise UserError(f"the model does not observe field {field.name!r}: ask for one that it generates")
    if held := [t.site for t in targets if plan.structure.holes.get(t.site) == "held"]:
        raise UserError(f"site {held[0]!r} is a latent in rows without it: see ppl_vae.predict for its probabilities")
    (sites,) = completed(pair, plan.structure, batch, 1).sites
    for target in targets:
        base = single(sites[target.site]["fn"])
        if base.event_dim:
            raise UserError(
                f"site {target.site!r} observes the entries of field {field.name!r} together, as a "
                f"{type(base).__name__}: LOO-PIT needs entries that are independent given latents, with .to_event()"
            )
    holes = Holes(plan.structure.holes, plan.structure.latents, batch)
    # a field from which others are made is found by treating it as a latent
    for target in targets:
        parents = dependencies(Holes({target.site: "held"}, [target.site], {})(holes(pair.model)), batch, [*sites])
        for other, site in sites.items():
            if site["is_observed"] and other != target.site and target.site in ancestors(other, parents):
                raise ProgramError(
                    target.site,
                    f"site {other!r} of the model depends on {target.site!r}, so that leaving an entry of field "
                    f"{field.name!r} out changes what is predicted there too",
                    "ask for the field of the last site",
                )


def _some(pair: Pair, plan: Passes, field: Field, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, bool]:
    """u and k-hat of some rows, [row, *S], and whether the values are discrete."""
    targets = _targets(pair, plan, field, batch)
    log_w: list[Tensor] = []
    found: list[list[list[Tensor]]] = [[[], [], []] for _ in targets]  # densities, P(X < x), P(X <= x)
    discrete = False
    for k in plan.sizes():
        particles = completed(pair, plan.structure, batch, k)
        log_w.append(particles.log_weight)
        for sites in particles.sites:
            for i, target in enumerate(targets):
                site = sites[target.site]
                base, value = single(site["fn"]), site["value"]
                low, high = at_most(base, value)
                discrete = discrete or bool(getattr(base.support, "is_discrete", False))
                for column, part in zip(found[i], (base.log_prob(value), low, high), strict=True):
                    column.append(target.each(part.expand(torch.broadcast_shapes(part.shape, value.shape))))
    weights = torch.cat(log_w)
    stored = batch[field.name]
    dtype = weights.dtype
    u = torch.full(stored.shape, torch.nan, dtype=dtype, device=stored.device)
    tails = u.clone()
    for i, target in enumerate(targets):
        low, high, tail = _left_out(weights, *(torch.cat(column).to(dtype) for column in found[i]))
        value = low + torch.rand(low.shape, dtype=dtype, device=low.device) * (high - low)
        for whole, part in ((u, value), (tails, tail)):
            place, inside = target.spread(part)
            whole.copy_(torch.where(inside, place, whole))
    gone = missing_in(field.kind, stored)
    return u.masked_fill(gone, torch.nan).clamp(0, 1), tails.masked_fill(gone, torch.nan), discrete


def _left_out(log_w: Tensor, log_p: Tensor, below: Tensor, upto: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Averages [row, ...] under weights that leave each entry out, and their k-hat; a thousand entries at a time."""
    shape = log_p.shape
    particles = shape[0]
    rows = log_w.reshape(*log_w.shape, *[1] * (log_p.dim() - 2)).expand(shape)
    ratios = (rows - log_p).reshape(particles, -1)
    columns = []
    for some, low, high in zip(*(v.reshape(particles, -1).split(1000, 1) for v in (ratios, below, upto)), strict=True):
        weight = smooth(some).softmax(0)
        columns.append(torch.stack([(weight * low).sum(0), (weight * high).sum(0), khat(some)]))
    low, high, tail = (v.reshape(shape[1:]) for v in torch.cat(columns, 1))
    return low, high, tail
