"""Waiting times in twenty cafes, lines whose intercepts and slopes are correlated (after McElreath 2020)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "cafes"


def data(d):
    return {n: torch.tensor(d[n]) for n in ("cafe", "afternoon", "wait")}


def model(cafe, afternoon, wait=None):
    a = pyro.sample("a", dist.Normal(5.0, 2.0))
    b = pyro.sample("b", dist.Normal(-1.0, 0.5))
    sd = pyro.sample("sd", dist.Exponential(torch.ones(2)).to_event(1))
    factor = pyro.sample("L", dist.LKJCholesky(2, 2.0))
    sigma = pyro.sample("sigma", dist.Exponential(1.0))
    with pyro.plate("cafes", 20):
        scale = sd.unsqueeze(-1) * factor
        each = pyro.sample("each", dist.MultivariateNormal(torch.stack([a, b], -1), scale_tril=scale))
    with pyro.plate("data", len(cafe)):
        level = each[..., cafe, 0] + each[..., cafe, 1] * afternoon
        pyro.sample("wait", dist.Normal(level, sigma), obs=wait)
