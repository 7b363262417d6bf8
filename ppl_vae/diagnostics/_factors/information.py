"""Mutual information between latents and factors, of histograms, with what chance alone would show."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "binned", "bins_for", "codes_of", "entropies", "mutual_information", "permutation_null"]

BINS = 20
"""Of the histogram of each latent, as in the tables that are published."""

Floats: TypeAlias = NDArray[np.float64]
Codes: TypeAlias = NDArray[np.int64]


def bins_for(rows: int) -> int:
    """Bins for so many rows, at least 50 in each on average: else what chance tells would cover all.

    Example:
        >>> bins_for(10_000), bins_for(400), bins_for(60)
        (20, 8, 4)
    """
    return min(BINS, max(4, rows // 50))


def binned(latents: Floats, bins: int = BINS) -> Codes:
    """The bin of every latent of every row, of equal widths from its least to its largest value, [row, latent].

    Example:
        >>> binned(np.array([[0.0], [0.5], [1.0]]), 2)[:, 0].tolist()
        [0, 1, 1]
    """
    low, high = latents.min(0), latents.max(0)
    width = np.where(high > low, high - low, 1.0)
    return np.clip(((latents - low) / width * bins).astype("int64"), 0, bins - 1)


def codes_of(values: Floats, bins: int = BINS) -> Codes:
    """Whole numbers for a factor: those of its values, or bins of equally many rows if it has many of them.

    Example:
        >>> codes_of(np.array([0.5, 1.0, 0.5])).tolist(), len(np.unique(codes_of(np.arange(5000.0))))
        ([0, 1, 0], 20)
    """
    known, codes = np.unique(values, return_inverse=True)
    if len(known) <= max(2, min(bins * bins, len(values) // 8)):
        return codes.astype("int64")
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, values, side="right").astype("int64")


def mutual_information(bins: Codes, codes: Codes) -> Floats:
    """The plug-in estimate between each column of bins and each of codes, in nats, [latent, factor].

    Example:
        >>> same = np.arange(4)[:, None]
        >>> bool(np.isclose(mutual_information(same, same)[0, 0], np.log(4)))
        True
    """
    found = np.zeros((bins.shape[1], codes.shape[1]))
    for j in range(codes.shape[1]):
        levels = codes[:, j].max() + 1
        for i in range(bins.shape[1]):
            counts = np.bincount(bins[:, i] * levels + codes[:, j], minlength=(bins[:, i].max() + 1) * levels)
            joint = counts.reshape(-1, levels) / len(bins)
            apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
            there = joint > 0
            found[i, j] = float((joint[there] * np.log(joint[there] / apart[there])).sum())
    return found


def entropies(codes: Codes) -> Floats:
    """The entropy of each column, in nats."""
    shares = (np.bincount(column) / len(column) for column in codes.T)
    return np.array([-float((p[p > 0] * np.log(p[p > 0])).sum()) for p in shares])


def permutation_null(bins: Codes, codes: Codes, permutations: int, seed: int) -> Floats:
    """For each factor the 0.95 quantile of the most that any latent tells of it where rows stand in random order."""
    generator = np.random.default_rng(seed)
    orders = (generator.permutation(len(codes)) for _ in range(permutations))
    return np.quantile([mutual_information(bins, codes[order]).max(0) for order in orders], 0.95, axis=0)
