"""What a prior is: a small module that returns a distribution over R^d when called."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor, nn

from ppl_vae.errors import check_whole
from ppl_vae.saving.recorded import Recorded

__all__ = ["Prior"]


class Prior(Recorded, nn.Module, ABC):
    """A distribution over R^d with its own parameters. `prior.build(d)` sizes it, `prior()` returns it.

    A model calls it once in a run, for all particles and rows. A model whose prior may depend on a label calls
    `prior(y)`: a prior that does not know labels is then the same for every y. A subclass gives `forward` (and
    `setup`, if it has parameters): see `Diagonal`.
    """

    latent_dim: int = 0

    def build(self, latent_dim: int) -> Self:
        """A copy of this prior for latent vectors of length `latent_dim`."""
        built = copy.deepcopy(self)
        built.latent_dim = check_whole("latent_dim", latent_dim)
        built.setup()
        return built

    def setup(self) -> None:
        """Create parameters, once `latent_dim` is known."""

    @abstractmethod
    def forward(self, condition: Tensor | None = None) -> Any:
        """The distribution p(z), or p(z | condition): event shape [d], batch shape [] or that of the condition."""


def at_least_one(prior: Prior, **numbers: int) -> None:
    """Refuse counts that are no whole numbers of at least 1, by the name of the argument."""
    for name, value in numbers.items():
        check_whole(f"{type(prior).__name__}: {name}", value)
