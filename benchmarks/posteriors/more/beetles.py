"""Beetles killed by a dose, with the complementary log-log link."""

import pyro
import pyro.distributions as dist
import torch

NAME = "beetles"


def data(d):
    return {n: torch.tensor(d[n]).float() for n in ("dose", "n", "r")}


def model(dose, n, r=None):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 100.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 100.0))
    with pyro.plate("data", len(dose)):
        p = 1 - torch.exp(-torch.exp(alpha + beta * (dose - 1.8)))
        pyro.sample("r", dist.Binomial(n, p.clamp(1e-6, 1 - 1e-6)), obs=r)
