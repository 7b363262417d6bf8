"""Objectives that hold the KL of latents at a level: free bits below, capacity on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppl_vae.errors import UserError
from ppl_vae.schedules.annealing import Cyclical, WarmUp, as_schedule, check_numbers, like

if TYPE_CHECKING:
    from ppl_vae.bounds.base import Bound
    from ppl_vae.weights.log_weights import LogWeights

__all__ = ["Capacity", "FreeBits", "only_elbo"]

Mean = Callable[[Tensor], Tensor]
"""What a process adds to a mean over all rows; or the value that all of them add up to, with its own gradient."""


def _as_it_is(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class FreeBits:
    """Free bits: each latent site's KL, averaged over the batch, costs nothing below `nats`.

    Maximises E[log p(x|z)] - beta sum_site max(nats, KL_site), which keeps latents from being switched off early.
    With the ELBO only. Source: Kingma et al. 2016, arXiv 1606.04934.

    Example:
        >>> FreeBits(2.0)(3)
        1.0
    """

    nats: float
    beta: float | WarmUp | Cyclical = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, "nats")
        as_schedule(self.beta)

    def __call__(self, epoch: float) -> float:
        """beta at this epoch."""
        return as_schedule(self.beta)(epoch)

    def level(self, epoch: float) -> float:
        """What the objective needs to know of the epoch: beta."""
        return self(epoch)

    def objective(
        self, bound: Bound, weights: LogWeights, level: float | Tensor, mean: Mean = torch.mean, whole: Mean = _as_it_is
    ) -> Tensor:
        """The objective per row of a batch; `mean` and `whole` as one process of several takes them."""
        only_elbo("FreeBits", bound, weights)
        rates = whole(torch.stack([mean(rate) for rate in weights.by_site.values()]))
        return mean(weights.log_likelihood) - like(level, rates) * rates.clamp(min=self.nats).sum()


@dataclass(frozen=True)
class Capacity:
    """Controlled capacity: the KL is held at a target that grows from `start` to `stop` nats over `epochs`.

    Maximises E[log p(x|z)] - gamma |KL - C(epoch)|. With the ELBO only. Source: Burgess et al. 2018,
    arXiv 1804.03599.

    Example:
        >>> Capacity(gamma=30.0, stop=10.0, epochs=100).target(50)
        5.0
    """

    gamma: float
    stop: float
    epochs: float
    start: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "gamma", "stop", "start")
        check_numbers(self, "epochs", positive=True)

    def target(self, epoch: float) -> float:
        """C at this epoch, in nats."""
        return self.start + (self.stop - self.start) * min(1.0, epoch / self.epochs)

    def __call__(self, epoch: float) -> float:
        """gamma, the weight of the distance from the target; what is settled is told by the target's growth."""
        return self.gamma * min(1.0, epoch / self.epochs) if epoch < self.epochs else self.gamma

    def level(self, epoch: float) -> float:
        """What the objective needs to know of the epoch: C."""
        return self.target(epoch)

    def objective(
        self, bound: Bound, weights: LogWeights, level: float | Tensor, mean: Mean = torch.mean, whole: Mean = _as_it_is
    ) -> Tensor:
        """The objective per row of a batch; `mean` and `whole` as one process of several takes them."""
        only_elbo("Capacity", bound, weights)
        rate = whole(mean(weights.rate))
        return mean(weights.log_likelihood) - self.gamma * (rate - like(level, rate)).abs()


def only_elbo(name: str, bound: Bound, weights: LogWeights) -> None:
    """Refuse what has no KL of single sites."""
    if bound.discrete != "expectation" or weights.score is not None:
        raise UserError(f"{name} weighs the KL of single sites, which only ELBO with reparameterised sites has")
