"""Some rows that are being certified: densities over their unconstrained latents, and what methods find."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.diagnostics._certification.local import STEPS, LocalFamily
from ppl_vae.errors import UserError
from ppl_vae.evaluation import evidence_of
from ppl_vae.evaluation.bridge import Bridge, Start
from ppl_vae.programs.program import Batch
from ppl_vae.weights.psis import khat, khat_limit, smooth

__all__ = ["PRIOR", "Estimate", "Rows", "beside_prior", "concatenated", "stratified_error", "weighed"]

PRIOR = 0.1
"""The share of draws of a row's own family that are the prior's instead."""


class Estimate(NamedTuple):
    """What a method says of some rows: log p(x) in nats, its Monte Carlo standard error, the tail index of the weights
    and the largest one at which they are believed, and draws from p(u | x).
    """

    log_evidence: Float[Tensor, " row"]
    log_evidence_se: Float[Tensor, " row"]
    khat: Float[Tensor, " row"]
    limit: float
    draws: Float[Tensor, "draw row d"]

    def believed(self, accuracy: float) -> Tensor:
        """In which rows the error is known, and small enough, [row]."""
        known = (self.khat <= self.limit) & self.log_evidence.isfinite()
        return known & (self.log_evidence_se <= accuracy)


def concatenated(parts: list[Estimate]) -> Estimate:
    """The estimates of several batches of rows."""
    return Estimate(
        torch.cat([p.log_evidence for p in parts]),
        torch.cat([p.log_evidence_se for p in parts]),
        torch.cat([p.khat for p in parts]),
        parts[0].limit,
        torch.cat([p.draws for p in parts], dim=1),
    )


@dataclass(frozen=True)
class Rows:
    """A batch of rows, densities of their unconstrained latents u [draw, row, d], and how many draws fit into memory.

    Args:
        prior: the bridge that begins at the prior, which every pair has.
        guide: the bridge that begins at the guide; None where its density at given values cannot be had.
        batch: the rows.
        at_once: draws of a pass.
        draws: how many draws of the posterior are kept.
        batches: how many batches like this are still to come, this one among them.
        no_guide: why there is no bridge that begins at the guide.
        start: where the search for a family begins: at draws of the guide, or of the prior.
    """

    prior: Bridge
    guide: Bridge | None
    batch: Batch
    at_once: int
    draws: int
    batches: int
    no_guide: str = ""
    start: Start = "guide"

    @property
    def proper(self) -> bool:
        """Whether the prior can be drawn from."""
        return not self.prior.structure.improper and bool(self.prior.size)

    def of_prior(self, draws: int) -> int:
        """How many of so many draws are the prior's."""
        return round(PRIOR * draws) if self.proper else 0

    def strata(self, sizes: Sequence[int]) -> Tensor:
        """Which of the draws of these passes are the prior's, [draw]: the last ones of each."""
        return torch.cat([torch.arange(k) >= k - self.of_prior(k) for k in sizes])

    @property
    def of_guide(self) -> Bridge:
        """The bridge that begins at the guide, where there is one."""
        if self.guide is None:
            raise UserError(f"{self.no_guide}: take another guide")
        return self.guide

    def weigh(self, family: LocalFamily, draws: int) -> tuple[Tensor, Tensor]:
        """Draws u [draw, row, d] of a row's own family and of the prior, and their log weights [draw, row].

        A tenth of the draws is the prior's, and q is the mixture of both in the shares in which they were drawn: what a
        family has lost and a draw of the prior finds has a large weight, which k-hat and the error then show, where
        draws of the family alone would say that all is well. Strata do not change the expectation of the mean weight.

        Source: Hesterberg 1995, Technometrics 37(2) (defensive mixtures); Owen and Zhou 2000, JASA 95 (strata).
        """
        q, of_prior = family.distribution(), self.of_prior(draws)
        u = q.sample(torch.Size([draws - of_prior]))
        if of_prior:
            u = torch.cat([u, self.prior.drawn(self.batch, of_prior)])
        return u, self.log_weight(family, u, of_prior / draws)

    def log_weight(self, family: LocalFamily, u: Tensor, share: float) -> Tensor:
        """log p(x, u) - log q(u), [draw, row], for a q of which this share is the prior."""
        calls = -(-len(u) // self.at_once) * self.batches
        ends = [self.prior.densities(self.batch, some, calls) for some in u.split(self.at_once)]
        prior, target = (torch.cat(column) for column in zip(*ends, strict=True))
        log_q = family.distribution().log_prob(u)
        log_q = beside_prior(log_q, prior, share) if share else log_q
        return (target - log_q).double().nan_to_num(-math.inf, math.inf, -math.inf)

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, u) and its gradient in u."""
        _, target, slope = self.prior(self.batch, u, u.new_ones(()), STEPS * self.batches)
        return target, slope


def beside_prior(log_q: Tensor, prior: Tensor, share: float) -> Tensor:
    """The log density of a mixture of q and the prior, of which it has this share."""
    return torch.logaddexp(log_q + math.log1p(-share), prior + math.log(share))


def stratified_error(log_weight: Tensor, strata: Tensor) -> Tensor:
    """The Monte Carlo standard error of the log of the mean weight, [row], where draws are in two strata, [draw].

    Their numbers are fixed, so that what differs between strata is no error: sqrt(sum_s n_s var_s) / sum_k w_k, by the
    delta method.

    Example:
        >>> log_weight = torch.tensor([[0.0], [0.0], [0.0], [-9.0], [-9.0]])
        >>> stratified_error(log_weight, torch.tensor([False, False, False, True, True]))
        tensor([0.])
    """
    w = (log_weight - log_weight.max(0).values).exp()
    variance = torch.zeros_like(w[0])
    for of in (strata.to(w.device), ~strata.to(w.device)):
        if (n := int(of.sum())) > 1:
            variance = variance + n * w[of].var(0)
    return (variance.sqrt() / w.sum(0)).nan_to_num(math.inf)


def weighed(rows: Rows, draw: Callable[[int], tuple[Tensor, Tensor]], particles: int) -> Estimate:
    """The evidence of rows from importance weights of fresh draws.

    Args:
        rows: the rows.
        draw: gives so many draws u [draw, row, d] and their log weights log p(x, u) - log q(u), [draw, row].
        particles: draws in all.
    """
    sizes = [min(rows.at_once, particles - start) for start in range(0, particles, rows.at_once)]
    u, log_weight = (torch.cat(column) for column in zip(*map(draw, sizes), strict=True))
    log_weight = log_weight.double().nan_to_num(-math.inf, math.inf, -math.inf)
    found = evidence_of(log_weight)
    chosen = torch.multinomial(smooth(log_weight).softmax(0).T.nan_to_num(1.0), rows.draws, replacement=True).T
    kept = torch.take_along_dim(u, chosen.unsqueeze(-1), 0)
    error = stratified_error(log_weight, rows.strata(sizes))
    return Estimate(found.log_evidence.cpu(), error.cpu(), khat(log_weight).cpu(), khat_limit(particles), kept)
