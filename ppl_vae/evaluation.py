"""Held-out evidence and its error, row by row, in memory that does not grow with particles or rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.chunks import Chunks
from ppl_vae.data import as_split
from ppl_vae.lanes import Compile, check_mode
from ppl_vae.linter import Finding
from ppl_vae.passes import Passes, passes
from ppl_vae.program import Pair

__all__ = ["Evaluation", "Evidence", "evaluate", "evidence_of"]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found, one value a row, in nats.

    `elbo` is the mean log weight, `log_evidence` the log of the mean weight over `particles` (its expectation
    is a lower bound that grows with the particles), `log_evidence_se` its Monte Carlo standard error by the
    delta method, `ess` the effective number of particles, (sum w)^2 / sum w^2. `rate` is the KL part and
    `distortion` minus the likelihood part: rate + distortion = -elbo. `findings` say why particles were not drawn as
    fast as asked for, if they were not.
    """

    elbo: Float[Tensor, " row"]
    log_evidence: Float[Tensor, " row"]
    log_evidence_se: Float[Tensor, " row"]
    ess: Float[Tensor, " row"]
    rate: Float[Tensor, " row"]
    distortion: Float[Tensor, " row"]
    particles: int
    findings: tuple[Finding, ...] = ()

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
    compile: Compile = "auto",
    floats_at_once: int | None = None,
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
        compile: as for `fit`: "auto" captures, then compiles a chunk of particles where there are enough of them (an
            encoder is then run once for each row), "on" at once, "off" never.
        floats_at_once: bounds the memory of one pass; by default 64 MB, on CUDA a quarter of what is free.

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
    check_mode(compile)
    pair = Pair(model, guide)
    split = as_split(data, "test", getattr(model, "schema", None)).to(pair.device)
    with passes(pair, split, particles, seed=seed, floats_at_once=floats_at_once) as plan:
        chunks = Chunks(pair, plan.structure, compile)
        parts = [_rows(chunks, plan, i, batch) for i, batch in enumerate(plan.batches())]
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    found = dict(zip(_COLUMNS, columns, strict=True))
    return Evaluation(**found, particles=particles, findings=tuple(chunks.findings))


def _rows(chunks: Chunks, plan: Passes, index: int, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The columns for one batch of rows."""
    sizes, to_come = plan.sizes(), plan.count - index - 1
    sums: list[Tensor] = []
    for i, k in enumerate(sizes):
        found = chunks(batch, k, len(sizes) - i + to_come * len(sizes))
        sums = (
            found
            if not sums
            else [a + b for a, b in zip(sums[:3], found[:3], strict=True)]
            + [torch.logaddexp(a, b) for a, b in zip(sums[3:], found[3:], strict=True)]
        )
    elbo, rate, likelihood = (v / plan.particles for v in sums[:3])
    return elbo, *_evidence(sums[3], sums[4], plan.particles), rate, -likelihood


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
    return _evidence(log_weights.logsumexp(0), (2 * log_weights).logsumexp(0), len(log_weights))


def _evidence(total: Tensor, squares: Tensor, particles: int) -> Evidence:
    """From log sum w and log sum w^2 of every row."""
    ess = (2 * total - squares).exp()
    relative_variance = (particles / ess - 1).clamp(min=0) / max(particles - 1, 1)
    se = relative_variance.sqrt() if particles > 1 else torch.full_like(total, math.nan)
    return Evidence(total - math.log(particles), se, ess)
