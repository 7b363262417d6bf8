"""Codes of several epochs in planes that can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["principal", "t_sne"]


def principal(site: str, means: Floats, deviations: Floats) -> tuple[Floats, Floats | None, tuple[str, str]]:
    """Points [epoch, row, 2] and covariances of posteriors in the plane of the last epoch's two principal axes.

    Example:
        >>> means = np.array([[[1.0, 0, 0], [-1, 0, 0], [0, 0.5, 0]]])
        >>> points, covariances, _ = principal("z", means, np.full_like(means, 0.1))
        >>> points.shape, bool(np.allclose(covariances[0, 0], 0.01 * np.eye(2)))
        ((1, 3, 2), True)
    """
    if means.shape[2] == 2:
        axes, centre, names = np.eye(2), np.zeros(2), [f"{site}0", f"{site}1"]
    else:
        centre = means[-1].mean(0)
        _, sizes, axes = np.linalg.svd(means[-1] - centre, full_matrices=False)
        axes = axes[:2] * np.sign(axes[:2][np.arange(2), np.abs(axes[:2]).argmax(1)])[:, None]
        share = 100 * sizes**2 / max((sizes**2).sum(), 1e-30)
        names = [f"{n} axis of the last ({s:.0f} %)" for n, s in zip(("first", "second"), share, strict=False)]
    points = (means - centre) @ axes.T
    known = bool(np.isfinite(deviations).all())
    covariances = np.einsum("ad,erd,bd->erab", axes, deviations**2, axes) if known else None
    return points, covariances, (names[0], names[1])


def t_sne(means: Floats, seed: int) -> Floats:
    """A map of each epoch; it begins at the one before, and is turned and mirrored to it."""
    from sklearn.manifold import TSNE

    rows, found = means.shape[1], list[np.ndarray]()
    perplexity = min(30.0, max(1.0, rows / 9))  # of few rows fewer are near
    for z in means:
        start = _start(found[-1] if found else _two(z), seed)
        points = TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(z.astype("float32"))
        points = points.astype("float64") - points.mean(0)
        found.append(points @ _turn(points, found[-1]) if found else points)
    return np.stack(found)


def _two(z: Floats) -> Floats:
    centred = z - z.mean(0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T


def _start(points: Floats, seed: int) -> Floats:
    """Small, as t-SNE begins; where all rows are in one place, a little apart."""
    spread = points.std()
    noise = np.random.default_rng(seed).standard_normal(points.shape)
    return np.asarray(1e-4 * (points / spread if spread > 1e-12 else noise), dtype="float32")


def _turn(points: Floats, to: Floats) -> Floats:
    """The rotation, or reflection, that brings points nearest to others."""
    left, _, right = np.linalg.svd(points.T @ to)
    return np.asarray(left @ right)
