"""The weight of the KL part as a function of the epoch (warm-up, cycles), and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ppl_vae.errors import check_number, check_whole

__all__ = ["Cosine", "Cyclical", "Schedule", "WarmUp", "as_schedule", "check_numbers", "like"]

Schedule = Callable[[float], float]
"""From the epoch, a float that grows within it (0 at the start of the first), to beta or the learning rate."""


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
        check_numbers(self, "epochs", "beta")

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
        check_numbers(self, "beta")
        check_numbers(self, "epochs", positive=True)
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
        check_numbers(self, "lr", "epochs", positive=True)

    def __call__(self, epoch: float) -> float:
        """The learning rate at this epoch."""
        return 0.5 * self.lr * (1 + math.cos(math.pi * min(1.0, epoch / self.epochs)))


def like(level: float | Tensor, values: Tensor) -> float | Tensor:
    """A number that changes with the epoch, in the precision of the tensor that it meets.

    In a captured step it is a float64 tensor, which must act as a Python number would: never widen a scalar.

    Example:
        >>> import torch
        >>> like(torch.tensor(0.5, dtype=torch.float64), torch.zeros(())).dtype
        torch.float32
    """
    return level.to(values.dtype) if isinstance(level, Tensor) else level


def check_numbers(schedule: Any, *names: str, positive: bool = False) -> None:
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
