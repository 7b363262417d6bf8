"""An ARMA(1, 1) series of 200 steps."""

import pyro
import pyro.distributions as dist
import torch

NAME = "arma"
ROWS = None


def data(d):
    return {"y": torch.tensor(d["y"])}


def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    phi = pyro.sample("phi", dist.Normal(0.0, 2.0))
    theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    errors = [y[0] - (mu + phi * mu)]
    for t in range(1, len(y)):
        errors.append(y[t] - (mu + phi * y[t - 1] + theta * errors[t - 1]))
    errors = torch.stack(errors, -1)
    pyro.factor("y", dist.Normal(0.0, sigma.unsqueeze(-1)).log_prob(errors).sum(-1))
