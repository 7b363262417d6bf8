"""Draws of all that a pair says about rows: latents given a row, rows given latents, and both from the model alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.arviz._layouts import Layout
from ppl_vae.arviz._rows import Rows, cat, gathered, latents_of, picked_rows
from ppl_vae.evaluation import Evidence, evidence_of
from ppl_vae.evaluation.certainty import CertifiedRows
from ppl_vae.evaluation.passes import FLOATS_AT_ONCE, Passes, refuse_blind
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure
from ppl_vae.weights.completion import completed
from ppl_vae.weights.psis import khat, smooth

__all__ = ["Draws", "bootstrapped", "draw_all"]

JITTER = 1e-6
"""Nats: so little that nothing changes, but ArviZ's fit of a tail needs values that differ where nothing is random."""


class Draws(NamedTuple):
    """What was drawn, each variable [draw, row, other plates, *event]; `observed` and `constant` have one draw.

    `log_weight` [draw, row] are the log weights of the posterior draws in nats, None if these were resampled, and
    `chosen` [draw, row] the numbers of the particles that they are; `log_evidence` [draw, row] says how sure the
    `evidence` of a row is; `khat` [row]; `probabilities` [row, other plates, level] of categories that are latent.
    """

    posterior: dict[str, Tensor]
    posterior_predictive: dict[str, Tensor]
    prior: dict[str, Tensor]
    prior_predictive: dict[str, Tensor]
    observed: dict[str, Tensor]
    constant: dict[str, Tensor]
    log_weight: Float[Tensor, "draw row"] | None
    chosen: Tensor
    log_evidence: Float[Tensor, "draw row"]
    evidence: Evidence
    khat: Float[Tensor, " row"]
    probabilities: dict[str, Tensor]


