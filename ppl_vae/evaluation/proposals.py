"""Draws of what all rows share from the guide and from beyond it, so that weights see what the guide leaves out.

    m(g) = a_0 q(g) + sum_j a_j r_j(g),      log w = log p(g, all data) - log m(g)

The weights of a guide are blind where it has no draws: the neck of a funnel, a long tail. Each r_j is the normal with
the guide's mean and covariance, in unconstrained numbers, stretched along one direction (a coordinate, or a principal
axis) to one side, where it follows a Student t distribution. With u = V(g), z_j = c_j (u - m) and c_j' C c_j = 1,

    r_j(u) = 2 N(u; m, C) t(z_j) / N(z_j; 0, 1) [z_j on that side].

Shares a are found on draws that are then thrown away: a_j is the posterior mass of what r_j explains (population Monte
Carlo). Draws have fixed numbers for each part and the density of all in the denominator, so that the mean of w is the
evidence, without bias, and no weight is larger than p / (a_0 q).

Source: Cappe et al. 2008, arXiv 0710.4242 (M-PMC); Hesterberg 1995, Technometrics 37(2) (defensive mixtures).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evaluation.shared_draws import AT_ONCE, SharedDraws, draw_shared, placed_shared
from ppl_vae.evaluation.vectors import Vectors
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure
from ppl_vae.weights.psis import khat, smooth

__all__ = ["Proposal", "Stretched", "beyond_guide"]

LARGEST = 100
"""Numbers that are shared, at most: each has directions of its own."""

PILOT, ROUNDS = (200, 1000), 3
"""Draws by which shares are found, in each round, at least and at most, and how many rounds there are."""

WIDE, LEAST, FLOOR = 0.4, 0.3, 0.1
"""Share of what is beyond the guide in the first round; the guide's at least; what all parts have in common."""

FREEDOM, STRETCH = 3.0, 1.5
"""Of the Student t distribution."""

PERFECT, FINE = 0.99, 0.4
"""Share of the guide's draws that count, at which nothing beyond it is needed; k-hat at which shares are good."""

MOMENTS = 20
"""Draws of the guide for each number by which its mean and covariance are found."""

CLOSE = 1e-3
"""How well log q of values must agree with what the guide said when it drew them, relative to its size."""


