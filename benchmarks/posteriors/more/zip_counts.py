"""A Poisson regression with more zeros than that (simulated)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "zip_counts"


def data(d):
    return {"x": torch.tensor(d["x"]), "y": torch.tensor(d["y"]).float()}


def model(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 2.5))
    b = pyro.sample("b", dist.Normal(0.0, 2.5))
    zero = pyro.sample("zero", dist.Beta(1.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.ZeroInflatedPoisson((a + b * x).exp(), gate=zero), obs=y)
