"""A family of its own for each row: Student's t distributions with full scale matrices, one or a mixture of them.

Nothing is amortized: location and scale of a row are chosen by gradient steps on the row's own ELBO, then, for a
mixture, by importance sampling from what was found. A guide's answer is where the search begins, no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evaluation import evidence_of
from ppl_vae.weights.psis import smooth

__all__ = ["LocalFamily", "adapted", "fitted"]

DEGREES = 10.0
"""Of freedom of Student's t: its tails are heavier than those of a posterior under a normal prior."""

STEPS, RATE, DRAWS = 200, 0.05, 8
"""Of Adam on a row's ELBO: how many, the size of the first in units of the start's deviation, draws in each."""

WIDE, WIDER = 0.1, 3.0
"""The share of draws that look around a family, and how far they look in units of its spread."""

ROUNDS, ROUND_DRAWS, KEPT = 6, 512, 0.1
"""Of adapting a mixture: rounds, draws in each, and the share of the old scale that is kept against collapse."""

Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From u [draw, row, d] to log p(x, u) [draw, row] in nats and its gradient in u."""

Weigh = Callable[["LocalFamily", int], tuple[Tensor, Tensor]]
"""From a family and a number of draws to draws u [draw, row, d] and their log weights [draw, row] in nats."""


class LocalFamily(NamedTuple):
    """A mixture of t distributions for each row, over its unconstrained continuous latents u."""

    logits: Float[Tensor, "row part"]
    loc: Float[Tensor, "row part d"]
    tril: Float[Tensor, "row part d d"]

    def distribution(self) -> dist.TorchDistribution:
        """With batch shape [row] and event shape [d]."""
        if self.logits.shape[1] == 1:
            return dist.MultivariateStudentT(DEGREES, self.loc[:, 0], self.tril[:, 0], validate_args=False)
        parts = dist.MultivariateStudentT(DEGREES, self.loc, self.tril, validate_args=False)
        choice = dist.Categorical(logits=self.logits, validate_args=False)
        return dist.MixtureSameFamily(choice, parts, validate_args=False)

    def defended(self) -> LocalFamily:
        """The same and one more part: a tenth of the draws, about the mean of all with three times their spread."""
        share = self.logits.softmax(-1)
        mean = torch.einsum("rp,rpi->ri", share, self.loc)
        apart = self.loc - mean.unsqueeze(1)
        spread = torch.einsum("rp,rpij->rij", share, self.tril @ self.tril.mT)
        spread = spread + torch.einsum("rp,rpi,rpj->rij", share, apart, apart)
        tril, failed = torch.linalg.cholesky_ex(spread)
        tril = torch.where((failed > 0)[:, None, None], self.tril[:, 0], tril)
        shares = torch.cat([(1 - WIDE) * share, torch.full_like(share[:, :1], WIDE)], dim=1)
        return LocalFamily(
            shares.log(),
            torch.cat([self.loc, mean.unsqueeze(1)], dim=1),
            torch.cat([self.tril, WIDER * tril.unsqueeze(1)], dim=1),
        )

    def where(self, rows: Tensor, other: LocalFamily) -> LocalFamily:
        """This family for some rows [row], the other for the rest."""
        pairs = zip(self, other, strict=True)
        return LocalFamily(*(torch.where(rows.reshape(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs))


def fitted(gradient: Gradient, start: Float[Tensor, "part row d"], scale: Float[Tensor, "row d"]) -> LocalFamily:
    """For every row the normal of largest ELBO, E_q[log p(x, u) - log q(u)], and t distributions of its shape.

    Parts begin at different values of u and are fitted each for itself; their weights are exp(ELBO), which is their
    share of p(x) where they are apart. The gradient leaves out the score of q, whose expectation is 0.

    Args:
        gradient: of the rows' log joint density.
        start: where each part begins.
        scale: deviations at the beginning, and the unit of steps.

    Source: Roeder et al. 2017, arXiv 1703.09194 (the gradient); Cremer et al. 2018, arXiv 1801.03558 (rows' own fits).

    Example:
        >>> _ = torch.manual_seed(0)
        >>> target = torch.distributions.MultivariateNormal(torch.ones(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
        >>> def gradient(u):
        ...     with torch.enable_grad():
        ...         u = u.requires_grad_()
        ...         log = target.log_prob(u)
        ...         return log.detach(), torch.autograd.grad(log.sum(), u)[0]
        >>> found = fitted(gradient, torch.zeros(1, 1, 2), torch.ones(1, 2))
        >>> found.loc.squeeze().round(decimals=1), (found.tril @ found.tril.mT).squeeze()[0, 1].round(decimals=1)
        (tensor([1., 1.]), tensor(0.9000))
    """
    parts, rows, d = start.shape
    eye, below = torch.eye(d, dtype=start.dtype, device=start.device), torch.ones_like(start[0, :1, :, None])
    below = torch.tril(below.expand(1, d, d), -1)
    free = [torch.zeros_like(start), torch.zeros_like(start), start.new_zeros(parts, rows, d, d)]
    averages = [(torch.zeros_like(p), torch.zeros_like(p)) for p in free]
    for step in range(STEPS):
        loc, log_diagonal, lower = free
        tril = log_diagonal.exp().unsqueeze(-1) * eye + lower * below
        noise = torch.randn(DRAWS, *start.shape, dtype=start.dtype, device=start.device)
        v = loc + (tril @ noise.unsqueeze(-1)).squeeze(-1)
        slope = gradient((start + scale * v).flatten(0, 1))[1].unflatten(0, (DRAWS, parts)) * scale
        # minus the gradient of log q in v: what pulls draws together is made up for by what q gives away
        slope = slope.nan_to_num(0.0, 0.0, 0.0) + _solved(tril.mT, noise, upper=True)
        outer = torch.einsum("kpri,kprj->prij", slope, noise) / DRAWS
        gradients = [slope.mean(0), outer.diagonal(dim1=-2, dim2=-1) * log_diagonal.exp(), outer * below]
        rate = RATE * (1 - step / STEPS)
        free = [p + rate * _adam(average, g, step) for p, g, average in zip(free, gradients, averages, strict=True)]
    loc, log_diagonal, lower = free
    tril = scale.unsqueeze(-1) * (log_diagonal.exp().unsqueeze(-1) * eye + lower * below)
    centre = start + scale * loc
    elbo = _elbo(gradient, centre, tril) if parts > 1 else start.new_zeros(parts, rows)
    return LocalFamily(elbo.T.nan_to_num(-math.inf), centre.movedim(0, 1), tril.movedim(0, 1))


def adapted(weigh: Weigh, family: LocalFamily) -> LocalFamily:
    """A mixture moved by its own importance weights: each round is one step of EM on weighted draws of the last one.

    It lowers KL(p(u | x) || q), which widens what is too narrow and bends along a curved posterior. Of all rounds the
    one of the most effective draws is kept, row by row.

    Args:
        weigh: draws from a family, or from more than that, and their log weights.
        family: to begin with.

    Source: Cappe et al. 2008, arXiv 0710.4242.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> banana = lambda u: -(u[..., 0] ** 2 + (2 * u[..., 1] - u[..., 0] ** 2) ** 2) / 2
        >>> start = LocalFamily(torch.zeros(1, 8), torch.randn(1, 8, 2), torch.eye(2).expand(1, 8, 2, 2) / 2)
        >>> def weigh(family, draws):
        ...     u = family.distribution().sample((draws,))
        ...     return u, banana(u) - family.distribution().log_prob(u)
        >>> effective = lambda family: evidence_of(weigh(family, 4000)[1]).ess
        >>> bool(effective(adapted(weigh, start)) > 2 * effective(start))
        True
    """
    best, most = family, torch.full_like(family.logits[:, 0], -1.0)
    for _ in range(ROUNDS + 1):
        u, log_weight = weigh(family, ROUND_DRAWS)
        effective = evidence_of(log_weight).ess.nan_to_num(0.0).to(most)
        best, most = family.where(effective > most, best), torch.maximum(effective, most)
        family = _moved(family, u, log_weight)
    return best


def _moved(family: LocalFamily, u: Tensor, log_weight: Tensor) -> LocalFamily:
    """One step of EM: the moments of each part under the draws' weights and its responsibility for them."""
    parts = dist.MultivariateStudentT(DEGREES, family.loc, family.tril, validate_args=False)
    each = family.logits.log_softmax(-1) + parts.log_prob(u.unsqueeze(-2))  # [draw, row, part]
    weight = smooth(log_weight).softmax(0).nan_to_num(0.0).to(u).unsqueeze(-1) * each.softmax(-1)
    share = weight.sum(0)  # [row, part]
    normal = weight / share.clamp(min=1e-12)
    loc = torch.einsum("krp,kri->rpi", normal, u)
    apart = u.unsqueeze(-2) - loc
    spread = torch.einsum("krp,krpi,krpj->rpij", normal, apart, apart)
    spread = (1 - KEPT) * spread + KEPT * family.tril @ family.tril.mT
    tril, failed = torch.linalg.cholesky_ex(spread)
    # a part to which few draws belong has no moments: it stays as it is
    lost = (normal.square().sum(0).reciprocal() < 2 * (u.shape[-1] + 1)) | (failed > 0) | ~loc.isfinite().all(-1)
    return LocalFamily(
        ((share + 0.01 / share.shape[1]) / (1 + 0.01)).log(),
        torch.where(lost[..., None], family.loc, loc),
        torch.where(lost[..., None, None], family.tril, tril),
    )


def _elbo(gradient: Gradient, loc: Tensor, tril: Tensor) -> Tensor:
    """The ELBO of every part, [part, row], up to a constant of the normal."""
    noise = torch.randn(4 * DRAWS, *loc.shape, dtype=loc.dtype, device=loc.device)
    u = loc + (tril @ noise.unsqueeze(-1)).squeeze(-1)
    total = sum(gradient(some.flatten(0, 1))[0].unflatten(0, (DRAWS, len(loc))).mean(0) for some in u.split(DRAWS)) / 4
    return total + tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _solved(matrix: Tensor, vectors: Tensor, *, upper: bool) -> Tensor:
    """matrix^-1 vector for vectors [draw, ..., d] and matrices [..., d, d]."""
    return torch.linalg.solve_triangular(matrix, vectors.movedim(0, -1), upper=upper).movedim(-1, 0)


def _adam(average: tuple[Tensor, Tensor], gradient: Tensor, step: int) -> Tensor:
    """Adam's direction, up; the averages of the gradient and of its square are moved."""
    first, second = average
    first.mul_(0.9).add_(gradient, alpha=0.1)
    second.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
    return (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.99 ** (step + 1))).sqrt() + 1e-8)
