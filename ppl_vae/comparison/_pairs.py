"""One pair among others: its evaluations on the rows that all share, means with their errors, paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.errors import UserError, check_several, check_whole
from ppl_vae.evaluation import Evaluation
from ppl_vae.evaluation.means import standard_error

__all__ = ["LADDER", "BoundKey", "Compared", "Difference", "LatentUse", "MeanOverRows", "difference", "ladder"]

LADDER = (1, 5, 10, 50, 100, 500, 1000, 5000)
"""The numbers of particles whose bounds are told where none are asked for."""

BoundKey = str | int
"""`"elbo"`, `"log_evidence"` (certified, where it is), `"sampled"` (that of the guide's weights), or the number of
particles of an IWAE."""


class MeanOverRows(NamedTuple):
    """A mean over rows in nats per row, and where its error comes from.

    `se` is the standard error of a mean over rows, `mc_se` the part of it that is due to Monte Carlo draws,
    `seed_se` the standard error of a mean over trainings (nan with one).
    """

    value: float
    se: float
    mc_se: float
    seed_se: float


class Difference(NamedTuple):
    """A paired difference, row by row, in nats per row.

    `se` is that of the mean over rows of the differences, `seed_se` that between trainings (nan unless both have
    several), `unpaired_se` what `se` would be if the rows had not been the same.
    """

    value: float
    se: float
    seed_se: float
    unpaired_se: float

    @property
    def total_se(self) -> float:
        """Both sources of error; of rows alone where there is one training."""
        return math.hypot(self.se, 0.0 if math.isnan(self.seed_se) else self.seed_se)

    @property
    def told_apart(self) -> bool:
        """Whether it is more than two standard errors from 0."""
        return abs(self.value) > 2 * self.total_se


class LatentUse(NamedTuple):
    """What the latents of one training are used for; NaN where it is not known.

    `active` of `units` latents are active (Burda et al. 2016); `total_correlation` is KL(q(z) || prod_i q(z_i)) in
    nats; `mig` the mutual information gap, where factors of the rows are known; `probe` the share of labels that a
    linear classifier reads from posterior means, where there are labels.
    """

    active: float
    units: int
    total_correlation: float
    mig: float = math.nan
    probe: float = math.nan


@dataclass(frozen=True)
class Compared:
    """A pair, or several trainings of it, with one evaluation for each on the same rows.

    Attributes:
        name: for people.
        evaluations: one for each training (seed).
        parameters: how many numbers are learned in the model and, beside these, in the guide.
        seconds_per_epoch: the median over the epochs of training, where known.
        epochs: of training, the mean over trainings, where known.
        factors: what a grid varied, such as {"guide": "iaf", "bound": "iwae"}.
        latents: what the latents of each training are used for, where that was asked for.
    """

    name: str
    evaluations: tuple[Evaluation, ...]
    parameters: tuple[int, int]
    seconds_per_epoch: float | None = None
    epochs: float | None = None
    factors: Mapping[str, str] = field(default_factory=dict)
    latents: tuple[LatentUse, ...] = ()

    def use(self, what: str) -> tuple[float, float]:
        """The mean over trainings of a number of `LatentUse`, and its standard error (nan with one)."""
        values = torch.tensor([float(getattr(each, what)) for each in self.latents] or [math.nan])
        return float(values.mean()), float(standard_error(values))

    def rows(self, bound: BoundKey = "log_evidence") -> Float[Tensor, " row"]:
        """A bound of every row in nats, the mean over trainings, in float64."""
        return torch.stack([_values(e, bound) for e in self.evaluations]).mean(0)

    def estimate(self, bound: BoundKey = "log_evidence") -> MeanOverRows:
        """The mean over rows and its errors."""
        rows = self.rows(bound)
        means = torch.stack([_values(e, bound).mean() for e in self.evaluations])
        errors = [_monte_carlo(e, bound).square().sum() for e in self.evaluations]
        mc = float(torch.stack(errors).sum().sqrt()) / (len(rows) * len(errors))
        return MeanOverRows(float(rows.mean()), float(standard_error(rows)), mc, float(standard_error(means)))

    @property
    def unreliable_rows(self) -> float:
        """In how many rows k-hat is too large for the evidence to be believed, the mean over trainings.

        Where it was certified, in how many it could not be.
        """
        return sum(_doubtful(e) for e in self.evaluations) / len(self.evaluations)


def _doubtful(evaluation: Evaluation) -> int:
    sure = evaluation.certified
    return len(evaluation.unreliable) if sure is None else int((~sure.certified).sum())


def _values(evaluation: Evaluation, bound: BoundKey) -> Tensor:
    return _column(evaluation, bound, "").double().cpu()


def _monte_carlo(evaluation: Evaluation, bound: BoundKey) -> Tensor:
    return _column(evaluation, 1 if bound == "elbo" else bound, "_se").double().cpu()


def _column(evaluation: Evaluation, bound: BoundKey, suffix: str) -> Tensor:
    if isinstance(bound, str):
        if bound not in ("elbo", "log_evidence", "sampled"):
            raise UserError(f"unknown bound {bound!r}: use 'elbo', 'log_evidence' or a number of particles")
        if bound == "log_evidence":
            return evaluation.certain()[bool(suffix)]
        return getattr(evaluation, bound.replace("sampled", "log_evidence") + suffix)
    found = getattr(evaluation, "iwae" + suffix)
    if bound not in found:
        raise UserError(
            f"IWAE of {bound} particles was not evaluated: pass iwae= with it ({', '.join(map(str, found))})"
        )
    return found[bound]


def difference(one: Compared, other: Compared, bound: BoundKey = "log_evidence") -> Difference:
    """How much higher a bound of `one` is than that of `other`, on the same rows.

    d = mean_i (a_i - b_i), with the standard error sd_i(a_i - b_i) / sqrt(rows): what the rows have in common, such as
    how hard each is, does not enter it.
    """
    gap = one.rows(bound) - other.rows(bound)
    a, b = one.estimate(bound), other.estimate(bound)
    seeds = math.hypot(a.seed_se, b.seed_se) if one is not other else 0.0
    return Difference(float(gap.mean()), float(standard_error(gap)), seeds, math.hypot(a.se, b.se))


def ladder(particles: int, iwae: Sequence[int] | None = None) -> tuple[int, ...]:
    """The numbers of particles whose bounds are told, 1 among them: its Monte Carlo error is that of the ELBO.

    Raises:
        UserError: for one above `particles`, below 1, or not whole.

    Example:
        >>> ladder(1000), ladder(1000, (50, 2))
        ((1, 5, 10, 50, 100, 500), (1, 2, 50))
    """
    particles = check_whole("particles", particles)
    if iwae is None:
        return tuple(k for k in LADDER if k < particles or k == 1)
    several = check_several("iwae", iwae, "numbers of particles, such as (1, 5)")
    sizes = sorted({1, *(check_whole("iwae", k) for k in several)})
    if sizes[-1] > particles:
        raise UserError(f"iwae expects numbers of particles from 1 to {particles:,}, got {sizes[-1]:,}: draw more")
    return tuple(sizes)
