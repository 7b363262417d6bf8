"""Stack loss by three predictors with errors of Laplace's distribution."""

import pyro
import pyro.distributions as dist
import torch

NAME = "stacks"


def data(d):
    return {"x": torch.tensor(d["x"]), "y": torch.tensor(d["y"])}


def model(x, y=None):
    beta0 = pyro.sample("beta0", dist.Normal(0.0, 100.0))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3), 100.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfCauchy(5.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Laplace(beta0 + x @ beta, scale), obs=y)
