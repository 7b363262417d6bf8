"""Held-out evidence and its error, row by row, in memory that does not grow with particles or rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.bounds.iwae import log_mean_exp
from ppl_vae.data import as_split
from ppl_vae.execution import run
from ppl_vae.factors import Factors
from ppl_vae.passes import FLOATS_AT_ONCE, Passes, passes
from ppl_vae.program import Pair
from ppl_vae.structure import Structure
from ppl_vae.weights import LogWeights, concatenate

__all__ = ["Evaluation", "Evidence", "evaluate", "evidence_of"]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found, one value a row, in nats.

    `elbo` is the mean log weight, `log_evidence` the log of the mean weight over `particles` (its expectation
    is a lower bound that grows with the particles), `log_evidence_se` its Monte Carlo standard error by the
    delta method, `ess` the effective number of particles, (sum w)^2 / sum w^2. `rate` is the KL part and
    `distortion` minus the likelihood part: rate + distortion = -elbo.
    """

    elbo: Float[Tensor, " row"]
    log_evidence: Float[Tensor, " row"]
    log_evidence_se: Float[Tensor, " row"]
    ess: Float[Tensor, " row"]
    rate: Float[Tensor, " row"]
    distortion: Float[Tensor, " row"]
    particles: int

    def summary(self) -> dict[str, float | int]:
        """Means over rows in nats per row; `_se` over rows, `_mc_se` of the Monte Carlo draws alone.

        Example:
            >>> one = torch.ones(4)
            >>> Evaluation(-one, -one, 0 * one, one, 0 * one, one, particles=1).summary()["nll"]
            1.0
        """
        rows = len(self.elbo)
        return {
            "rows": rows,
            "particles": self.particles,
            "negative_elbo": -float(self.elbo.mean()),
            "negative_elbo_se": _standard_error(self.elbo),
            "nll": -float(self.log_evidence.mean()),
            "nll_se": _standard_error(self.log_evidence),
            "nll_mc_se": float(self.log_evidence_se.square().sum().sqrt() / rows),
            "rate": float(self.rate.mean()),
            "distortion": float(self.distortion.mean()),
            "ess": float(self.ess.mean()),
        }


_COLUMNS = ("elbo", "log_evidence", "log_evidence_se", "ess", "rate", "distortion")


def _standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan


def evaluate(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    particles: int = 1000,
    *,
    seed: int = 0,
    floats_at_once: int = FLOATS_AT_ONCE,
) -> Evaluation:
    """ELBO and importance-sampled log evidence of held-out rows, with standard errors.

    log p(x) is estimated by log (1/K) sum_k p(x, z_k) / q(z_k | x), under whatever prior the model has.
    Discrete latents are summed out inside each weight. Time grows with rows x particles, memory does not.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x), the proposal.
        data: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`).
        particles: draws per row, K.
        seed: of the draws; the global generators are left alone.
        floats_at_once: bounds the memory of one pass.

    Raises:
        UserError: for particles < 1, programs that break the contract, or latents shared by all rows, for which
            there is no evidence per row.
        NoDensity: for a guide that draws a latent of the rows from a point mass, such as a deterministic autoencoder.

    Source: Burda et al. 2016, arXiv 1509.00519 (evidence by importance sampling).

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> def model(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def posterior(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5 ** 0.5))
        >>> result = evaluate(model, posterior, torch.zeros(3), particles=10)
        >>> [round(v, 3) for v in result.log_evidence.tolist()]
        [-1.266, -1.266, -1.266]
    """
    pair = Pair(model, guide)
    split = as_split(data, "test", getattr(model, "schema", None)).to(pair.device)
    with passes(pair, split, particles, seed=seed, floats_at_once=floats_at_once) as plan:
        parts = [_rows(pair, plan, batch) for batch in plan.batches()]
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return Evaluation(**dict(zip(_COLUMNS, columns, strict=True)), particles=particles)


def _rows(pair: Pair, plan: Passes, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    log_w: list[Tensor] = []
    elbo: Any = 0.0
    rate: Any = 0.0
    distortion: Any = 0.0
    for k in plan.sizes():
        expected, marginal = _both(pair, plan.structure, batch, k)
        log_w.append(marginal.log_weight)
        elbo = elbo + expected.log_weight.sum(0) / plan.particles
        rate = rate + expected.rate.sum(0) / plan.particles
        distortion = distortion - expected.log_likelihood.sum(0) / plan.particles
    evidence = evidence_of(torch.cat(log_w))
    return tuple(torch.as_tensor(v) for v in (elbo, *evidence, rate, distortion))


class Evidence(NamedTuple):
    """log of the mean weight of every row, its Monte Carlo standard error, and the effective number of particles."""

    log_evidence: Tensor
    log_evidence_se: Tensor
    ess: Tensor


def evidence_of(log_weights: Tensor) -> Evidence:
    """The evidence of rows from log weights [particle, row], in nats; the standard error is by the delta method.

    Example:
        >>> evidence_of(torch.zeros(5, 1)).ess
        tensor([5.])
    """
    particles = len(log_weights)
    total, squares = log_weights.logsumexp(0), (2 * log_weights).logsumexp(0)
    ess = (2 * total - squares).exp()
    relative_variance = (particles / ess - 1).clamp(min=0) / max(particles - 1, 1)
    se = relative_variance.sqrt() if particles > 1 else torch.full_like(total, math.nan)
    return Evidence(log_mean_exp(log_weights), se, ess)


def _both(pair: Pair, structure: Structure, batch: dict[str, Tensor], k: int) -> tuple[LogWeights, LogWeights]:
    """The same draws seen twice: discrete latents in expectation (ELBO) and summed inside the weight (evidence)."""
    expected, marginal = [], []
    for size in [k] if structure.broadcasts else [1] * k:
        drawn = run(pair, structure, batch, size)
        if not structure.enumerates:
            expected.append(LogWeights(**Factors(drawn).plain()._asdict()))
            continue
        expected.append(LogWeights(**Factors(drawn).expectation()._asdict()))
        marginal.append(LogWeights(**Factors(drawn).marginal()._asdict()))
    joined = concatenate(expected)
    return joined, concatenate(marginal) if marginal else joined
