"""The rows that a model is criticised by: held out, usual, and no more than are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.errors import UserError
from ppl_vae.evaluation.rows import rows_of

__all__ = ["held_out"]


def held_out(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, most: int, seed: int, fewest: int = 1
) -> tuple[Split, Int[Tensor, " row"]]:
    """The test rows of a data set that are not known to be outliers, or so many of them by chance, and their places.

    Raises:
        UserError: for fewer rows than are needed.

    Example:
        >>> split, places = held_out(None, None, torch.randn(9, 2), 3, seed=0)
        >>> len(split), len(set(places.tolist()))
        (3, 3)
    """
    split = rows_of(model, guide, data, rows_for="a check of rows")
    usual = torch.arange(len(split)) if split.outliers is None else (~split.outliers).nonzero()[:, 0].cpu()
    if not isinstance(most, int) or min(most, len(usual)) < fewest:
        raise UserError(f"expected {fewest} rows or more to compare, got {most!r} of {len(usual)}: pass more")
    if most < len(usual):
        chosen = torch.randperm(len(usual), generator=torch.Generator().manual_seed(seed))[:most]
        usual = usual[chosen.sort().values]
    return split.inliers() if len(usual) == len(split) else split.rows(usual).inliers(), usual
