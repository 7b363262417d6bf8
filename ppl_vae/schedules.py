"""The weight of the KL part as a function of the epoch (warm-up, cycles, free bits, capacity), and the learning rate.

They shape what is maximised. What is reported is always the bound itself, unweighted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae.errors import UserError, check_number, check_whole

if TYPE_CHECKING:
    from ppl_vae.bounds.base import Bound
    from ppl_vae.weights.log_weights import LogWeights

__all__ = ["Capacity", "Cosine", "Cyclical", "FreeBits", "Schedule", "WarmUp", "as_schedule", "like"]

Schedule = Callable[[float], float]
"""From the epoch, a float that grows within it (0 at the start of the first), to beta or the learning rate."""

Mean = Callable[[Tensor], Tensor]
"""What a process adds to a mean over all rows; or the value that all of them add up to, with its own gradient."""


def _as_it_is(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class WarmUp:
    """Linear warm-up: beta grows from 0 to `beta` over the first `epochs`.

    Source: Sonderby et al. 2016, arXiv 1602.02282.

    Example:
        >>> [WarmUp(10)(epoch) for epoch in (0, 5, 20)]
        [0.0, 0.5, 1.0]
    """

    epochs: float
    beta: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "epochs", "beta")

    def __call__(self, epoch: float) -> float:
        """beta at this epoch."""
        return self.beta * min(1.0, epoch / self.epochs) if self.epochs > 0 else self.beta


@dataclass(frozen=True)
class Cyclical:
    """Cyclical annealing: in each period of `epochs`, beta grows linearly over its first half, then stays.

    After `cycles` periods beta stays at its end value. Source: Fu et al. 2019, arXiv 1903.10145.

    Example:
        >>> [Cyclical(10, cycles=2)(epoch) for epoch in (0, 2.5, 5, 10, 40)]
        [0.0, 0.5, 1.0, 0.0, 1.0]
    """

    epochs: float
    cycles: int = 4
    beta: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "beta")
        _check(self, "epochs", positive=True)
        check_whole("Cyclical: cycles", self.cycles)

    def __call__(self, epoch: float) -> float:
        """beta at this epoch."""
        if epoch >= self.epochs * self.cycles:
            return self.beta
        return self.beta * min(1.0, 2 * (epoch % self.epochs) / self.epochs)


@dataclass(frozen=True)
class Cosine:
    """A learning rate that falls from `lr` to 0 over `epochs`, like a cosine: what is left of the noise is averaged.

    Source: Loshchilov & Hutter 2017, arXiv 1608.03983.

    Example:
        >>> [round(Cosine(0.01, epochs=10)(epoch), 4) for epoch in (0, 5, 10)]
        [0.01, 0.005, 0.0]
    """

    lr: float
    epochs: float

    def __post_init__(self) -> None:
        _check(self, "lr", "epochs", positive=True)

    def __call__(self, epoch: float) -> float:
        """The learning rate at this epoch."""
        return 0.5 * self.lr * (1 + math.cos(math.pi * min(1.0, epoch / self.epochs)))


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
        _check(self, "nats")
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
        _only_elbo("FreeBits", bound, weights)
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
        _check(self, "gamma", "stop", "start")
        _check(self, "epochs", positive=True)

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
        _only_elbo("Capacity", bound, weights)
        rate = whole(mean(weights.rate))
        return mean(weights.log_likelihood) - self.gamma * (rate - like(level, rate)).abs()


def like(level: float | Tensor, values: Tensor) -> float | Tensor:
    """A number that changes with the epoch, in the precision of the tensor that it meets.

    In a captured step it is a float64 tensor, which must act as a Python number would: never widen a scalar.

    Example:
        >>> like(torch.tensor(0.5, dtype=torch.float64), torch.zeros(())).dtype
        torch.float32
    """
    return level.to(values.dtype) if isinstance(level, Tensor) else level


def _only_elbo(name: str, bound: Bound, weights: LogWeights) -> None:
    if bound.discrete != "expectation" or weights.score is not None:
        raise UserError(f"{name} weighs the KL of single sites, which only ELBO with reparameterised sites has")


def _check(schedule: Any, *names: str, positive: bool = False) -> None:
    """Numbers of a schedule: Python's own, finite, not negative (positive)."""
    for name in names:
        number = check_number(f"{type(schedule).__name__}: {name}", getattr(schedule, name), positive=positive)
        object.__setattr__(schedule, name, number)


def as_schedule(beta: float | Schedule) -> Schedule:
    """A number as a constant schedule. beta = 0 is a value, not a request for the default.

    Raises:
        UserError: for a negative number.

    Example:
        >>> as_schedule(0.0)(3)
        0.0
    """
    if callable(beta):
        return beta
    number = float(check_number("beta", beta))
    return lambda epoch: number
