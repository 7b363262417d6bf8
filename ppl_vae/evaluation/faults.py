"""What makes joint weights uneven: which shared latents, what depends on what, or the noise of the rows' own draws.

The variance of log w under the guide is taken apart by least squares. A normal guide of the wrong place or width of u
has log w linear and quadratic in u; one that misses a dependence has products u_i u_j; what the draws of the rows' own
latents add is known from their spread. Shares may overlap; what no square explains (skewness, a mode) is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.errors import Finding
from ppl_vae.evaluation.joint_weights import JointWeights
from ppl_vae.evaluation.shared_draws import SharedDraws
from ppl_vae.weights.psis import smooth

__all__ = ["Fault", "Missed", "Unseen", "faults_of", "in_words", "missed_by"]

MOST = 30
"""How many numbers have their products looked at."""

BIG = 0.2
"""A share of the variance of log w that is worth telling."""


@dataclass(frozen=True)
class Fault:
    """A part of the variance of log w under the guide.

    `what` is a site, "dependence" or "rows"; `share` of the variance, from 0 to 1. Of a site, the weights move the
    number that they move most by `shift` of the guide's deviations, and its deviation is `width` times the guide's,
    both too little where few draws have all the weight.
    """

    what: str
    share: float
    shift: float = 0.0
    width: float = 1.0


RARE, MISSED = 0.05, 0.05
"""Where the guide has less than this share of the density of what was drawn from it is blind; what is worth telling."""


@dataclass(frozen=True)
class Missed:
    """The share of the posterior where the guide has next to no draws, and the latent that is furthest off there."""

    share: float
    site: str
    low: bool

    @property
    def words(self) -> str:
        """In a clause."""
        return f"{self.share:.0%} of the posterior, where {self.site} is {'low' if self.low else 'high'}"

    def finding(self, sites: Sequence[str]) -> Finding:
        """About the guide of these sites."""
        return Finding(
            self.site,
            f"the guide of {', '.join(sites)} leaves out {self.words}: draws from beyond it are weighed in, so that "
            "evidence and weighted draws have it, but the ELBO and the guide's own draws have not",
            "read ppl_vae.posterior and pass it on (posterior=), or take a richer family; where a scale is near 0, "
            "write the model non-centred",
            "warning",
        )


@dataclass(frozen=True)
class Unseen:
    """Nothing could be drawn beyond the guide, and `why`: what it never draws, no weight can show."""

    why: str

    def finding(self, sites: Sequence[str]) -> Finding:
        """About the guide of these sites."""
        return Finding(
            None,
            f"only draws of the guide of {', '.join(sites)} are weighed ({self.why}), so that k-hat cannot see a part "
            "of the posterior that it never draws",
            "compare the log evidence with ppl_vae.diagnostics.annealed_evidence(..., start='prior')",
            "warning",
        )


def missed_by(
    shared: SharedDraws, names: Sequence[str], log_weight: Float[Tensor, " particle"]
) -> Missed | Unseen | None:
    """What a guide leaves out, told by draws from beyond it; None where there are none, or it is not worth telling."""
    if shared.alone:
        return Unseen(shared.alone)
    if shared.log_proposal is None or shared.own is None:
        return None
    blind = shared.log_guide < shared.log_proposal.to(shared.log_guide) + math.log(RARE)
    chances = log_weight.softmax(0) * blind.to(log_weight)
    share = float(chances.sum())
    if share < MISSED:
        return None
    found: dict[str, float] = {}
    for name in names:
        u = _free(shared, name)
        off = ((chances / share) @ u - u[: shared.own].mean(0)) / u[: shared.own].std(0).clamp(min=1e-30)
        found[name] = float(off[off.abs().argmax()])
    site = max(found, key=lambda name: abs(found[name]))
    return Missed(share, site, found[site] < 0)


def faults_of(shared: SharedDraws, names: Sequence[str], weights: JointWeights) -> tuple[Fault, ...]:
    """The parts of the variance of log w, largest first.

    Args:
        shared: the draws of the guide.
        names: the sites to look at.
        weights: of these draws.
    """
    weights = weights.guide_alone
    own = torch.arange(len(weights.log_global))
    free = {name: _free(shared.at(own), name) for name in names}
    free = {name: u for name, u in free.items() if bool(torch.isfinite(u).all()) and bool((u.std(0) > 0).any())}
    return parts(free, weights.log_weight, weights.noise)


def parts(
    free: Mapping[str, Float[Tensor, "particle number"]],
    log_weight: Float[Tensor, " particle"],
    noise: Float[Tensor, " particle"],
) -> tuple[Fault, ...]:
    """As `faults_of`, of unconstrained values.

    Example:
        >>> u = torch.randn(2000, 2, dtype=torch.float64, generator=torch.manual_seed(0))
        >>> narrow = -0.3 * u[:, 0] ** 2  # the posterior is narrower than the guide
        >>> [(f.what, round(f.share, 1)) for f in parts({"a": u[:, :1], "b": u[:, 1:]}, narrow, torch.zeros(2000))][0]
        ('a', 1.0)
    """
    variance = float(log_weight.var())
    if not free or len(log_weight) < 3 or not 0 < variance < float("inf"):
        return ()
    scaled = {name: (u - u.mean(0)) / u.std(0).clamp(min=1e-30) for name, u in free.items()}
    chances = _tempered(log_weight)
    found = []
    for name, u in scaled.items():
        shift = (chances[:, None] * u).sum(0)
        width = (chances[:, None] * (u - shift).square()).sum(0).sqrt()
        worst = int((shift.abs() + width.clamp(min=1e-3).log().abs()).argmax())
        share = _explained(torch.cat([u, u.square()], 1), log_weight)
        found.append(Fault(name, share, float(shift[worst]), float(width[worst])))
    together = torch.cat(list(scaled.values()), 1)
    if 1 < together.shape[1] <= MOST:
        alone = torch.cat([together, together.square()], 1)
        i, j = torch.triu_indices(together.shape[1], together.shape[1], 1)
        whole = torch.cat([alone, together[:, i] * together[:, j]], 1)
        found.append(Fault("dependence", max(0.0, _explained(whole, log_weight) - _explained(alone, log_weight))))
    found.append(Fault("rows", min(1.0, float(noise.mean()) / variance)))
    return tuple(sorted(found, key=lambda f: -f.share))


def in_words(faults: Sequence[Fault]) -> tuple[str | None, str]:
    """The site at fault, if it is one, and what is said of the largest parts.

    Example:
        >>> in_words([Fault("tau", 0.8, 0.1, 1.7), Fault("rows", 0.0)])
        ('tau', 'tau has 80% of the variance of log w: the guide is too narrow there, 0.59 times the right deviation')
    """
    told = [f for f in faults if f.share >= BIG][:3]
    if not told:
        return None, ""
    site = told[0].what if told[0].what not in ("dependence", "rows") else None
    return site, "; ".join(_said(f) for f in told)


def _said(fault: Fault) -> str:
    share = f"{100 * fault.share:.0f}% of the variance of log w"
    if fault.what == "dependence":
        return f"how shared latents depend on one another has {share}: the guide misses a part of it"
    if fault.what == "rows":
        return f"the draws of the rows' own latents have {share}: their guide is poor, or there are many rows"
    if fault.width > 1.15 or fault.width < 1 / 1.15:
        how = "narrow" if fault.width > 1 else "wide"
        why = f"the guide is too {how} there, {1 / fault.width:.2g} times the right deviation"
    else:
        why = f"the guide is {'low' if fault.shift > 0 else 'high'} there, by {abs(fault.shift):.2g} deviations"
    return f"{fault.what} has {share}: {why}"


def _tempered(log_weight: Tensor) -> Tensor:
    """Weights of the draws, flattened until enough of them count: where few have all, they show no width."""
    logs = smooth(log_weight[:, None])[:, 0]
    enough = min(100.0, len(logs) / 4)
    while float(1 / (chances := logs.softmax(0)).square().sum()) < enough:
        logs = logs / 2
    return chances


def _explained(features: Tensor, values: Tensor) -> float:
    """The share of the variance that least squares explain, corrected for how many numbers they fit."""
    count, fitted = features.shape
    if fitted >= count - 1:
        return 0.0
    design = features - features.mean(0)
    centred = (values - values.mean())[:, None]
    solution = torch.linalg.lstsq(design, centred, driver="gelsd" if design.device.type == "cpu" else None).solution
    left = float((centred - design @ solution).square().sum()) / (count - fitted - 1)
    return max(0.0, 1 - left / float(centred.square().sum() / (count - 1)))


def _free(shared: SharedDraws, name: str) -> Tensor:
    """The values of a site [particle, number], unconstrained where it is known how."""
    value = shared.values[name].double().cpu()
    with suppress(NotImplementedError, RuntimeError, ValueError, KeyError):  # a support that nobody maps, or on a GPU
        value = biject_to(shared.supports[name]).inv(value)
    return value.reshape(len(value), -1)