@dataclass(frozen=True)
class Stretched:
    """The parts r_j, [2 direction]: `mean` [d], `factor` (Cholesky) [d, d], `directions` c [direction, d].

    Example:
        >>> parts = Stretched.of(torch.zeros(1), torch.eye(1))
        >>> u = torch.tensor([[-1.0], [1.0]]).double()
        >>> parts.log_density(u)[:, :2].isfinite()  # one part for each side
        tensor([[False,  True],
                [ True, False]])
    """

    mean: Float[Tensor, " d"]
    factor: Float[Tensor, "d d"]
    directions: Float[Tensor, "direction d"]

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor) -> Stretched:
        """Along every coordinate, and in more than one dimension along the principal axes of the correlation."""
        mean, covariance = mean.double(), covariance.double()
        sd = covariance.diagonal().sqrt()
        directions = torch.diag(1 / sd)
        if len(mean) > 1:
            axes = torch.linalg.eigh(covariance / sd / sd[:, None]).eigenvectors.T / sd
            spread = ((axes @ covariance) * axes).sum(1).sqrt()
            directions = torch.cat([directions, axes / spread[:, None]])
        return cls(mean, torch.linalg.cholesky(covariance), directions)

    def __len__(self) -> int:
        return 2 * len(self.directions)

    def draw(self, parts: Tensor) -> Float[Tensor, "draw d"]:
        """One draw of each of these parts, by number [draw]: 2 j and 2 j + 1 stretch along j, up and down."""
        along = self.directions[parts // 2]
        away = torch.randn(len(parts), len(self.mean), dtype=self.mean.dtype) @ self.factor.T
        z = (along * away).sum(1)
        t = torch.distributions.StudentT(torch.tensor(FREEDOM, dtype=z.dtype), 0.0, STRETCH).sample((len(z),)).abs()
        slope = along @ self.factor @ self.factor.T  # of u on z
        return self.mean + away + slope * (t * (1 - 2 * (parts % 2)) - z)[:, None]

    def log_density(self, u: Float[Tensor, "draw d"]) -> Float[Tensor, "draw part"]:
        """log r_j(u)."""
        away = u - self.mean
        normal = torch.distributions.MultivariateNormal(torch.zeros_like(self.mean), scale_tril=self.factor)
        z = away @ self.directions.T
        t = torch.distributions.StudentT(torch.tensor(FREEDOM, dtype=z.dtype), 0.0, STRETCH)
        logs = normal.log_prob(away)[:, None] + t.log_prob(z) + z.square() / 2 + math.log(2 * math.pi) / 2 + math.log(2)
        logs = logs.nan_to_num(-math.inf)  # values that were rounded to the edge of their support
        return torch.stack([logs.where(z >= 0, -math.inf), logs.where(z < 0, -math.inf)], 2).flatten(1)


@dataclass(frozen=True)
class Proposal:
    """The guide and the parts beyond it, with their shares [1 + part], in vectors of unconstrained numbers."""

    pair: Pair
    structure: Structure
    batch: Batch
    vectors: Vectors
    parts: Stretched
    shares: Float[Tensor, " part"]

    def draw(self, particles: int) -> SharedDraws:
        """So many particles, the guide's first, with the density of the mixture."""
        counts = (self.shares[1:] * particles).floor().long()
        extra = torch.rand(len(counts)) < (self.shares[1:] * particles - counts)  # rare parts have draws now and then
        counts = counts + extra
        own = draw_shared(self.pair, self.structure, self.batch, _sizes(particles - int(counts.sum()), self.structure))
        u = self.parts.draw(torch.arange(len(counts)).repeat_interleave(counts))
        placed = placed_shared(self.pair, self.structure, self.batch, own, self.vectors.values(u, own.values))
        both = own.followed_by(placed)
        return replace(both, log_proposal=self.log_parts(both).logsumexp(1).to(both.log_prior.device))

    def log_parts(self, shared: SharedDraws) -> Float[Tensor, "particle part"]:
        """log a_j + log density of each part, in the model's own numbers."""
        u, stretch = (v.cpu() for v in self.vectors.vectors(shared.values))
        logs = torch.cat([shared.log_guide.cpu()[:, None], self.parts.log_density(u) - stretch[:, None]], 1)
        return logs.nan_to_num(-math.inf) + self.shares.log()

    def improved(self, shared: SharedDraws, log_weight: Tensor) -> Proposal:
        """With shares that are the posterior mass which each part explains."""
        chances = smooth(log_weight[:, None])[:, 0].softmax(0)
        explained = (chances[:, None] * self.log_parts(shared).softmax(1).nan_to_num(0.0)).sum(0)
        shares = (1 - FLOOR) * explained + FLOOR / len(explained)
        beyond = shares[1:] * min(1.0, (1 - LEAST) / float(shares[1:].sum()))
        return replace(self, shares=torch.cat([1 - beyond.sum()[None], beyond]))


def beyond_guide(
    pair: Pair, structure: Structure, batch: Batch, particles: int, weigh: Callable[[SharedDraws], Tensor]
) -> Proposal | None:
    """A proposal for so many particles; None where the guide alone does, or the particles are too few to look.

    Args:
        pair: model and guide.
        structure: of the pair.
        batch: rows to run it on; what is shared does not depend on them.
        particles: that it is for.
        weigh: log p(g, all data) - log m(g) of some particles, [particle].

    Raises:
        NotImplementedError: where nothing beyond the guide can be placed or weighed; it says why.
    """
    shared = structure.global_latents
    pilot = min(max(particles // 4, PILOT[0]), PILOT[1])
    if particles < 2 * PILOT[0] or not shared or shared & structure.points:
        return None
    vectors = (
        None if shared & (structure.scored | structure.summed_guide) else Vectors.of(pair, structure, batch, shared)
    )
    if vectors is None:
        raise NotImplementedError("what all rows share is not all continuous")
    width = sum(site.width for site in vectors.sites.values())
    if width > LARGEST:
        raise NotImplementedError(f"all rows share {width:,} numbers, more than {LARGEST}")
    own = draw_shared(pair, structure, batch, _sizes(max(pilot, MOMENTS * width), structure))
    u = vectors.vectors(own.values)[0].cpu()  # a few numbers, whatever device the programs are on
    if not _agrees(pair, structure, batch, vectors, own, u):
        raise NotImplementedError("log q of values that the guide did not just draw cannot be had")
    parts = Stretched.of(u.mean(0), torch.atleast_2d(torch.cov(u.T)))
    shares = torch.tensor([1 - WIDE, *[WIDE / len(parts)] * len(parts)], dtype=torch.float64)
    found = Proposal(pair, structure, batch, vectors, parts, shares)
    for number in range(ROUNDS):
        drawn = found.draw(pilot)
        log_weight = weigh(drawn)
        alone, together = _counting(drawn, log_weight), float(1 / log_weight.softmax(0).square().sum()) / pilot
        if not number and alone > PERFECT:
            return None
        if float(khat(log_weight[:, None])) < FINE:
            break
        if number + 1 < ROUNDS:
            found = found.improved(drawn, log_weight)
    return found if together > alone else None


def _counting(shared: SharedDraws, log_weight: Tensor) -> float:
    """The share of the guide's draws that count under its own weights, told by draws of the mixture.

    1 / E_q[(w / Z)^2] = 1 / E_p[w / Z], p by the weights of the mixture: what the guide never draws counts, too.
    """
    proposal = shared.log_guide if shared.log_proposal is None else shared.log_proposal
    ratio = (
        log_weight + (proposal - shared.log_guide).to(log_weight) - log_weight.logsumexp(0) + math.log(len(log_weight))
    )
    return float(torch.exp(-(log_weight.log_softmax(0) + ratio).logsumexp(0)))


def _agrees(
    pair: Pair, structure: Structure, batch: Batch, vectors: Vectors, own: SharedDraws, u: Float[Tensor, "draw d"]
) -> bool:
    """Whether the guide's draws, taken to vectors and back, have the densities that they had."""
    few = own.at(torch.arange(min(4, len(own))))
    try:
        again = placed_shared(pair, structure, batch, own, vectors.values(u[: len(few)], own.values))
    except (NotImplementedError, KeyError, RuntimeError, ValueError):  # a flow without an inverse, for example
        return False
    return all(
        torch.allclose(a.double(), b.double(), rtol=CLOSE, atol=CLOSE)
        for a, b in ((few.log_guide, again.log_guide), (few.log_prior, again.log_prior))
    )


def _sizes(count: int, structure: Structure) -> list[int]:
    each = AT_ONCE if structure.broadcasts else 1
    return [min(each, count - start) for start in range(0, count, each)]
