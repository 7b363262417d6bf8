"""What a chain's guide is made of: one module for all steps, from features and the steps before to a distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from ppl_vae.nn.heads import LinearHeads, is_normal
from ppl_vae.nn.networks import concatenate, hidden_layer

__all__ = ["Following", "LinearFollowing", "Next"]

Next = Callable[[int, Sequence[Tensor]], Any]
"""From a step's number and the vectors of the steps before it, latest first, to the distribution of its vector."""


class Following(nn.Module):
    """q(z_t | z_{t-1}, h_t) of any family: the steps before it and the features go through one more layer.

    Shapes: features [T, ..., F], steps before [..., d] each -> batch shape [...], event shape [d].

    Args:
        make: from (features, size) to a module from features to a distribution over R^size.
        features: how many there are of a step.
        before: how many numbers the steps before have together.
        size: numbers of a step.
        hidden: width of the layer, None for none.
        activation: of the layer.
    """

    def __init__(
        self,
        make: Callable[[int, int], nn.Module],
        features: int,
        before: int,
        size: int,
        hidden: int | None,
        activation: str,
    ) -> None:
        super().__init__()
        width = features + before
        mixes = hidden is not None and before > 0
        self.mixer = nn.Sequential(*hidden_layer(width, hidden, activation)) if mixes else nn.Identity()  # type: ignore[arg-type]
        self.mixes = mixes
        # the steps before are seen as they are, too: most series go on nearly as they were
        self.head = make(hidden + before if mixes else width, size)  # type: ignore[operator]

    def forward(self, features: Tensor) -> Next:
        """The distribution of each step."""

        def following(t: int, before: Sequence[Tensor]) -> Any:
            joined = concatenate([features[t], *before])
            return self.head(concatenate([self.mixer(joined), *before]) if self.mixes else joined)

        return following


class LinearFollowing(nn.Module):
    """q(z_t | z_{t-1}) = N(m_t + A_t (z_{t-1} - m_{t-1}), S_t): all steps together are normal.

    Their precision is block tridiagonal (of as many bands as there are steps before), and every such normal is of this
    form: the posterior of a chain of normals is one. m_t, A_t and S_t are read from the features of step t. Shapes as
    of `Following`. Source: Archer et al. 2015, arXiv 1511.07367.

    Args:
        normal: a module from features to a normal over R^size.
        features: how many there are of a step.
        lags: how many steps before it a step depends on.
        size: numbers of a step.
    """

    def __init__(self, normal: nn.Module, features: int, lags: int, size: int) -> None:
        super().__init__()
        self.normal = normal
        self.slopes = LinearHeads(features, [(size, size)] * lags, small=True)

    def forward(self, features: Tensor) -> Next:
        """The distribution of each step; what is read from the features is computed for all of them at once."""
        own, slopes = self.normal(features), self.slopes(features)
        means = own.mean

        def following(t: int, before: Sequence[Tensor]) -> Any:
            mean = means[t]
            for lag, (slope, value) in enumerate(zip(slopes, before, strict=True), start=1):
                if lag <= t:  # before the first step there is nothing
                    mean = mean + (slope[t] @ (value - means[t - lag]).unsqueeze(-1)).squeeze(-1)
            if is_normal(own):
                return dist.Normal(mean, own.base_dist.scale[t]).to_event(1)
            return dist.MultivariateNormal(mean, scale_tril=own.scale_tril[t])

        return following
