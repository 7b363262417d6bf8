"""Means over independent rows or draws, and how sure they are."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["standard_error"]


def standard_error(values: Tensor) -> Tensor:
    """Of the mean over the first dim, sd / sqrt(n) with the deviation of n - 1; nan where there are fewer than two.

    Shapes: values [n, ...] -> [...]; in the units of the values.

    Example:
        >>> import torch
        >>> standard_error(torch.tensor([1.0, 3.0])), standard_error(torch.tensor([1.0]))
        (tensor(1.), tensor(nan))
    """
    if len(values) < 2:
        return values.new_full(values.shape[1:], math.nan)
    return values.std(0) / math.sqrt(len(values))
