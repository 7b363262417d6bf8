"""Whether probability integral transforms are uniform, where those of one row depend on each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["GRID", "Uniformity", "uniformity"]

GRID = torch.arange(1, 50, dtype=torch.float64) / 50
"""Where distribution functions are compared: 0.02, 0.04, ..., 0.98."""


class Uniformity(NamedTuple):
    """The empirical distribution function minus t at `GRID`, the half width of its 95 % band there, and the p-value."""

    difference: Float[Tensor, " grid"]
    band: Float[Tensor, " grid"]
    p_value: float


def uniformity(u: Float[Tensor, "row entry"], *, draws: int = 999, seed: int = 0) -> Uniformity:
    """Test that numbers in [0, 1] are uniform, when rows are independent and the entries of a row need not be.

    The statistic is the largest |F(t) - t| / sqrt(t (1 - t)) over a grid, F the distribution function of all entries.
    Under the null rows contribute deviations sum_j (1[u_ij <= t] - t) that are independent with mean 0, so that random
    signs of whole rows give its distribution (a wild bootstrap of clusters: exact for symmetric deviations, else as
    rows become many; below 30 rows do not lean on it). Entries that are NaN are left out.

    Args:
        u: [row, entry].
        draws: of signs; the smallest p-value is 1 / (1 + draws).
        seed: of the signs.

    Source: Cameron, Gelbach & Miller 2008 (wild cluster bootstrap); Saeilynoja, Buerkner & Vehtari 2022, arXiv
    2103.10522 (difference of distribution functions with a band).

    Example:
        >>> u = torch.rand(400, 3, generator=torch.manual_seed(0))
        >>> uniformity(u).p_value > 0.05, uniformity(u**1.3).p_value < 0.01
        (True, True)
    """
    seen = ~u.isnan()
    grid = GRID.to(u.device)
    rows = torch.stack([((u <= t).double() - t).masked_fill(~seen, 0.0).sum(1) for t in grid], 1)
    rows = rows / seen.sum()
    # errors of rows that were estimated at each t would be far too small where no entry, or every one, is below t
    weight = (grid * (1 - grid)).sqrt()
    generator = torch.Generator().manual_seed(seed)
    signs = (2 * torch.randint(0, 2, (draws, len(u)), generator=generator) - 1).to(rows)
    largest = ((signs @ rows).abs() / weight).max(1).values
    difference = rows.sum(0)
    statistic = (difference.abs() / weight).max()
    p_value = (1 + int((largest >= statistic).sum())) / (1 + draws)
    return Uniformity(difference.cpu(), (largest.quantile(0.95) * weight).cpu(), p_value)
