"""The area under the ROC curve of scores, its standard error, and those of differences (DeLong)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from ppl_vae.errors import UserError

__all__ = ["AUC", "auc", "auc_difference"]


class AUC(NamedTuple):
    """An area under the ROC curve, or a difference of two, with its standard error over rows.

    Example:
        >>> AUC(0.9, 0.02).value
        0.9
    """

    value: float
    se: float


def auc(score: Float[Tensor, " row"], outliers: Bool[Tensor, " row"]) -> AUC:
    """The probability that an outlier scores higher than an inlier, ties counting half.

    AUC = mean over pairs of 1[s_out > s_in] + 1/2 1[s_out = s_in]. The standard error is DeLong's: the placements of
    outliers among inliers, and of inliers among outliers, are two independent samples.

    Raises:
        UserError: without at least two outliers and two inliers.

    Source: DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837; Sun & Xu 2014 (by ranks).

    Example:
        >>> import torch
        >>> auc(torch.tensor([0.1, 0.2, 0.3, 0.25, 0.9]), torch.tensor([0, 0, 0, 1, 1]).bool()).value
        0.8333...
    """
    return _of(*_placements(score, outliers))


def auc_difference(score: Float[Tensor, " row"], other: Float[Tensor, " row"], outliers: Bool[Tensor, " row"]) -> AUC:
    """AUC of one score minus that of another on the same rows, with the standard error of the difference."""
    (out, inside), (other_out, other_in) = _placements(score, outliers), _placements(other, outliers)
    return _of(out - other_out, inside - other_in)


def _of(out: np.ndarray, inside: np.ndarray) -> AUC:
    variance = out.var(ddof=1) / len(out) + inside.var(ddof=1) / len(inside)
    return AUC(float(out.mean()), math.sqrt(variance))


def _placements(score: Tensor, outliers: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """For each outlier the share of inliers below it, for each inlier the share of outliers above it."""
    from scipy.stats import rankdata

    values, marked = score.detach().double().cpu().numpy(), outliers.cpu().numpy().astype(bool)
    out, inside = values[marked], values[~marked]
    if min(len(out), len(inside)) < 2:
        raise UserError(f"an AUC needs two outliers and two inliers, got {len(out)} and {len(inside)}: add rows")
    ranks = rankdata(np.concatenate([out, inside]))
    above = (ranks[: len(out)] - rankdata(out)) / len(inside)
    return above, 1 - (ranks[len(out) :] - rankdata(inside)) / len(out)
