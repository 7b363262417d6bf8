"""What is kept of log weights [particle, row] that arrive some particles at a time; it does not grow with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ppl_vae.weights.psis import tail_khat, tail_size

__all__ = ["Groups", "Largest", "Sums"]


@dataclass
class Sums:
    """log sum w and log sum w^2 of every row."""

    total: Tensor = field(default_factory=lambda: torch.tensor(-math.inf))
    squares: Tensor = field(default_factory=lambda: torch.tensor(-math.inf))

    def add(self, log_weights: Tensor) -> None:
        """Take in some particles."""
        self.total = torch.logaddexp(self.total, log_weights.logsumexp(0))
        self.squares = torch.logaddexp(self.squares, (2 * log_weights).logsumexp(0))


@dataclass
class Largest:
    """The largest of `particles` weights of every row, as many as k-hat looks at.

    Example:
        >>> largest = Largest(1000)
        >>> for part in torch.linspace(0, 1, 1000).expand(2, -1).T.split(300):
        ...     largest.add(part)
        >>> largest.khat().shape
        torch.Size([2])
    """

    particles: int
    found: Tensor = field(default_factory=lambda: torch.zeros(0))

    def add(self, log_weights: Tensor) -> None:
        """Take in some particles."""
        together = torch.cat([self.found.to(log_weights).reshape(-1, *log_weights.shape[1:]), log_weights])
        self.found = together.topk(min(len(together), tail_size(self.particles) + 1), 0).values

    def khat(self) -> Tensor:
        """The tail index of every row, see `ppl_vae.weights.psis.khat`."""
        return tail_khat(self.found, self.particles)


@dataclass
class Groups:
    """Means over groups of `size` particles of the log mean weight of a group: IWAE with that many particles.

    The particles that fill no group at the end are left out.

    Example:
        >>> groups = Groups(2)
        >>> for part in torch.tensor([0.5, 1.5, 3.0, 1.0, 9.0]).log()[:, None].split(3):
        ...     groups.add(part)
        >>> groups.mean().exp()  # groups with means 1 and 2
        tensor([1.4142])
    """

    size: int
    count: int = 0
    average: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    started: int = 0
    open: Tensor | None = None

    def add(self, log_weights: Tensor) -> None:
        """Take in some particles."""
        left = log_weights
        while len(left):
            whole = 0 if self.started else len(left) // self.size
            if whole:
                self._close(left[: whole * self.size].unflatten(0, (whole, self.size)).logsumexp(1))
                left = left[whole * self.size :]
            else:
                taken = left[: self.size - self.started]
                left = left[len(taken) :]
                self._begin(taken)

    def _begin(self, taken: Tensor) -> None:
        total = taken.logsumexp(0)
        self.open = total if self.open is None else torch.logaddexp(self.open, total)
        self.started += len(taken)
        if self.started == self.size:
            self._close(self.open[None])
            self.started, self.open = 0, None

    def _close(self, totals: Tensor) -> None:
        """Mean and squares about it of all groups so far: these new ones joined to the old."""
        values = totals - math.log(self.size)
        new, old = len(values), self.count
        step = values.mean(0) - self.average
        self.squares = (
            self.squares + (values - values.mean(0)).square().sum(0) + step.square() * (old * new / (old + new))
        )
        self.average = self.average + step * (new / (old + new))
        self.count += new

    def mean(self) -> Tensor:
        """The bound of every row."""
        return torch.as_tensor(self.average)

    def standard_error(self) -> Tensor:
        """Its Monte Carlo standard error; nan with one group."""
        if self.count < 2:
            return torch.full_like(self.mean(), math.nan)
        return (torch.as_tensor(self.squares) / ((self.count - 1) * self.count)).sqrt()
