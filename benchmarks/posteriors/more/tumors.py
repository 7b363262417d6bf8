"""Tumors of rats in 71 experiments, Binomial with a Beta over the groups."""

import pyro
import pyro.distributions as dist
import torch

NAME = "tumors"


def data(d):
    return {"n": torch.tensor(d["n"]), "y": torch.tensor(d["y"])}


def model(n, y=None):
    phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
    kappa = pyro.sample("kappa", dist.Pareto(1.0, 1.5))
    with pyro.plate("data", len(n)):
        theta = pyro.sample("theta", dist.Beta(phi * kappa, (1 - phi) * kappa))
        pyro.sample("y", dist.Binomial(n, theta), obs=y)
