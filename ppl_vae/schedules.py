"""The weight beta of the KL part as a function of the epoch: constant, linear warm-up, cyclical."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ppl_vae.errors import UserError

__all__ = ["Cyclical", "Schedule", "WarmUp", "as_schedule"]

Schedule = Callable[[float], float]
"""From the epoch, a float that grows within it (0 at the start of the first), to beta."""


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
        _check(self.beta, self.epochs, "WarmUp")

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
        _check(self.beta, self.epochs, "Cyclical")

    def __call__(self, epoch: float) -> float:
        """beta at this epoch."""
        if epoch >= self.epochs * self.cycles:
            return self.beta
        return self.beta * min(1.0, 2 * (epoch % self.epochs) / self.epochs)


def _check(beta: float, epochs: float, name: str) -> None:
    if beta < 0 or epochs < 0:
        raise UserError(f"{name}: beta and epochs must not be negative, got {beta} and {epochs}")


def as_schedule(beta: float | Schedule) -> Schedule:
    """A number as a constant schedule. beta = 0 is a value, not a request for the default.

    Example:
        >>> as_schedule(0.0)(3)
        0.0
    """
    if callable(beta):
        return beta
    if not beta >= 0:
        raise UserError(f"beta must not be negative, got {beta}")
    return lambda epoch: float(beta)
