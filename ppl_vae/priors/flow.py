"""Learned normalizing flows as priors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.nn.flows import Flow, zuko
from ppl_vae.nn.networks import widths
from ppl_vae.priors.base import Prior, at_least_one

__all__ = ["CouplingFlowPrior", "FlowPrior", "SplineFlowPrior"]


class _Flow(Prior):
    """log p(z) = log N(f(z); 0, I) + log |det df/dz|: a prior is asked for log p of values that the guide drew."""

    zero: Tensor

    def __init__(self, transforms: int = 3, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        at_least_one(self, transforms=transforms)
        self.transforms, self.hidden = transforms, widths(hidden)

    def setup(self) -> None:
        """zuko's networks, and 0 on their device and in their dtype."""
        self.flow = self.make(self.latent_dim)
        self.register_buffer("zero", torch.zeros(self.latent_dim), persistent=False)

    @abstractmethod
    def make(self, size: int) -> nn.Module:
        """A flow of zuko over R^size."""

    def forward(self, condition: Tensor | None = None) -> Flow:
        """The flow's density."""
        base = dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)
        return Flow(base, [self.flow().transform.inv])


class FlowPrior(_Flow):
    """A masked autoregressive flow as prior, log p(z) = log N(f(z); 0, I) + log |det df/dz| nats.

    f is a chain of maps f_i = (z_i - m_i(z_<i)) / s_i(z_<i): log p costs one pass, a draw d of them.

    Shapes: z [d].

    Args:
        transforms: maps in the chain; the order of the dimensions is turned round between them.
        hidden: widths of the hidden layers of each map's network.

    Raises:
        UserError: if transforms is less than 1.

    Source: Papamakarios et al. 2017, arXiv 1705.07057; as a prior Chen et al. 2017, arXiv 1611.02731.

    Example:
        >>> FlowPrior().build(3)().event_shape
        torch.Size([3])
    """

    def make(self, size: int) -> nn.Module:
        """zuko's MAF."""
        return zuko.flows.MAF(size, transforms=self.transforms, hidden_features=self.hidden)


class SplineFlowPrior(_Flow):
    """A neural spline flow as prior: as `FlowPrior`, with monotone rational-quadratic splines for the maps.

    The splines act on [-5, 5]; outside of it a map is the identity, so that the tails are normal.

    Shapes: z [d].

    Args:
        transforms: maps in the chain.
        hidden: widths of the hidden layers of each map's network.
        bins: pieces of a spline.

    Raises:
        UserError: if transforms or bins is less than 1.

    Source: Durkan et al. 2019, arXiv 1906.04032.

    Example:
        >>> SplineFlowPrior(bins=4).build(3)().event_shape
        torch.Size([3])
    """

    def __init__(self, transforms: int = 3, hidden: Sequence[int] = (64, 64), bins: int = 8) -> None:
        super().__init__(transforms, hidden)
        at_least_one(self, bins=bins)
        self.bins = bins

    def make(self, size: int) -> nn.Module:
        """zuko's NSF."""
        return zuko.flows.NSF(size, transforms=self.transforms, hidden_features=self.hidden, bins=self.bins)


class CouplingFlowPrior(_Flow):
    """A flow of affine coupling layers as prior (RealNVP): as `FlowPrior`, but a draw costs one pass too.

    Each layer scales and shifts every other dimension by a function of the rest.

    Shapes: z [d].

    Args:
        transforms: coupling layers.
        hidden: widths of the hidden layers of each one's network.

    Raises:
        UserError: if transforms is less than 1.

    Source: Dinh et al. 2017, arXiv 1605.08803; as a prior Xu et al. 2019, arXiv 1905.13452.

    Example:
        >>> CouplingFlowPrior(transforms=4).build(3)().event_shape
        torch.Size([3])
    """

    def __init__(self, transforms: int = 6, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__(transforms, hidden)

    def make(self, size: int) -> nn.Module:
        """zuko's NICE, whose layers scale as well as shift unless told otherwise."""
        return zuko.flows.NICE(size, transforms=self.transforms, hidden_features=self.hidden)
