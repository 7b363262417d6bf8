"""Problems with constrained latents, and a count without end."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from cases.problem import F64, t


def beta_binomial(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Beta(t(2.0), t(3.0)))
        pyro.sample("x", dist.Binomial(10, z), obs=x)


def beta_binomial_exact(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Beta(2.0 + x, 13.0 - x))


def beta_binomial_off(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Beta(1.5 + 0.6 * x, 8.0 - 0.6 * x))


def gamma_poisson(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(t(3.0), t(1.5)))
        pyro.sample("x", dist.Poisson(z), obs=x)


def gamma_poisson_exact(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Gamma(3.0 + x, 2.5 * torch.ones_like(x)))


def gamma_poisson_off(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Gamma(2.5 + 0.8 * x, 2.2 * torch.ones_like(x)))


def counted(x=None):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Poisson(t(2.0)))
        pyro.sample("x", dist.Normal(c, 1.0), obs=x)


def counted_guide(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Poisson(torch.nn.functional.softplus(x) + 0.5))


def counted_evidence(x: Tensor) -> Tensor:
    c = torch.arange(60, dtype=F64)
    return (dist.Poisson(t(2.0)).log_prob(c) + dist.Normal(c, 1.0).log_prob(x.unsqueeze(-1))).logsumexp(-1)


COUNTS = t([0.0, 3.0, 7.0, 10.0])
XC = t([0.3, 2.2, 4.1])
