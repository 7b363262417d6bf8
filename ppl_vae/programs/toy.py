"""The pair of the examples in this package's docstrings: one normal latent, whose posterior and evidence are known."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["model", "posterior"]


def model(x: Tensor) -> None:
    """z ~ N(0, 1), x ~ N(z, 1), so that log p(x) = log N(x; 0, 2); x [row].

    Example:
        >>> import ppl_vae
        >>> ppl_vae.check(model, posterior, torch.zeros(5))
        []
    """
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def posterior(x: Tensor) -> None:
    """The posterior of `model`, z | x ~ N(x / 2, 1 / 2)."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
