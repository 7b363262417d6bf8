"""A regression of counts that are negative binomial (simulated)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "counts"


def data(d):
    return {"x": torch.tensor(d["x"]), "y": torch.tensor(d["y"]).float()}


def model(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 2.5).to_event(1))
    size = pyro.sample("size", dist.Exponential(0.1))
    with pyro.plate("data", len(x)):
        mean = (a + x @ b).exp()
        pyro.sample("y", dist.GammaPoisson(size, size / mean), obs=y)
