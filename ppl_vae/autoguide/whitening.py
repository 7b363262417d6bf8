"""Distributions over R^d on the scale of a posterior: v = c + S e, where e follows a family and S is its unit.

An optimiser moves every parameter by about its step size. In units of the posterior's own deviations, and along its
own correlations, one step size suits a coefficient of 1e-3 and one of 1e5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import LowerCholeskyAffine
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import AffineTransform

from ppl_vae.nn.flows import Flow
from ppl_vae.nn.heads import is_normal

__all__ = ["Given", "moved", "takes_covariance"]


class Given(dist.TorchDistribution):
    """Vectors that are known, one for each particle, as if they were drawn: log q is 0 at all of them.

    With it a guide is a way to ask the model for its log density at chosen points. Shapes: vectors [particle, d], or
    [particle, row, d] with a batch shape that has the rows.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, vectors: Tensor, batch_shape: Sequence[int] = ()) -> None:
        self.vectors = vectors
        super().__init__(torch.Size(batch_shape), vectors.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Given:
        """One vector for each particle and row, whose dims are the only ones that are not of size one."""
        return Given(self.vectors, batch_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The vectors: there is nothing to draw."""
        return self.vectors.reshape(self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Zero."""
        return value.new_zeros(value.shape[:-1])


def takes_covariance(fn: Any) -> bool:
    """Whether a family stays itself when its numbers are mixed: independent normals and low ranks do not."""
    return not (is_normal(fn) or isinstance(fn, dist.Delta | dist.LowRankMultivariateNormal))


def moved(fn: Any, centre: Tensor, spread: Tensor) -> Any:
    """The distribution of c + S e, where e follows `fn`; S is a diagonal [d], or lower triangular [d, d].

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> moved(base, torch.tensor([5.0, 5.0]), torch.tensor([2.0, 3.0])).variance
        tensor([4., 9.])
        >>> moved(base, torch.zeros(2), torch.tensor([[1.0, 0.0], [1.0, 1.0]])).covariance_matrix
        tensor([[1., 1.],
                [1., 2.]])
    """
    if isinstance(fn, dist.Delta):  # a point has no unit
        return dist.Delta(fn.v + centre, fn.log_density, event_dim=1)
    if spread.dim() == 1:
        return _scaled(fn, centre, spread)
    if is_normal(fn):
        fn = dist.MultivariateNormal(fn.base_dist.loc, scale_tril=torch.diag_embed(fn.base_dist.scale))
    if isinstance(fn, dist.MultivariateNormal):
        loc = centre + (spread @ fn.loc.unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(loc, scale_tril=spread @ fn.scale_tril)
    return _carried(fn, LowerCholeskyAffine(centre, spread))


def _scaled(fn: Any, centre: Tensor, scale: Tensor) -> Any:
    if is_normal(fn):
        return dist.Normal(centre + scale * fn.base_dist.loc, scale * fn.base_dist.scale).to_event(1)
    if isinstance(fn, dist.MultivariateNormal):
        return dist.MultivariateNormal(centre + scale * fn.loc, scale_tril=scale.unsqueeze(-1) * fn.scale_tril)
    if isinstance(fn, dist.LowRankMultivariateNormal):
        directions = scale.unsqueeze(-1) * fn.cov_factor
        return dist.LowRankMultivariateNormal(centre + scale * fn.loc, directions, scale.square() * fn.cov_diag)
    return _carried(fn, AffineTransform(centre, scale, event_dim=1))


def _carried(fn: Any, last: Any) -> Any:
    if isinstance(fn, Flow):
        return Flow(fn.base, [*fn.transforms, last])
    return dist.TransformedDistribution(fn, [last])
