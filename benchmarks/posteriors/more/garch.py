"""A GARCH(1, 1) series of 200 steps, whose variance follows itself."""

import pyro
import pyro.distributions as dist
import torch

NAME = "garch"
ROWS = None


def data(d):
    return {"y": torch.tensor(d["y"])}


def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    alpha0 = pyro.sample("alpha0", dist.HalfNormal(5.0))
    alpha1 = pyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    beta1 = pyro.sample("beta1", dist.Uniform(0.0, 1 - alpha1))
    variance = [torch.ones_like(mu)]
    for t in range(len(y) - 1):
        variance.append(alpha0 + alpha1 * (y[t] - mu) ** 2 + beta1 * variance[t])
    pyro.sample("y", dist.Normal(mu.unsqueeze(-1), torch.stack(variance, -1).sqrt()).to_event(1), obs=y)
