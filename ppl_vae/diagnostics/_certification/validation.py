"""Whether the errors of a method cover, on rows that the model itself made, whose latents are known."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.diagnostics._certification.methods import WIDEST, mixed
from ppl_vae.diagnostics._certification.rows import PRIOR, Estimate, Rows, stratified_error
from ppl_vae.diagnostics._evidence.ladder import Ladder, LadderSettings
from ppl_vae.evaluation import evidence_of
from ppl_vae.evaluation.means import standard_error

__all__ = ["Reference", "Validation", "reference", "validated"]

LEVEL = 1.96
"""Standard errors of an interval of nominal 95%."""

CHANCE = 1e-3
"""How rarely a method whose errors cover is left out by chance."""

DRAWS = 8000


@dataclass(frozen=True)
class Validation:
    """How a method did on simulated rows: of those it was `sure` of, how many its interval of 95% `covered`.

    `gap` is the mean distance between a lower and an upper bound of log p(x) on these rows, in nats: how far from
    the truth the numbers can be that it was held against. `untried` says why nothing could be tried.
    """

    sure: int = 0
    covered: int = 0
    rows: int = 0
    gap: float = math.nan
    gap_se: float = math.nan
    accuracy: float = 0.05
    untried: str = ""
    of: str = "rows"

    def numbers(self) -> dict[str, Any]:
        """What it is made of."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """The numbers, and what they mean."""
        return self.numbers() | {"fails": self.fails, "words": self.words}

    @property
    def fails(self) -> bool:
        """Whether the errors of the method, or the bounds around the truth, are too far off for chance."""
        from scipy.stats import binom

        if self.untried:
            return False
        if not self.sure:  # sure of a row of the data and of none of the model's: nothing speaks for it
            return True
        unlikely = self.covered < float(binom.ppf(CHANCE, self.sure, 0.95))
        return unlikely or self.gap - 3 * self.gap_se > self.accuracy

    @property
    def words(self) -> str:
        """In a sentence."""
        if self.untried:
            return f"not tried on simulated rows: {self.untried}"
        words = (
            f"on {self.rows:,} simulated {self.of} it was sure of {self.sure:,}, and its intervals of 95% covered "
            f"{self.covered:,} of them; bounds of the truth are {self.gap:.2g} ± {self.gap_se:.1g} nats apart"
        )
        if self.fails:
            return f"{words}: it is not used"
        return words


@dataclass(frozen=True)
class Reference:
    """Lower and upper bounds of log p(x) in expectation, [row], and the error of the lower one."""

    lower: Float[Tensor, " row"]
    error: Float[Tensor, " row"]
    upper: Float[Tensor, " row"]

    def columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """All of it, in this order."""
        return self.lower, self.error, self.upper

    def first(self, count: int) -> Reference:
        """Of the first rows alone."""
        return Reference(*(column[:count] for column in self.columns()))


def reference(rows: Rows, exact: Float[Tensor, "one row d"]) -> Reference:
    """Bounds from both sides for simulated rows: `exact` are the latents that each was made from, draws of p(u | x).

    With draws u_k of q and weights w_k, log of their mean is a lower bound in expectation; with u_0 from the posterior
    in the place of one of them it is an upper one, since E[1 / mean] = 1 / p(x). A mode that q has lost shows as a gap.

    Source: Grosse et al. 2015, arXiv 1511.02543; Burda et al. 2016, arXiv 1509.00519, for the lower one.
    """
    if rows.prior.size > WIDEST:
        ladder = Ladder(rows.of_guide, LadderSettings(32, 500, 10, None), rows.batch, rows.batches - 1, 2)
        up = evidence_of(ladder.up(ladder.started()).log_weight.double())
        down = evidence_of(ladder.down(exact.expand(32, -1, -1).clone()).log_weight.double())
        return Reference(up.log_evidence, up.log_evidence_se, -down.log_evidence)
    family, of_prior = mixed(rows).defended(), PRIOR if rows.proper else 0.0
    sizes = [rows.at_once] * -(-DRAWS // rows.at_once)
    log_weight = torch.cat([rows.weigh(family, k)[1] for k in sizes])
    known = rows.log_weight(family, exact, round(of_prior * rows.at_once) / rows.at_once)
    upper = torch.cat([known, log_weight[1:]]).logsumexp(0) - math.log(len(log_weight))
    lower = log_weight.logsumexp(0) - math.log(len(log_weight))
    return Reference(lower, stratified_error(log_weight, rows.strata(sizes)), upper)


def validated(estimate: Estimate, known: Reference, accuracy: float) -> Validation:
    """Hold a method's estimates of simulated rows against bounds of the truth.

    Example:
        >>> one, o = torch.ones(50), torch.zeros(50)
        >>> exact = Reference(-one, 0.001 * one, -one)
        >>> close, far = (Estimate(-one + shift, 0.01 * one, o, 0.7, torch.zeros(1, 50, 1)) for shift in (0.01, 0.1))
        >>> validated(close, exact, 0.05).fails, validated(far, exact, 0.05).fails
        (False, True)
    """
    sure = estimate.believed(accuracy)
    apart = (estimate.log_evidence - known.lower).abs()
    covered = apart <= LEVEL * torch.hypot(estimate.log_evidence_se, known.error)
    gap = known.upper - known.lower
    return Validation(
        sure=int(sure.sum()),
        covered=int((sure & covered).sum()),
        rows=len(sure),
        gap=float(gap.mean()),
        gap_se=float(standard_error(gap)),
        accuracy=accuracy,
    )
