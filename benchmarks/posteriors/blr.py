"""sblrc-blr: a linear regression with five predictors."""

import pyro
import pyro.distributions as dist
import torch

NAME = "sblrc-blr"


def data(d):
    return {"a": torch.tensor(d["X"]), "r": torch.tensor(d["y"])}


def model(a, r=None):
    beta = pyro.sample("beta", dist.Normal(torch.zeros(5), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    with pyro.plate("data", len(a)):
        pyro.sample("r", dist.Normal((a * beta).sum(-1), sigma), obs=r)
