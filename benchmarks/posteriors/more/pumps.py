"""Failures of ten pumps, Poisson with a rate of each that is Gamma (Gaver and O'Muircheartaigh 1987)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "pumps"


def data(d):
    return {"t": torch.tensor(d["t"]), "x": torch.tensor(d["x"]).float()}


def model(t, x=None):
    alpha = pyro.sample("alpha", dist.Exponential(1.0))
    beta = pyro.sample("beta", dist.Gamma(0.1, 1.0))
    with pyro.plate("data", len(t)):
        theta = pyro.sample("theta", dist.Gamma(alpha, beta))
        pyro.sample("x", dist.Poisson(theta * t), obs=x)
