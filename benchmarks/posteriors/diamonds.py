"""diamonds-diamonds: log prices by 24 predictors that are nearly collinear."""

import pyro
import pyro.distributions as dist
import torch

NAME = "diamonds-diamonds"


def data(d):
    x = torch.tensor(d["X"])[:, 1:]
    return {"a": x - x.mean(0), "r": torch.tensor(d["Y"])}


def model(a, r=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(24), 1.0).to_event(1))
    intercept = pyro.sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
    sigma = pyro.sample("sigma", dist.FoldedDistribution(dist.StudentT(3.0, 0.0, 10.0)))
    with pyro.plate("data", len(a)):
        pyro.sample("r", dist.Normal(intercept + (a * b).sum(-1), sigma), obs=r)
