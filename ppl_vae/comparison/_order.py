"""Whether bounds of the same rows are in the order in which bounds have to be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae.comparison._pairs import BoundKey, Compared
from ppl_vae.evaluation import Evaluation
from ppl_vae.evaluation.means import standard_error

if TYPE_CHECKING:
    from ppl_vae.comparison.compare import Comparison

__all__ = ["Order", "Step", "check_order"]

ERRORS = 3
"""How many standard errors below 0 a step may be."""

_ROUNDING = 32


class Step(NamedTuple):
    """From one bound of a pair to the next, which has more particles: their paired difference, in nats per row."""

    pair: str
    lower: str
    upper: str
    difference: float
    se: float
    holds: bool

    def __str__(self) -> str:
        if math.isnan(self.difference):
            return f"{self.pair}: {self.lower} or {self.upper} is not a number"
        return f"{self.pair}: {self.upper} is {-self.difference:.3g} ± {self.se:.2g} nats below {self.lower}"


@dataclass(frozen=True)
class Order:
    """Every step of ELBO <= IWAE_k <= ... <= log evidence, of every pair and training."""

    steps: tuple[Step, ...]

    @property
    def violations(self) -> tuple[Step, ...]:
        """The steps that go down by more than three paired standard errors (and rounding)."""
        return tuple(step for step in self.steps if not step.holds)

    @property
    def holds(self) -> bool:
        """Whether there is none."""
        return not self.violations

    @property
    def verdict(self) -> str:
        """What it means."""
        if self.holds:
            return f"The bounds are in order (ELBO \u2264 IWAE_k \u2264 IWAE_2k, {len(self.steps)} steps)."
        found = "; ".join(map(str, self.violations[:3]))
        more = f"; and {len(self.violations) - 3} more" if len(self.violations) > 3 else ""
        return (
            f"The bounds are out of order ({found}{more}). By Jensen's inequality more particles cannot give less, so "
            "that these weights are not those of single rows: the programs mix rows, or numbers overflow. Do not "
            "believe this pair before ppl_vae.check finds nothing."
        )

    def summary(self) -> dict[str, Any]:
        """Whether it holds, how many steps there are, and the violations."""
        return {"holds": self.holds, "steps": len(self.steps), "violations": [s._asdict() for s in self.violations]}


def check_order(comparison: Comparison) -> Order:
    """ELBO <= IWAE_k <= IWAE_2k <= ... <= log evidence in the mean over rows, with paired standard errors.

    The bounds of a row are made of the same particles; where the groups of one rung are unions of those of the rung
    below, the step is not negative in any row, whatever is drawn, and elsewhere it is within Monte Carlo error.

    Source: Burda et al. 2016, arXiv 1509.00519, theorem 1.
    """
    steps: list[Step] = []
    for pair in comparison.pairs:
        for i, evaluation in enumerate(pair.evaluations):
            name = pair.name if len(pair.evaluations) == 1 else f"{pair.name}, seed {i}"
            steps += _steps(name, pair, evaluation, comparison.ladder, comparison.particles)
    return Order(tuple(steps))


def _steps(name: str, pair: Compared, evaluation: Evaluation, rungs: tuple[int, ...], particles: int) -> Iterator[Step]:
    one = Compared(name, (evaluation,), pair.parameters)
    bounds: list[tuple[BoundKey, str]] = [("elbo", "ELBO")]
    bounds += [(k, f"IWAE_{k}") for k in rungs if k < particles]
    bounds.append(("sampled", f"IWAE_{particles}"))
    eps = torch.finfo(evaluation.log_evidence.dtype).eps
    for (low, lower), (high, upper) in pairwise(bounds):
        below, above = one.rows(low), one.rows(high)
        gap = torch.where(below == above, 0.0, above - below)
        value, se = float(gap.mean()), float(standard_error(gap))
        if math.isnan(se):  # a single row has no spread, but it has a Monte Carlo error
            se = math.hypot(*(_or_none(one.estimate(b).mc_se) for b in (low, high)))
        allowed = ERRORS * se + _ROUNDING * eps * _size(below)
        yield Step(name, lower, upper, value, se, not math.isnan(value) and value >= -allowed)


def _or_none(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _size(values: Tensor) -> float:
    """How large the numbers are that were rounded."""
    finite = values[torch.isfinite(values)]
    return max(1.0, float(finite.abs().max())) if len(finite) else 1.0
