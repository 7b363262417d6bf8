"""Scores of draws against what came true."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["crps"]


def crps(draws: Tensor, truth: Tensor) -> Tensor:
    """The continuous ranked probability score of draws [draw, ...] at the truth [...], in its units; less is better.

    E|X - y| - E|X - X'| / 2, estimated without bias from the draws. Source: Gneiting & Raftery 2007, JASA 102; Ferro
    2014, Q. J. R. Meteorol. Soc. 140 (the fair score).

    Example:
        >>> crps(torch.tensor([[0.0], [2.0]]), torch.tensor([1.0]))  # E|X - y| = 1, E|X - X'| / 2 = 1
        tensor([0.])
    """
    count = len(draws)
    ranked = draws.sort(0).values
    weights = 2.0 * torch.arange(count, dtype=draws.dtype, device=draws.device) - (count - 1)
    spread = (weights.reshape(-1, *(1,) * (draws.dim() - 1)) * ranked).sum(0) / (count * (count - 1))
    return (draws - truth).abs().mean(0) - spread
