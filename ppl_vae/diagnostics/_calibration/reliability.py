"""Whether class probabilities are calibrated: exact tests by drawing labels from the probabilities themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

__all__ = ["BINS", "Reliability", "reliability"]

BINS = 10
"""Bins of equal width of the confidence, the probability of the likeliest class."""


@dataclass(frozen=True)
class Reliability:
    """How often classes are right that a guide gives with some probability, over simulated rows.

    Attributes:
        name: the latent.
        rows: how many rows there were.
        confidence: mean probability of the likeliest class, [bin]; nan in a bin without rows.
        frequency: how often that class was the true one, [bin].
        frequency_se: its binomial standard error if the probabilities are right, [bin].
        counts: rows in each bin.
        ece: expected calibration error, sum over bins of share |frequency - confidence|.
        ece_expected: what it is on average for calibrated probabilities and so many rows.
        sharpness: the factor by which the log-odds are too large (above 1: overconfident), by maximum likelihood.
        excess: expected minus true number of rows of each class, as a share of all rows, [class].
        p_confidence: of the score test of that factor being 1.
        p_frequency: of the chi-squared statistic of the numbers of rows of each class.
    """

    name: str
    rows: int
    confidence: Float[np.ndarray, " bin"]
    frequency: Float[np.ndarray, " bin"]
    frequency_se: Float[np.ndarray, " bin"]
    counts: Int[np.ndarray, " bin"]
    ece: float
    ece_expected: float
    sharpness: float
    excess: Float[np.ndarray, " level"]
    p_confidence: float
    p_frequency: float

    def summary(self) -> dict[str, Any]:
        """Plain numbers, the table of confidence included."""
        table = [
            {"confidence": float(c), "frequency": float(f), "frequency_se": float(s), "rows": int(n)}
            for c, f, s, n in zip(self.confidence, self.frequency, self.frequency_se, self.counts, strict=True)
            if n
        ]
        numbers = ("ece", "ece_expected", "sharpness", "p_confidence", "p_frequency")
        return {"rows": self.rows, "table": table, **{name: float(getattr(self, name)) for name in numbers}}


def reliability(
    name: str,
    probs: Float[np.ndarray, "row level"],
    labels: Int[np.ndarray, " row"],
    *,
    replicates: int = 9999,
    seed: int = 0,
) -> Reliability:
    """Test that labels are drawn from probabilities, y_i ~ p_i.

    The score of a common factor on all log-odds at 1 is sum_i log p_i(y_i) - E log p_i(y): negative if the
    probabilities are too sure. The numbers of rows of each class against sum_i p_i(c) give a chi-squared statistic.
    Both are compared with labels drawn from p_i, which makes the tests exact for any number of rows, without bins.

    Source: Cox 1958, Biometrika 45, 562-565 (the slope); Guo et al. 2017, arXiv 1706.04599 (ECE).

    Example:
        >>> generator = np.random.default_rng(0)
        >>> p = generator.dirichlet(np.ones(3), 1000)
        >>> y = (generator.random((1000, 1)) > p.cumsum(1)).sum(1)
        >>> found = reliability("y", p, y)
        >>> round(found.sharpness, 1), found.p_confidence > 0.05, found.p_frequency > 0.05
        (1.0, True, True)
    """
    probs = np.asarray(probs, float) / np.asarray(probs, float).sum(1, keepdims=True)
    tests = _Statistics.of(probs)
    score, numbers, hits = tests.at(labels[:, None])
    null_score, null_numbers, null_hits = tests.null(replicates, np.random.default_rng(seed))
    slack = 1e-9 * max(1.0, np.abs(null_score).max())  # sums of the same terms in another order are equal
    tails = [np.sum(null_score <= score + slack), np.sum(null_score >= score - slack)]
    with np.errstate(invalid="ignore"):
        frequency = hits[0] / tests.counts
        se = np.sqrt(tests.variance) / tests.counts
        confidence = tests.confidence / tests.counts
    return Reliability(
        name=name,
        rows=len(labels),
        confidence=confidence,
        frequency=frequency,
        frequency_se=se,
        counts=tests.counts,
        ece=float(tests.error(hits)[0]),
        ece_expected=float(tests.error(null_hits).mean()),
        sharpness=_sharpness(probs, labels),
        excess=probs.mean(0) - np.bincount(labels, minlength=probs.shape[1]) / len(labels),
        p_confidence=min(1.0, float(2 * (1 + min(tails)) / (1 + replicates))),
        p_frequency=float((1 + np.sum(null_numbers >= numbers - 1e-9)) / (1 + replicates)),
    )


@dataclass(frozen=True)
class _Statistics:
    """The statistics of labels [row, replicate] given probabilities [row, class]."""

    probs: np.ndarray
    bins: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    variance: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, probs: np.ndarray) -> _Statistics:
        top = probs.max(1)
        bins = np.minimum((top * BINS).astype(int), BINS - 1)
        covariance = np.diag(probs.sum(0)) - probs.T @ probs
        return cls(
            probs,
            bins,
            np.bincount(bins, minlength=BINS),
            np.bincount(bins, weights=top, minlength=BINS),
            np.bincount(bins, weights=top * (1 - top), minlength=BINS),
            np.linalg.pinv(covariance, hermitian=True, rtol=1e-9),
        )

    def at(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score [replicate], chi-squared [replicate], and right classes [replicate, bin]."""
        return self._sums(labels.shape[1], lambda row: labels[row])

    def null(self, replicates: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of labels drawn from the probabilities."""
        edges = self.probs.cumsum(1)
        edges[:, -1] = 1.0
        return self._sums(replicates, lambda row: np.searchsorted(edges[row], generator.random(replicates), "right"))

    def _sums(self, replicates: int, labels_of: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # row by row: memory does not grow with rows x replicates
        score, hits = np.zeros(replicates), np.zeros((replicates, BINS))
        numbers, every = np.zeros((replicates, self.probs.shape[1])), np.arange(replicates)
        logs = np.log(np.maximum(self.probs, 1e-300))
        centred = logs - (self.probs * logs).sum(1, keepdims=True)
        for row, (p, top) in enumerate(zip(self.probs, self.probs.argmax(1), strict=True)):
            labels = labels_of(row)
            score += centred[row, labels]
            hits[:, self.bins[row]] += labels == top
            numbers[every, labels] += 1
            numbers -= p
        return score, ((numbers @ self.weight) * numbers).sum(1), hits

    def error(self, hits: np.ndarray) -> np.ndarray:
        """The expected calibration error, [replicate]."""
        return np.abs(hits - self.confidence).sum(1) / len(self.probs)


def _sharpness(probs: np.ndarray, labels: np.ndarray) -> float:
    """1 / b for the b that maximises the likelihood of labels under p^b / sum p^b, between 1/30 and 30."""
    logs = np.log(np.maximum(probs, 1e-300))
    own = logs[np.arange(len(labels)), labels]

    def loss(log_b: float) -> float:
        b = np.exp(log_b)
        return float((logsumexp(b * logs, axis=1) - b * own).sum())

    return float(np.exp(-minimize_scalar(loss, bounds=(-3.4, 3.4), method="bounded").x))
