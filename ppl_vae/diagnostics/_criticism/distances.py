"""Tests of whether two samples are of one distribution: MMD, a classifier, sliced Wasserstein.

Of `paired` samples row i of one belongs to row i of the other (it shares its conditions, or its missing entries), and
what is exchangeable under the null is the two rows of a pair: they are swapped, where else all rows are permuted. Every
p-value is valid for any number of rows: under the null it is at most t with probability at most t.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ppl_vae.errors import UserError, check_flag, check_number, check_whole, shown, within_memory
from ppl_vae.evaluation.passes import refuse_endless

__all__ = ["TwoSampleTest", "classifier_two_sample", "mmd", "sliced_wasserstein"]


class TwoSampleTest(NamedTuple):
    """A statistic, larger for samples that differ more, its p-value, and the statistic under the null [draw].

    Example:
        >>> a, b = torch.randn(2, 60, 3, generator=torch.manual_seed(1))
        >>> found = mmd(a, b, permutations=19)
        >>> found.p_value == (1 + int((found.null >= found.statistic).sum())) / 20
        True
    """

    statistic: float
    p_value: float
    null: Float[Tensor, " draw"]


@within_memory("mmd")
def mmd(
    a: Any, b: Any, *, bandwidth: float | None = None, permutations: int = 500, paired: bool = False, seed: int = 0
) -> TwoSampleTest:
    """The squared maximum mean discrepancy of two samples, without bias, and its permutation test.

    MMD^2 = E k(a, a') + E k(b, b') - 2 E k(a, b), k(u, v) = exp(-|u - v|^2 / (2 h^2)), each mean over pairs of
    different rows, so that it is 0 on average under the null and may be negative. h is the median distance in both
    samples together.

    Args:
        a: one sample [m, feature], on a scale on which distances mean something.
        b: the other [n, feature].
        bandwidth: h, if not the median distance.
        permutations: P; the p-value is (1 + those with a statistic at least as large) / (1 + P).
        paired: whether row i of a belongs to row i of b.
        seed: of the permutations.

    Raises:
        UserError: for samples that are no matrices of equal width, fewer than two rows, or permutations < 1.

    Source: Gretton, Borgwardt, Rasch, Schoelkopf & Smola 2012, JMLR 13:723, equation 3 (4, if paired).

    Example:
        >>> a, b = torch.randn(2, 60, 3, generator=torch.manual_seed(1))
        >>> mmd(a, b, permutations=199).p_value > 0.05, mmd(a, b + 2, permutations=199).p_value < 0.01
        (True, True)
    """
    both, m, n = _both(a, b, permutations, paired)
    bandwidth = None if bandwidth is None else check_number("bandwidth", bandwidth, positive=True)
    distance = torch.cdist(both, both)
    upper = distance[tuple(torch.triu_indices(len(both), len(both), 1))]
    h = float(upper.median()) or float(upper.mean()) or 1.0
    kernel = (-0.5 * (distance / (bandwidth or h)).square()).exp()
    own = kernel.diagonal().clone()
    statistics = []
    for first in _assignments(m, n, permutations, paired, seed):
        one, other = first.to(kernel.dtype), (~first).to(kernel.dtype)
        seen = one @ kernel
        within = ((seen * one).sum(1) - one @ own) / (m * (m - 1))
        apart = (((other @ kernel) * other).sum(1) - other @ own) / (n * (n - 1))
        across = (seen * other).sum(1)
        between = (across - kernel[:m, m:].trace()) / (n * (n - 1)) if paired else across / (m * n)
        statistics.append(within + apart - 2 * between)
    return _permuted(torch.cat(statistics))


@within_memory("sliced_wasserstein")
def sliced_wasserstein(
    a: Any, b: Any, *, directions: int = 100, permutations: int = 500, paired: bool = False, seed: int = 0
) -> TwoSampleTest:
    """The mean Wasserstein-1 distance of two samples along random directions, and its permutation test.

    SW = mean over unit vectors u of the integral of |F_a(t) - F_b(t)| dt, F the distribution functions of u^T a and
    u^T b. In the units of the features; above 0 under the null too.

    Args:
        a: one sample [m, feature].
        b: the other [n, feature].
        directions: random unit vectors, the same for all permutations.
        permutations: as for `mmd`.
        paired: whether row i of a belongs to row i of b.
        seed: of directions and permutations.

    Raises:
        UserError: as `mmd`.

    Source: Rabin, Peyre, Delon & Bernot 2011; Bonneel, Rabin, Peyre & Pfister 2015.

    Example:
        >>> a, b = torch.randn(2, 60, 3, generator=torch.manual_seed(1))
        >>> sliced_wasserstein(a, b).p_value > 0.05, sliced_wasserstein(a, b + 2).p_value < 0.01
        (True, True)
    """
    both, m, n = _both(a, b, permutations, paired)
    directions = check_whole("directions", directions)
    generator = torch.Generator().manual_seed(check_whole("seed", seed, 0))
    unit = torch.randn(both.shape[1], directions, generator=generator, dtype=both.dtype)
    along, order = (both @ (unit / unit.norm(dim=0))).sort(0)
    gaps = along.diff(dim=0)
    statistics = []
    for first in _assignments(m, n, permutations, paired, seed):
        step = torch.where(first, 1 / m, -1 / n).to(both.dtype)
        total = torch.zeros(len(step), dtype=both.dtype)
        for j in range(directions):
            total += step[:, order[:-1, j]].cumsum(1).abs() @ gaps[:, j]
        statistics.append(total / directions)
    return _permuted(torch.cat(statistics))


@within_memory("classifier_two_sample")
def classifier_two_sample(
    a: Any, b: Any, *, classifier: Any = None, paired: bool = False, seed: int = 0
) -> TwoSampleTest:
    """How well a classifier tells rows of two samples that it was not trained on, and its exact test.

    It is trained on one half of the rows (as many of each sample) and asked about the other half; under the null its
    accuracy is 1/2. The p-value is exact whatever the classifier: given its answers, the number that is right has a
    hypergeometric distribution (Fisher's exact test). Of `paired` samples the classifier is shown both rows of a pair
    and says which is of b: the accuracy is the share of pairs that it gets right (ties half), which is binomial.

    Args:
        a: one sample [m, feature].
        b: the other [n, feature]; of the larger sample a random part is used.
        classifier: any of scikit-learn with `fit` and `predict_proba`, by default a forest of 200 trees.
        paired: whether row i of a belongs to row i of b.
        seed: of the halves and the forest.

    Raises:
        UserError: as `mmd`; for fewer than four rows.

    Source: Lopez-Paz & Oquab 2017, arXiv 1610.06545.

    Example:
        >>> a, b = torch.randn(2, 60, 3, generator=torch.manual_seed(1))
        >>> classifier_two_sample(a, b).p_value > 0.05, classifier_two_sample(a, b + 2).p_value < 0.01
        (True, True)
    """
    from scipy.stats import binom, hypergeom

    both, m, n = _both(a, b, 1, paired)
    seed = check_whole("seed", seed, 0)
    if classifier is not None and not all(hasattr(classifier, name) for name in ("fit", "predict_proba")):
        raise UserError(f"classifier expects one of scikit-learn with predict_proba, got {shown(classifier)}")
    count = min(m, n)
    if count < 4:
        raise UserError(f"a classifier test needs four rows of each sample, got {count}: draw more")
    train, test = (both.numpy()[rows] for rows in _halves(m, n, paired, seed))
    rows, asked = len(train) // 2, len(test) // 2
    fitted = (_forest(seed) if classifier is None else classifier).fit(train, np.repeat([0, 1], rows))
    score = fitted.predict_proba(test)[:, 1]
    at = (np.arange(500) + 0.5) / 500  # the null as evenly spaced quantiles
    if paired:
        gain = score[asked:] - score[:asked]
        right, told = int((gain > 0).sum()), int((gain != 0).sum())
        null = (binom.ppf(at, told, 0.5) + (asked - told) / 2) / asked
        return TwoSampleTest(
            (right + (asked - told) / 2) / asked, float(binom.sf(right - 1, told, 0.5)), torch.as_tensor(null)
        )
    said = score > 0.5
    hits, of_b = int(said[asked:].sum()), int(said.sum())
    under = hypergeom(2 * asked, of_b, asked)  # how many of the rows said to be of b are
    null = (2 * under.ppf(at) + asked - of_b) / (2 * asked)
    return TwoSampleTest((2 * hits + asked - of_b) / (2 * asked), float(under.sf(hits - 1)), torch.as_tensor(null))


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(200, min_samples_leaf=3, random_state=seed % 2**32)


def _halves(m: int, n: int, paired: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Places in both samples, as many of each: first those of a, then those of b."""
    generator = torch.Generator().manual_seed(check_whole("seed", seed, 0))
    one = torch.randperm(m, generator=generator)
    other = (one if paired else torch.randperm(n, generator=generator)) + m
    count = min(m, n)
    half = count // 2
    return torch.cat([one[:half], other[:half]]), torch.cat([one[half:count], other[half:count]])


def _matrix(name: str, sample: Any) -> Tensor:
    try:
        return torch.as_tensor(np.asarray(sample, dtype=np.float64))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} expects a matrix of numbers [row, feature], got {shown(sample)}") from error


