"""Posterior collapse: which latents tell rows apart, how much they say, and where their aggregate lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.data.convert import missing_in
from ppl_vae.diagnostics._collapse.aggregate import MeanOverDraws
from ppl_vae.diagnostics._collapse.surgery import NOTHING, surgery
from ppl_vae.diagnostics._collapse.usage import Column, estimate, prior_moments, used
from ppl_vae.diagnostics._common.simulation import contiguous, resampled, specific
from ppl_vae.display import Displayed
from ppl_vae.display.working import shows_progress, tracked
from ppl_vae.errors import UserError, check_whole
from ppl_vae.evaluation.joint_weights import shares_latents
from ppl_vae.evaluation.means import standard_error
from ppl_vae.evaluation.passes import Passes, passes
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.prediction.latents import ACTIVE
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results

__all__ = ["Collapse", "Usage", "collapse"]

_PARTS = ("mutual_information", "mutual_information_most", "marginal_kl", "marginal_kl_least")
_ENDS = (("", "value"), ("_se", "se"))

FEW = 0.1
"""Nats that may be noise."""


@dataclass(frozen=True)
class Usage:
    """How a discrete latent is used: q(y) = mean_i q(y | x_i), [level], and what it says of a row, I(x; y) in nats."""

    usage: Float[Tensor, " level"]
    information: float

    @property
    def effective(self) -> float:
        """exp of the entropy of q(y): how many classes are in use."""
        return float(torch.special.entr(self.usage).sum().exp())

    @property
    def used(self) -> int:
        """How many classes have at least a tenth of an equal share."""
        return int((self.usage > 0.1 / len(self.usage)).sum())


@dataclass(frozen=True, repr=False)
class Collapse(Displayed):
    """What `collapse` found, of the rows that it looked at; information and divergences in nats.

    Attributes:
        rows: how many.
        names: entries of the latents that are numbers.
        sites: of each entry the site.
        activity: Var_x E_q[z | x] as a share of the prior variance, [latent]: 0 if z ignores x.
        activity_se: its standard error over rows.
        kl: KL(q(z_i | x) || p(z_i)), mean over rows, [latent]; nan where q and p do not factorise into entries.
        shift: mean of the aggregate posterior less that of the prior, in prior deviations, [latent].
        spread: its deviation as a multiple of the prior's, [latent].
        site_kl: KL(q(z | x) || p(z)) of each draw of the guide, by site (joint draws under one name), mean over rows.
        mutual_information: I_q(x; z) between a row and all of its latents, from below: the row itself is one of the
            components of q(z). At most `ceiling`; of these rows taken as the whole population it is the very number.
        mutual_information_most: I_q(x; z) from above: q(z) is the mixture of the other rows.
        marginal_kl: KL(q(z) || p(z)) of the aggregate posterior, what is left of the KL without I_q(x; z); from above.
        marginal_kl_least: the same from below.
        total_correlation: KL(q(z) || prod_i q(z_i)) by site.
        classes: latents that are classes, by entry.
        notes: what could not be computed, a line each.

    Example:
        >>> from ppl_vae.programs.toy import model, posterior as guide
        >>> found = collapse(model, guide, torch.linspace(-2, 2, 9))
        >>> found.names, bool(found.kl[0] > 0), found.collapsed
        (('z',), True, ())
    """

    rows: int
    names: tuple[str, ...]
    sites: tuple[str, ...]
    activity: Float[Tensor, " latent"]
    activity_se: Float[Tensor, " latent"]
    kl: Float[Tensor, " latent"]
    shift: Float[Tensor, " latent"]
    spread: Float[Tensor, " latent"]
    site_kl: Mapping[str, MeanOverDraws]
    mutual_information: MeanOverDraws
    mutual_information_most: MeanOverDraws
    marginal_kl: MeanOverDraws
    marginal_kl_least: MeanOverDraws
    total_correlation: Mapping[str, MeanOverDraws]
    classes: Mapping[str, Usage]
    notes: tuple[str, ...] = ()

    @property
    def active(self) -> Bool[Tensor, " latent"]:
        """Latents whose activity is above 0.01 (Burda et al. 2016)."""
        return self.activity > ACTIVE

    @property
    def ceiling(self) -> float:
        """log N: no estimate of I_q(x; z) from N rows is above it."""
        return math.log(self.rows)

    @property
    def rate(self) -> float:
        """KL(q(z | x) || p(z)) of all latents together, mean over rows; nan where it is not known."""
        return sum(kl.value for kl in self.site_kl.values()) if self.site_kl else math.nan

    @property
    def information(self) -> tuple[float, float]:
        """The least and the most that I_q(x; z) may be: it is no more than the KL either."""
        most = self.mutual_information_most.value
        return self.mutual_information.value, min(most, self.rate) if self.site_kl else most

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Sites that say nothing about a row: no entry is active, and no KL pays for information of another kind."""
        mute = not self.mutual_information.value > FEW
        silent = [
            site
            for site in dict.fromkeys(self.sites)
            if not bool(self.active[[other == site for other in self.sites]].any())
            and (mute or not self.site_kl.get(site, NOTHING).value > FEW)
        ]
        return (*silent, *(n for n, c in self.classes.items() if c.information <= ACTIVE and len(c.usage) > 1))

    @property
    def verdict(self) -> str:
        """What this means, in plain words, and what to try."""
        from ppl_vae.diagnostics._collapse.verdict import collapse_verdict

        return collapse_verdict(self)

    def summary(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, by what they are."""
        columns = ("activity", "activity_se", "kl", "shift", "spread")
        latents = [
            {"name": name, "active": bool(on), **{c: _plain(float(getattr(self, c)[i])) for c in columns}}
            for i, (name, on) in enumerate(zip(self.names, self.active, strict=True))
        ]
        return {
            "rows": self.rows,
            "verdict": self.verdict,
            "active": int(self.active.sum()),
            "collapsed": list(self.collapsed),
            "latents": latents,
            "site_kl": {name: _plain(kl.value) for name, kl in self.site_kl.items()},
            "site_kl_se": {name: _plain(kl.se) for name, kl in self.site_kl.items()},
            **{name + end: _plain(getattr(getattr(self, name), of)) for name in _PARTS for end, of in _ENDS},
            "ceiling": self.ceiling,
            "total_correlation": {name: _plain(found.value) for name, found in self.total_correlation.items()},
            "classes": {
                name: {"usage": c.usage.tolist(), "information": c.information, "effective": c.effective}
                for name, c in self.classes.items()
            },
            "notes": list(self.notes),
        }

    def figure(self) -> Any:
        """The KL of every latent, largest first; the decomposition of the KL; how classes are used."""
        from ppl_vae.diagnostics._collapse.plot import collapse_figure

        return collapse_figure(self)


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


@takes_results
@exclusive
@shows_progress
def collapse(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    rows: int = 1000,
    draws: int = 32,
    seed: int = 0,
    progress: Any = "auto",
) -> Collapse:
    """Which latents are in use, and what they cost and say: active units, KL, I_q(x; z), aggregate posterior.

    KL(q(z | x) || p(z)), averaged over rows, is I_q(x; z) + KL(q(z) || p(z)) with q(z) = (1/N) sum_i q(z | x_i): what z
    says of the row, and what the aggregate posterior is away from the prior. q(z) is evaluated at one draw of each row,
    as the mixture of all N rows, with which I_q is at most log N and for rows from a population on average too small,
    and as the mixture of the other rows, with which it is on average too large. More rows bring the two together.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        data: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`). Where a
            label is present in some rows only, the others are looked at.
        rows: at most so many, drawn at random: q(z) takes time that grows with their square.
        draws: from the guide for each row.
        seed: of all draws; the global generators are left alone.
        progress: "auto" shows a bar on a terminal and in a notebook where it takes more than a second, True elsewhere,
            too, False nothing; a function is told how many steps are done, and of how many.

    Raises:
        UserError: for programs that break the contract, latents shared by all rows, no latents that the guide draws,
            or counts below 2.
        NoDensity: for points and improper priors.

    Source: Burda et al. 2016, arXiv 1509.00519 (active units); Hoffman & Johnson 2016, ELBO surgery, NIPS workshop;
    Chen et al. 2018, arXiv 1802.04942 (total correlation); Poole et al. 2019, arXiv 1905.06922 (both sides of I_q).

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> def model(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z[..., 0], 0.5), obs=x)
        >>> def guide(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         loc, scale = torch.stack([0.8 * x, 0 * x], -1), torch.tensor([0.45, 1.0])
        ...         pyro.sample("z", dist.Normal(loc, scale).to_event(1))
        >>> found = collapse(model, guide, 1.1 * torch.randn(300, generator=torch.manual_seed(0)))
        >>> found.active
        tensor([ True, False])
    """
    rows, draws = check_whole("rows", rows, 2), check_whole("draws", draws, 2)
    pair = Pair(model, guide)
    split = rows_of(model, guide, data, rows_for="collapse").to(pair.device)
    if len(split) < 2:
        raise UserError("collapse compares rows with each other, and got one: pass more")
    if shares_latents(pair, split):
        raise UserError(
            "latents that all rows share have one posterior and are no codes of rows, and what rows have of their own "
            "has another prior for each of its draws: see the contraction in ppl_vae.posterior(...).summary(), and for "
            "codes make what is shared a parameter"
        )
    with passes(pair, split, draws, seed=seed) as plan:
        if not specific(plan.structure):
            raise UserError("the guide draws no latent of the model, so that there is nothing to collapse")
        chosen, notes = _alike(plan, rows, seed)
        plan = replace(plan, split=chosen)
        batches = [contiguous(batch) for batch in plan.batches()]
        return _collected(pair, plan, batches, notes)


def _alike(plan: Passes, rows: int, seed: int) -> tuple[Split, list[str]]:
    """Rows that all have the same latents: those without a label, where some have one."""
    split, notes = plan.split, []
    for name, what in plan.structure.holes.items():
        if what == "held" and name in split.schema:
            gone = missing_in(split.schema[name].kind, split[name]).reshape(len(split), -1).any(1)
            if bool(gone.any()) and not bool(gone.all()):
                notes.append(f"{int((~gone).sum())} rows in which {name} is observed are left out")
                split = split.rows(gone.nonzero().squeeze(1))
            elif not bool(gone.any()):
                notes.append(f"{name} is observed in all rows and so no latent")
    return (resampled(split, rows, seed) if len(split) > rows else split), notes


def _collected(pair: Pair, plan: Passes, batches: list[dict[str, Tensor]], notes: list[str]) -> Collapse:
    structure, rows = plan.structure, len(plan.split)
    uses = [used(pair, structure, batch, plan.sizes()) for batch in tracked(batches, "coding")]
    prior = prior_moments(pair, structure, batches)
    numbers = [name for name in uses[0].columns if name in prior]
    tables = [_table([use.columns[name] for use in uses], *prior[name], plan.particles) for name in numbers]
    names = {name: use.names for name, use in uses[0].columns.items()}
    parts = surgery(pair, structure, batches)
    rates = {} if structure.summed_model else uses[0].rates
    return Collapse(
        rows=rows,
        names=tuple(entry for name in numbers for entry in names[name]),
        sites=tuple(name for name in numbers for _ in names[name]),
        **{what: torch.cat([t[what] for t in tables]) if tables else torch.zeros(0) for what in _TABLE},
        site_kl={name: estimate([use.rates[name] for use in uses], plan.particles) for name in rates},
        mutual_information=parts.information,
        mutual_information_most=parts.information_most,
        marginal_kl=parts.marginal,
        marginal_kl_least=parts.marginal_least,
        total_correlation=parts.correlation,
        classes=_classes([use.columns for use in uses], names, plan.particles),
        notes=(*notes, *parts.notes),
    )


_TABLE = ("activity", "activity_se", "kl", "shift", "spread")


def _table(parts: list[Column], centre: Tensor, deviation: Tensor, draws: int) -> dict[str, Tensor]:
    """The numbers of one site's entries, [entry] each."""
    scale = deviation.clamp(min=1e-12)
    first, second = (torch.cat([p.halves[i] / p.counts[i] for p in parts]) / scale for i in (0, 1))
    product = (first - first.mean(0)) * (second - second.mean(0))  # halves: the noise of the draws is no activity
    rows = len(product)
    mean, square = (torch.cat([getattr(p, what) for p in parts]).mean(0) / draws for what in ("total", "square"))
    kl = [p.kl for p in parts]
    return {
        "activity": product.sum(0) / (rows - 1),
        "activity_se": standard_error(product),
        "kl": torch.full_like(centre, math.nan) if kl[0] is None else torch.cat(kl).mean(0) / draws,
        "shift": (mean - centre) / scale,
        "spread": (square - mean.square()).clamp(min=0).sqrt() / scale,
    }


def _classes(parts: list[dict[str, Column]], names: Mapping[str, list[str]], draws: int) -> dict[str, Usage]:
    found = {}
    for site, first in parts[0].items():
        if isinstance(first.probs, Tensor):
            probs = torch.cat([columns[site].probs for columns in parts]) / draws  # [row, entry, level]
            usage = probs.mean(0)
            information = torch.special.entr(usage).sum(-1) - torch.special.entr(probs).sum(-1).mean(0)
            for i, name in enumerate(names[site]):
                found[name] = Usage(usage[i], max(0.0, float(information[i])))
    return found
