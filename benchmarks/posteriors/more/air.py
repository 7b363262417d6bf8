"""Respiratory illness by exposure that is measured with an error (Whittemore and Keller 1988)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "air"


def data(d):
    return {n: torch.tensor(d[n]).float() for n in ("z", "n", "y")}


def model(z, n, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 32.0))
    b = pyro.sample("b", dist.Normal(0.0, 32.0))
    with pyro.plate("data", len(z)):
        x = pyro.sample("x", dist.Normal(4.48 + 0.76 * z, 9.0))
        pyro.sample("y", dist.Binomial(n, logits=a + b * x / 100), obs=y)
