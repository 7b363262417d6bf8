"""Tests of ranks: whether they are uniform, symmetric, and as spread as they ought to be. Knows no model."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

__all__ = ["Band", "RankTests", "ecdf_band", "hommel", "rank_tests", "simes"]

NULL_DRAWS = 20_000
"""Sets of uniform ranks from which the distribution of the uniformity statistic is known."""


class RankTests(NamedTuple):
    """p-values of the three tests of one set of ranks, and what the ranks say about the draws.

    `shift` is where the truth lies above the draws on average, in their standard deviations; `width` how wide the draws
    are relative to what they should be. Both are exact for normals and a rule of thumb for anything else. `log_gamma`
    is the log of the statistic of uniformity less that of its 5% point: below 0 it is rejected, alone, at 5%.
    """

    uniform: float
    symmetric: float
    spread: float
    shift: float
    width: float
    log_gamma: float = 0.0


class Band(NamedTuple):
    """Simultaneous limits of an ECDF of uniform ranks at the points z, as differences to z."""

    z: Float[np.ndarray, " point"]
    low: Float[np.ndarray, " point"]
    high: Float[np.ndarray, " point"]


def rank_tests(ranks: Int[np.ndarray, " simulation"], draws: int) -> RankTests:
    """Test ranks of truths among `draws` draws, which are uniform on 0, ..., draws if the draws are exact.

    *uniform*: the ECDF against its simultaneous band; the statistic is the smallest pointwise binomial p-value, its
    distribution is simulated for these very numbers, so that the level is right for discrete ranks. *symmetric*: the
    signed-rank test of symmetry about the middle, which draws that are too low or too high break, and draws that are
    too wide or too narrow do not. *spread*: the variance of the normal scores of the ranks against its exact value.

    Source: Säilynoja et al. 2022, arXiv 2103.10522 (uniform); Modrák et al. 2023, arXiv 2211.02383 (log-gamma);
    Yao et al. 2018, arXiv 1802.02538 (symmetry).

    Example:
        >>> ranks = np.random.default_rng(0).integers(0, 100, 1000)
        >>> [round(p, 2) for p in rank_tests(ranks, 99)[:3]]
        [0.28, 0.08, 0.67]
    """
    scores = _scores(draws)[ranks]
    exact = float(np.mean(_scores(draws) ** 2))
    found = float(scores.var(ddof=1)) if len(ranks) > 1 else exact
    spread = (np.mean(_scores(draws) ** 4) - exact**2) / len(ranks)
    centred = ranks - draws / 2
    symmetric = stats.wilcoxon(centred, zero_method="zsplit", method="approx").pvalue if centred.any() else 1.0
    uniform, log_gamma = _uniform(ranks, draws)
    return RankTests(
        uniform=uniform,
        symmetric=float(symmetric),
        spread=float(2 * stats.norm.sf(abs(found - exact) / np.sqrt(spread))),
        shift=float(scores.mean()),
        width=float(np.sqrt(exact / found)) if found > 0 else float("inf"),
        log_gamma=log_gamma,
    )


def ecdf_band(simulations: int, draws: int, level: float = 0.95) -> Band:
    """The band that holds all of the ECDF of uniform ranks with this probability.

    Source: Säilynoja et al. 2022, arXiv 2103.10522.

    Example:
        >>> band = ecdf_band(1000, 99)
        >>> round(float(band.high.max()), 3)
        0.048
    """
    null = _null(simulations, draws)
    gamma = float(np.quantile(null, 1 - level))
    z = _points(draws)
    low, high = (stats.binom.ppf(q, simulations, z) / simulations for q in (gamma / 2, 1 - gamma / 2))
    return Band(z, low - z, high - z)


def hommel(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p-values corrected for the number of tests, which are positively dependent or independent.

    A hypothesis is rejected where Simes' test, min_i n p_(i) / i, rejects every set of n hypotheses that has it. That
    is never less than Holm's correction rejects, and much more where several tests see one fault. Simes' level is exact
    under independence and kept under positive dependence (Sarkar 1998), such as between ranks of the same truths;
    benchmarks/calibration_tests.py counts it.

    Source: Simes 1986, Biometrika 73, 751-754; Hommel 1988, Biometrika 75, 383-386.

    Example:
        >>> hommel(np.array([0.01, 0.04, 0.03])).tolist()
        [0.03, 0.04, 0.04]
    """
    n, order = len(p), np.argsort(p)
    p_sorted = p[order]
    found = np.full(n, np.min(n * p_sorted / np.arange(1, n + 1), initial=1.0))
    for size in range(n - 1, 1, -1):  # the sets of this size that hold the largest p-values beside this one
        largest = np.min(size * p_sorted[n - size + 1 :] / np.arange(2, size + 1))
        each = np.minimum(size * p_sorted, largest)
        each[n - size + 1 :] = each[n - size]
        found = np.maximum(found, each)
    corrected = np.empty_like(p)
    corrected[order] = np.maximum(found, p_sorted)
    return corrected


def simes(p: Float[np.ndarray, " test"]) -> float:
    """The p-value of all tests together, min_i n p_(i) / i: whether every hypothesis is true (`hommel` says which not).

    Example:
        >>> round(simes(np.array([0.01, 0.04, 0.03])), 3)
        0.03
    """
    return float(np.min(len(p) * np.sort(p) / np.arange(1, len(p) + 1), initial=1.0))


def _points(draws: int) -> np.ndarray:
    return np.arange(1, draws + 1) / (draws + 1)


def _scores(draws: int) -> np.ndarray:
    """The normal score of every rank."""
    return stats.norm.ppf((np.arange(draws + 1) + 0.5) / (draws + 1))


def _uniform(ranks: np.ndarray, draws: int) -> tuple[float, float]:
    """The p-value of the statistic gamma, and log gamma less its 5% point."""
    counts = np.bincount(ranks, minlength=draws + 1)
    smallest = _smallest(counts[None], _pointwise(len(ranks), draws))[0]
    null = _null(len(ranks), draws)
    p_value = float((1 + np.sum(null <= smallest * (1 + 1e-9))) / (1 + len(null)))
    return p_value, float(np.log(max(smallest, 1e-300)) - np.log(np.quantile(null, 0.05)))


@lru_cache(maxsize=64)
def _pointwise(simulations: int, draws: int) -> np.ndarray:
    """Two-sided binomial p-value of every count of ranks below every point, [count, point]."""
    counts, z = np.arange(simulations + 1)[:, None], _points(draws)
    below, above = stats.binom.cdf(counts, simulations, z), stats.binom.sf(counts - 1, simulations, z)
    return np.minimum(1.0, 2 * np.minimum(below, above))


def _smallest(counts: np.ndarray, pointwise: np.ndarray) -> np.ndarray:
    """The statistic of histograms [set, rank]: the smallest p-value over all points, [set]."""
    below = np.cumsum(counts, axis=1)[:, :-1]
    return pointwise[below, np.arange(below.shape[1])].min(1)


@lru_cache(maxsize=64)
def _null(simulations: int, draws: int) -> np.ndarray:
    """The statistic of sets of uniform ranks."""
    generator = np.random.default_rng(0)
    pointwise, found = _pointwise(simulations, draws), []
    share = np.full(draws + 1, 1 / (draws + 1))
    at_once = max(1, 2**21 // (draws + 1))
    for start in range(0, NULL_DRAWS, at_once):
        sets = generator.multinomial(simulations, share, size=min(at_once, NULL_DRAWS - start))
        found.append(_smallest(sets, pointwise))
    return np.concatenate(found)
