"""The heart: run the guide K times, replay the model, return the log importance weights per particle and row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.programs.execution import PairTrace, run
from ppl_vae.programs.gradients import Estimator, PathScale
from ppl_vae.programs.program import Batch, Programs
from ppl_vae.programs.structure import Structure
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.reduction import Discrete, reduced

__all__ = ["Discrete", "LogWeights", "weigh"]


@dataclass(frozen=True)
class LogWeights:
    """Log importance weights of K particles for B rows, in nats.

    log w = log p(x | z) + log p(z) - log q(z | x), each [particle, row]. Global latents (outside the data
    plate) are kept apart in `log_global` [particle]: log p - log q of all of them. `score` is log q of the
    sites that have no reparameterised draw, from which a bound makes their gradient. `by_site` is the rate of
    every latent site, `labels` log q of the labels that were observed (0 in rows without one; no part of any bound),
    `path` the handle by which a bound scales gradients through the draws, `runs` the programs' traces.

    With discrete latents summed out, "expectation" gives each part as its expectation under the guide's
    classifier; "marginal" gives log of the sum over the discrete values, whose parts belong together: they
    are all in `log_likelihood`, except factors that no summed value touches.
    """

    log_likelihood: Float[Tensor, "particle row"]
    log_prior: Float[Tensor, "particle row"]
    log_guide: Float[Tensor, "particle row"]
    log_global: Float[Tensor, " particle"] | None = None
    score: Float[Tensor, "particle row"] | None = None
    by_site: Mapping[str, Float[Tensor, "particle row"]] = field(default_factory=dict)
    labels: Mapping[str, Float[Tensor, "particle row"]] = field(default_factory=dict)
    path: PathScale | None = None
    runs: tuple[PairTrace, ...] = ()

    @property
    def rate(self) -> Float[Tensor, "particle row"]:
        """log q(z | x) - log p(z), whose mean is the KL divergence from prior to guide."""
        return self.log_guide - self.log_prior

    @property
    def log_weight(self) -> Float[Tensor, "particle row"]:
        """log p(x, z) - log q(z | x)."""
        return self.log_likelihood - self.rate

    def tempered(self, beta: float | Tensor) -> Float[Tensor, "particle row"]:
        """log p(x | z) + beta (log p(z) - log q(z | x))."""
        return self.log_likelihood - beta * self.rate


def weigh(
    pair: Programs,
    structure: Structure,
    batch: Batch,
    particles: int = 1,
    *,
    discrete: Discrete = "expectation",
    beta: float | Tensor = 1.0,
    analytic_kl: bool = False,
    estimator: Estimator = "reparameterised",
    path: PathScale | None = None,
    scaled: bool = False,
) -> LogWeights:
    """The log weights of a pair whose structure is known: what a bound calls at every step.

    `discrete` is explained at `LogWeights`. `beta` tempers the factors of latents inside the sum over
    discrete values ("marginal" only); it is 1 for everything that is reported. `analytic_kl` replaces
    log q - log p of a site by its KL divergence where that is known and allowed. `estimator` and `path` say how
    gradients flow through the draws, see `ppl_vae.programs.gradients`. With `scaled` the scales that the programs put
    on their sites (`poutine.scale`) count: those are of what is maximised, and no part of what is reported.
    """
    runs = [particles] if structure.broadcasts else [1] * particles
    parts = []
    for k in runs:
        drawn = run(pair, structure, batch, k, estimator=estimator, path=path)
        factors = Factors(drawn, analytic_kl, scaled=scaled)
        parts.append(LogWeights(**reduced(factors, discrete, beta)._asdict(), path=path, runs=(drawn,)))
    return concatenate(parts)


def concatenate(parts: Sequence[LogWeights]) -> LogWeights:
    """Join log weights of different particles for the same rows."""
    if len(parts) == 1:
        return parts[0]

    def join(name: str) -> Any:
        pieces = [getattr(p, name) for p in parts]
        return None if pieces[0] is None else torch.cat(pieces)

    names = ("log_likelihood", "log_prior", "log_guide", "log_global", "score")
    by_site = {s: torch.cat([p.by_site[s] for p in parts]) for s in parts[0].by_site}
    labels = {s: torch.cat([p.labels[s] for p in parts]) for s in parts[0].labels}
    return LogWeights(
        **{n: join(n) for n in names},
        by_site=by_site,
        labels=labels,
        path=parts[0].path,
        runs=tuple(r for p in parts for r in p.runs),
    )