def draw_all(
    pair: Pair,
    plan: Passes,
    layouts: Mapping[str, Layout],
    draws: int,
    *,
    resample: bool,
    predictive: bool,
    certified: CertifiedRows | None = None,
) -> Draws:
    """Everything about the rows of a plan, whose particles are at least as many as the draws."""
    sampler = _Sampler(pair, plan, layouts, draws, resample, predictive, certified)
    width = sum(layouts[name].size for name in sampler.latents)
    rows = max(1, 4 * FLOATS_AT_ONCE // (plan.particles * max(1, width)))  # these latents are held all at once
    plan = replace(plan, rows=min(plan.rows, rows))
    batches = ({n: v.contiguous() for n, v in batch.items()} for batch in plan.batches())
    return _joined([sampler.some(batch, i * plan.rows) for i, batch in enumerate(batches)])


def bootstrapped(log_weights: Float[Tensor, "particle row"], draws: int) -> Float[Tensor, "draw row"]:
    """Draws of the log of a row's mean weight that say how sure it is, in nats: Bayesian bootstrap over the particles.

    log sum_k v_k w_k with v ~ Dirichlet(1, ..., 1). In the mean over draws the mean weight is what it is over the
    particles; the deviation of the draws is its Monte Carlo standard error.

    Source: Rubin 1981, The Bayesian bootstrap.

    Example:
        >>> w = torch.randn(4000, 1, generator=torch.manual_seed(0)).double()
        >>> found = bootstrapped(w, 1000)
        >>> round(float(found.std()), 3), round(float(evidence_of(w).log_evidence_se), 3)
        (0.024, 0.024)
    """
    log_weights = log_weights.double()
    top = log_weights.max(0).values
    scaled = (log_weights - top).exp()
    total, sums = torch.zeros(draws, 1, dtype=torch.float64), torch.zeros(draws, scaled.shape[1], dtype=torch.float64)
    for some in scaled.split(max(1, FLOATS_AT_ONCE // draws)):
        shares = torch.empty(draws, len(some), dtype=torch.float64).exponential_()
        total += shares.sum(1, keepdim=True)
        sums += shares @ some
    return top + (sums / total).log() + JITTER * torch.randn(sums.shape, dtype=torch.float64)


@dataclass(frozen=True)
class _Sampler:
    pair: Pair
    plan: Passes
    layouts: Mapping[str, Layout]
    draws: int
    resample: bool
    predictive: bool
    certified: CertifiedRows | None = None

    @property
    def structure(self) -> Structure:
        return self.plan.structure

    @property
    def latents(self) -> set[str]:
        return latents_of(self.structure)

    def some(self, batch: dict[str, Tensor], start: int) -> Draws:
        """The draws for some rows, the first of which has this number."""
        log_weights, held, codes = self._particles(batch)
        refuse_blind(log_weights.sum(0), start)
        log_weights = log_weights.clamp(min=-1e30)  # a row that nothing explains has weights all the same
        if self.resample:
            chosen = torch.multinomial(smooth(log_weights).softmax(0).T, self.draws, replacement=True).T
        else:
            chosen = torch.arange(self.draws).unsqueeze(1).expand(-1, log_weights.shape[1])
        latents = {name: picked_rows(value, chosen, self._row(name)) for name, value in held.items()}
        weights, known = log_weights.softmax(0), _known(log_weights, self.draws)
        at = slice(start, start + log_weights.shape[1])
        if self.certified is not None:
            latents = self._repaired(self.certified, at, latents)
            known = _certain(self.certified, at, self.draws)
            codes = {n: self.layouts[n].arranged(latents[n]).cpu() for n in codes}
            weights = torch.full((self.draws, log_weights.shape[1]), 1 / self.draws, dtype=torch.float64)
        rows = Rows(self.pair, self.structure, self.layouts, self.plan.at_once)
        shown = rows.shown if self.predictive else []
        observed, constant = rows.data(batch)
        predicted = rows.predicted(batch, latents, self.draws if self.predictive else 0)
        prior = gathered(rows.simulated(batch, [*self.latents, *shown], self.draws), self.layouts)
        return Draws(
            posterior={name: self.layouts[name].arranged(value) for name, value in latents.items()},
            posterior_predictive=gathered(predicted, self.layouts),
            prior={name: prior[name] for name in latents},
            prior_predictive={name: prior[name] for name in shown},
            observed=observed,
            constant=constant,
            log_weight=None if self.resample or self.certified is not None else log_weights[: self.draws],
            chosen=chosen,
            **known,
            probabilities={n: _probabilities(c, weights, self.layouts[n].levels) for n, c in codes.items()},
        )

    def _repaired(self, certified: CertifiedRows, at: slice, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The draws of some rows that certification left, as `like` has them."""
        found = {}
        for name, value in like.items():
            draws = certified.draws[name][: self.draws, at].to(value)
            found[name] = self.layouts[name].placed(draws, self.structure.nesting)
        return found

    def _row(self, name: str) -> int:
        """The rows' dim in a latent [particle, plates, *event], from the right."""
        return self.structure.dim - len(self.layouts[name].event_shape)

    def _particles(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Log weights [particle, row], the latents of the particles that may be chosen, and all codes of categories."""
        log_weights: list[Tensor] = []
        held: dict[str, list[Tensor]] = {}
        codes: dict[str, list[Tensor]] = {}
        done = 0
        for k in self.plan.sizes():
            particles = completed(self.pair, self.structure, batch, k)
            log_weights.append(particles.log_weight.double().cpu())
            wanted = k if self.resample else max(0, min(k, self.draws - done))
            for name, value in particles.latents.items():
                if wanted:
                    held.setdefault(name, []).append(value[:wanted].clone())  # a view would keep all of the pass
                if self.layouts[name].levels:
                    codes.setdefault(name, []).append(self.layouts[name].arranged(value).cpu())
            done += k
        return torch.cat(log_weights), cat(held), cat(codes)


def _known(log_weights: Tensor, draws: int) -> dict[str, Any]:
    """What is known of the evidence of rows by the weights of their particles."""
    return {
        "log_evidence": bootstrapped(log_weights, draws),
        "evidence": evidence_of(log_weights),
        "khat": khat(log_weights),
    }


def _certain(certified: CertifiedRows, at: slice, draws: int) -> dict[str, Any]:
    """What is known of it by certification: draws of log p(x) are normal about it, with its error."""
    value, error = certified.log_evidence[at].double(), certified.log_evidence_se[at].double()
    noise = torch.randn(draws, len(value), dtype=torch.float64)
    return {
        "log_evidence": value + error.clamp(min=JITTER) * noise,
        "evidence": Evidence(value, error, torch.full_like(value, torch.nan)),
        "khat": certified.khat[at],
    }


def _probabilities(codes: Tensor, weights: Tensor, levels: int) -> Tensor:
    """p(level | x) by the weights [particle, row], from codes [particle, row, other plates]."""
    weights = weights.reshape(*weights.shape, *[1] * (codes.dim() - 2))
    return torch.stack([(weights * (codes == level)).sum(0) for level in range(levels)], -1)


def _joined(parts: Sequence[Draws]) -> Draws:
    """The draws of all rows."""

    def every(name: str, dim: int) -> dict[str, Tensor]:
        each = [getattr(part, name) for part in parts]
        return cat({key: [e[key] for e in each] for key in each[0]}, dim)

    def one(name: str, dim: int) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts], dim)

    groups = ("posterior", "posterior_predictive", "prior", "prior_predictive", "observed", "constant")
    return Draws(
        **{name: every(name, 1) for name in groups},
        log_weight=None if parts[0].log_weight is None else one("log_weight", 1),
        chosen=one("chosen", 1),
        log_evidence=one("log_evidence", 1),
        evidence=Evidence(*(torch.cat(column) for column in zip(*(p.evidence for p in parts), strict=True))),
        khat=one("khat", 0),
        probabilities=every("probabilities", 0),
    )