def _both(a: Any, b: Any, permutations: int, paired: bool) -> tuple[Tensor, int, int]:
    """Both samples one below the other, in doubles."""
    check_flag("paired", paired)
    one, other = _matrix("a", a), _matrix("b", b)
    if one.dim() != 2 or other.dim() != 2 or one.shape[1] != other.shape[1] or min(len(one), len(other)) < 2:
        raise UserError(
            f"two samples are matrices [row, feature] of one width with two rows or more, got shapes "
            f"{tuple(one.shape)} and {tuple(other.shape)}: flatten rows"
        )
    if paired and len(one) != len(other):
        raise UserError(f"paired samples have as many rows each, got {len(one)} and {len(other)}: leave paired out")
    permutations = check_whole("permutations", permutations)
    both = torch.cat([one, other])
    refuse_endless("permutations", permutations, len(both))
    if not bool(torch.isfinite(both).all()):
        raise UserError("two samples are compared by finite numbers, got NaN or infinity: drop rows or fill entries")
    return both, len(one), len(other)


def _assignments(m: int, n: int, permutations: int, paired: bool, seed: int) -> Iterator[Bool[Tensor, "draw row"]]:
    """Which rows are of the first sample: as they came, then under the null; some at a time."""
    generator = torch.Generator().manual_seed(check_whole("seed", seed, 0))
    yield torch.cat([torch.ones(1, m), torch.zeros(1, n)], 1).bool()
    at_once = max(1, 2**20 // (m + n))
    for start in range(0, permutations, at_once):
        count = min(at_once, permutations - start)
        if paired:
            swap = torch.rand(count, m, generator=generator) < 0.5
            yield torch.cat([~swap, swap], 1)
        else:
            place = torch.rand(count, m + n, generator=generator).argsort(1)
            yield place < m


def _permuted(statistics: Tensor) -> TwoSampleTest:
    """The test of the first statistic among the others; ties, but for rounding, count against the alternative."""
    observed, null = statistics[0], statistics[1:]
    slack = 1e-10 * statistics.abs().max()
    p_value = (1 + int((null >= observed - slack).sum())) / (1 + len(null))
    return TwoSampleTest(float(observed), p_value, null)
