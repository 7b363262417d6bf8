"""What is told of a pair whose rows share latents: the evidence of all data, and what each row is worth to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import Data, Split, as_one_unit, is_unit
from ppl_vae.display import Displayed
from ppl_vae.errors import Finding, UserError, check_choice
from ppl_vae.evaluation.faults import Fault, Missed, Unseen, faults_of, in_words, missed_by
from ppl_vae.evaluation.joint_weights import (
    JointWeights,
    joint_passes,
    joint_weights,
    shares_latents,
    weighed_particles,
)
from ppl_vae.evaluation.means import standard_error
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.programs.program import Pair
from ppl_vae.weights.psis import FEWEST, khat, khat_limit, smooth
from ppl_vae.weights.streaming import Sums

__all__ = ["JointEvaluation", "LeftOut", "evaluate_jointly", "fitted_rows", "leave_one_out", "units", "verdict_on"]


FEW = 400
"""Draws that count, at least, where nothing is said."""


@dataclass(frozen=True, repr=False)
class JointEvaluation(Displayed):
    """What `evaluate` found of a pair whose rows share latents; in nats.

    Of all data together, with Monte Carlo standard errors over the particles: `elbo` and `log_evidence`, `khat` and
    `ess` of the joint weights. Row by row: `log_predictive` is log p(x_n | all data), by weights; `loo`
    log p(x_n | all other rows), with the tail index `loo_khat`, both Pareto smoothed; `held_out` is
    log p(x | the data) of rows that the guide was not fitted to, None where there are none. `faults` say what makes the
    weights uneven, largest part first.
    """

    elbo: float
    elbo_se: float
    log_evidence: float
    log_evidence_se: float
    khat: float
    ess: float
    particles: int
    log_predictive: Float[Tensor, " row"]
    loo: Float[Tensor, " row"]
    loo_khat: Float[Tensor, " row"]
    held_out: Float[Tensor, " row"] | None = None
    faults: tuple[Fault, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def reliable(self) -> bool:
        """Whether k-hat is below its limit: else the guide misses too much for weights to mend it."""
        return self.khat <= khat_limit(self.particles)

    def columns(self) -> dict[str, Float[Tensor, " row"]]:
        """Everything that is told of single rows, by name."""
        return {"log_predictive": self.log_predictive, "loo": self.loo, "loo_khat": self.loo_khat}

    def summary(self) -> dict[str, float | int]:
        """Of all data in nats, `_se` of the Monte Carlo draws; sums over rows with `_se` over rows.

        `negative_elbo` and `nll` are the joint numbers in nats per row, with the sign that `Evaluation` gives them.
        `p_loo` is the effective number of parameters, the sum of `log_predictive` minus that of `loo`.

        Example:
            >>> one = torch.ones(4)
            >>> JointEvaluation(-3, 0.1, -2, 0.1, 0.2, 90, 100, -one, -2 * one, 0 * one).summary()["p_loo"]
            4.0
        """
        rows = len(self.loo)
        limit = khat_limit(self.particles)
        found: dict[str, float | int] = {
            "rows": rows,
            "particles": self.particles,
            "negative_elbo": -self.elbo / rows,
            "nll": -self.log_evidence / rows,
            "joint_elbo": self.elbo,
            "joint_elbo_se": self.elbo_se,
            "joint_log_evidence": self.log_evidence,
            "joint_log_evidence_se": self.log_evidence_se,
            "ess": self.ess,
            "khat": self.khat,
            "khat_limit": limit,
            "elpd": float(self.log_predictive.sum()),
            "elpd_loo": float(self.loo.sum()),
            "elpd_loo_se": float(standard_error(self.loo) * rows),
            "p_loo": float((self.log_predictive - self.loo).sum()),
            "unreliable_rows": int((self.loo_khat > limit).sum()),
        }
        if self.held_out is not None:
            found |= {
                "held_out_rows": len(self.held_out),
                "held_out": float(self.held_out.mean()),
                "held_out_se": float(standard_error(self.held_out)),
            }
        return found


@dataclass(frozen=True)
class LeftOut:
    """log p(x_n | all other rows) in nats and the tail index of its weights, [row]."""

    loo: Float[Tensor, " row"]
    khat: Float[Tensor, " row"]


def leave_one_out(found: JointWeights) -> LeftOut:
    """PSIS-LOO under a guide: the weights of the posterior without row n are w / p(x_n | g), Pareto smoothed.

    Source: Vehtari, Gelman & Gabry 2017, arXiv 1507.04544; Magnusson et al. 2019, arXiv 1904.10679 (under a guide).

    Example:
        >>> leave_one_out(JointWeights(*[torch.zeros(50), torch.zeros(50, 2)], *[torch.zeros(50)] * 2)).loo
        tensor([0., 0.])
    """
    loo, tails = [], []
    for some in found.log_likelihood.split(1000, 1):
        left = found.log_weight[:, None] - some
        weights = smooth(left).log_softmax(0)
        loo.append((weights + some).logsumexp(0))
        tails.append(khat(left))
    return LeftOut(torch.cat(loo), torch.cat(tails))


def fitted_rows(model: Callable[..., Any], guide: Callable[..., Any], data: Any) -> tuple[Split, Split | None]:
    """The rows that shared latents were fitted to, and rows that were held out where the data has them.

    Raises:
        UserError: for held-out rows alone: the posterior of what all rows share is that of the rows it was fitted to.
    """
    if isinstance(data, Data):
        return data.train, data.test
    split = rows_of(model, guide, data, "train")
    if split.name in ("test", "validation"):
        raise UserError(
            f"the posterior of latents that all rows share is that of the rows they were fitted to, and these are the "
            f"{split.name} rows: pass the whole data set, whose {split.name} rows are then judged by it"
        )
    return split, None


def units(pair: Pair, data: Any, *, rows: str | None = "auto", purpose: str) -> Split:
    """What has an evidence of its own: rows; or all data as one unit, with rows=None and where all rows share latents.

    Of a data set these are the test rows; the unit is its training split, to which what is shared was fitted.

    Raises:
        UserError: for another value of rows, or held-out rows alone of a pair that shares latents.
    """
    if rows is not None:
        check_choice("rows", rows, ("auto",))
    if is_unit(data, rows):
        return as_one_unit(data).to(pair.device)
    some = data.train if isinstance(data, Data) else rows_of(pair.model, pair.guide, data)
    if shares_latents(pair, some.to(pair.device)):
        return as_one_unit(fitted_rows(pair.model, pair.guide, data)[0]).to(pair.device)
    return rows_of(pair.model, pair.guide, data, rows_for=purpose).to(pair.device)


def evaluate_jointly(
    pair: Pair,
    split: Split,
    held_out: Split | None,
    particles: int,
    *,
    inner: int | None = None,
    seed: int = 0,
    floats_at_once: int | None = None,
) -> JointEvaluation:
    """Weigh all rows together, see `ppl_vae.evaluation.joint_weights`; `evaluate` comes here by itself."""
    split = split.to(pair.device)
    with joint_passes(pair, split, particles, inner, seed=seed, floats_at_once=floats_at_once) as (plan, inner):
        shared, found = weighed_particles(pair, plan, inner)
        beyond = None if held_out is None else joint_weights(pair, plan, shared, inner, held_out.to(pair.device))
        sites = sorted(plan.structure.global_latents - plan.structure.auxiliary)
        faults, missed = faults_of(shared, sites, found), missed_by(shared, sites, found.log_weight)
    log_weight = found.log_weight
    weights = smooth(log_weight[:, None]).log_softmax(0)
    left, sums = leave_one_out(found), Sums()
    sums.add(log_weight)
    ess = float((2 * sums.total - sums.squares).exp())
    variance = max(particles / ess - 1, 0.0) / max(particles - 1, 1)
    tail = float(khat(log_weight[:, None]))
    return JointEvaluation(
        elbo=float(found.bound.mean()),
        elbo_se=float(standard_error(found.bound)),
        log_evidence=float(sums.total) - math.log(particles),
        log_evidence_se=math.sqrt(variance) if particles > 1 else math.nan,
        khat=tail,
        ess=ess,
        particles=particles,
        log_predictive=(weights + found.log_likelihood).logsumexp(0),
        loo=left.loo,
        loo_khat=left.khat,
        held_out=None if beyond is None else (weights + beyond.log_likelihood).logsumexp(0),
        faults=faults,
        findings=verdict_on(tail, particles, sites, faults, missed),
    )


def verdict_on(
    tail: float,
    particles: int,
    sites: list[str],
    faults: Sequence[Fault] = (),
    missed: Missed | Unseen | None = None,
    counting: float = math.inf,
) -> tuple[Finding, ...]:
    """What k-hat says against a posterior, what the guide misses, whether few draws count; nothing if all is well."""
    if particles < FEWEST:
        return (
            Finding(
                None,
                f"{particles} particles are too few to tell whether the joint weights can be believed",
                f"take {FEWEST} at least, better 1,000",
                "warning",
            ),
        )
    limit = khat_limit(particles)
    if tail <= limit:
        few = () if counting >= min(FEW, particles / 5) else (_few(counting, particles),)
        return (*few, *(() if missed is None else (missed.finding(sites),)))
    site, said = in_words(faults)
    remedy = "train longer, or take a richer family over the shared latents (FullRank, a flow)"
    if faults and faults[0].what == "rows" and said:
        remedy = "take more draws of the rows' own latents (inner=64), or train their guide longer"
    return (
        Finding(
            sites[0] if len(sites) == 1 else site,
            f"k-hat of the joint weights is {tail:.2f}, above {limit:.2f}: the guide of {', '.join(sites)} misses a "
            "part of the posterior, and its means, deviations and evidence are not to be believed"
            + (f" ({said})" if said else ""),
            remedy,
            "warning",
        ),
    )


def _few(counting: float, particles: int) -> Finding:
    return Finding(
        None,
        f"{counting:,.0f} of {particles:,} draws count: means have an error of {counting**-0.5:.1g} deviations, and "
        f"the largest of many correlations one of {4 * counting**-0.5:.1g}",
        "take more particles, or a richer family over the shared latents",
        "warning",
    )
