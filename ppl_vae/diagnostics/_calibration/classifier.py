"""A classifier that tells truths from a guide's draws, all its retrainings under the null at once. Knows no model.

Of every simulated row there are a truth z ~ p(z | x) and a draw z' ~ q(z | x). If q is the posterior, they may be
swapped in any row. The classifier is linear in features f(z, x), fitted by least squares to the differences
d_i = f(z_i, x_i) - f(z'_i, x_i):

    w = (sum_i d_i d_i^T + penalty)^-1 sum_i d_i,

Swapping pair i changes the sign of d_i and leaves the matrix as it is, so that the classifiers under the null are one
product of matrices, and their p-values are exact for any number of rows.

Source: Linhart et al. 2023, arXiv 2306.03580 (a classifier asked at single rows); Fisher 1936 (the linear one).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Classifiers", "Units", "features", "kinds", "local_statistics", "swapped", "units_of"]

PENALTY = 1e-3
"""Of the least squares, relative to the mean square of a feature's differences."""

QUADRATIC = 12
"""Latent numbers up to which all their products are features; of more, squares and products with the next ones."""

ROWS_EACH = 4
"""So many simulated rows at least for every feature: else features of the row are left out."""


class Units(NamedTuple):
    """Where a guide's draws for each row lie, and how widely, by draws that are not among those compared."""

    loc: Float[Tensor, "row d"]
    tril: Float[Tensor, "row d d"]

    def of(self, u: Float[Tensor, "*draw row d"]) -> Float[Tensor, "*draw row d"]:
        """Values in these units: of a normal guide they are standard normal and independent."""
        apart = (u - self.loc).unsqueeze(-1)
        tril = self.tril.expand(*apart.shape[:-2], *self.tril.shape[-2:])
        return torch.linalg.solve_triangular(tril, apart, upper=False).squeeze(-1)


def units_of(draws: Float[Tensor, "draw row d"]) -> Units:
    """Mean and Cholesky factor of the covariance of draws, row by row.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> found = units_of(3 + 2 * torch.randn(1000, 1, 2))
        >>> found.tril.squeeze(0).diagonal().round(decimals=0)
        tensor([2., 2.])
    """
    loc = draws.mean(0)
    apart = draws - loc
    spread = torch.einsum("kri,krj->rij", apart, apart) / (len(draws) - 1)
    diagonal = spread.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12)
    return Units(loc, torch.linalg.cholesky(spread + torch.diag_embed(1e-4 * diagonal)))


def features(
    v: Float[Tensor, "*draw row d"],
    row: Float[Tensor, "row k"] | None = None,
    middle: Float[Tensor, " own"] | None = None,
) -> Float[Tensor, "*draw row feature"]:
    """Latents in units of the guide, their products, and both times each of some features of the row.

    Linear ones are of a shift, squares of a width, products of a dependence; those of the row say for which rows.
    Values far outside count as 4 units, so that no single draw decides. Latents and products are told from `middle`,
    their mean over truths and draws, from which answers are measured.
    """
    v = v.clamp(-4.0, 4.0)
    d = v.shape[-1]
    if d <= QUADRATIC:
        one, other = torch.triu_indices(d, d)
        products = v[..., one] * v[..., other]
    else:
        products = torch.cat([v.square(), v[..., 1:] * v[..., :-1]], -1)
    own = torch.cat([v, products], -1)
    own = own if middle is None else own - middle
    if row is None or not row.shape[-1]:
        return own
    with_row = own.unsqueeze(-1) * torch.cat([torch.ones_like(row[:, :1]), row], -1).unsqueeze(-2)
    return with_row.flatten(-2)


class Classifiers(NamedTuple):
    """The weights of the classifier, first, and of those under the null, and what each feature adds to T."""

    weights: Float[Tensor, "feature classifier"]
    parts: Float[Tensor, "feature classifier"]

    @property
    def statistic(self) -> Float[Tensor, " classifier"]:
        """T = sum_i d_i^T w, the larger the better it tells."""
        return self.parts.sum(0)

    @property
    def p_value(self) -> float:
        """How often a classifier of swapped pairs tells as well, this one among them."""
        return float((self.statistic >= self.statistic[0] * (1 - 1e-9)).double().mean())


def swapped(
    differences: Float[Tensor, "row feature"], count: int, generator: torch.Generator | None = None
) -> Classifiers:
    """Fit the classifier, and `count` others to pairs that were swapped at random.

    Example:
        >>> d = torch.randn(500, 3, generator=torch.manual_seed(0))
        >>> draw = torch.Generator().manual_seed(0)
        >>> swapped(d, 199, draw).p_value > 0.05, swapped(d + 0.3, 199, draw).p_value
        (True, 0.005)
    """
    d = differences.double()
    moment = d.T @ d
    size = moment.diagonal()
    ridge = PENALTY * torch.where(size > 0, size, size.max().clamp(min=1e-12))
    signs = torch.ones(len(d), count + 1, dtype=torch.float64)
    signs[:, 1:] -= 2 * torch.randint(0, 2, (len(d), count), generator=generator)
    sums = d.T @ signs.to(d.device)
    weights = torch.linalg.solve(moment + torch.diag(ridge), sums)
    return Classifiers(weights, sums * weights)


def local_statistics(found: Classifiers, seen: Float[Tensor, "draw row feature"]) -> Float[Tensor, "row classifier"]:
    """How sure each classifier is of a row's draws: the mean square of its answers, relative to that under the null.

    Answers f(z, x)^T w are 0 where truths and draws are of one distribution, but for noise in w. Where a mode is left
    out they are alike for all draws, and not 0.
    """
    weights = found.weights.to(seen)
    spread = torch.stack([(some @ weights).square().mean(0) for some in seen.movedim(1, 0)]).double()
    return spread / spread[:, 1:].mean(1, keepdim=True).clamp(min=1e-300)


def kinds(found: Classifiers, d: int, rows: int) -> dict[str, float]:
    """How far q is from p, about KL(p || q) in nats per row, by what is wrong; 0 on average under the null.

    For differences that are small, T / rows is the divergence: of a shift by s deviations, s^2 / 2.
    """
    own = features(torch.zeros(1, d)).shape[-1]
    each = found.parts.reshape(own, -1, found.parts.shape[-1]).sum(1)  # of a feature and it times those of the row
    excess = (each[:, 0] - each[:, 1:].mean(1)) / rows
    linear = torch.arange(own) < d
    square = torch.zeros(own, dtype=torch.bool)
    if d <= QUADRATIC:
        one, other = torch.triu_indices(d, d)
        square[d:] = one == other
    else:
        square[d : 2 * d] = True
    names = {"shift": linear, "width": square, "dependence": ~linear & ~square}
    return {name: float(excess[which].sum()) for name, which in names.items() if bool(which.any())}
