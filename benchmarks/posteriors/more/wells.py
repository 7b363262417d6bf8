"""A logistic regression of 1,000 rows with an interaction (simulated after Gelman and Hill 2007)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "wells"


def data(d):
    return {
        "dist_": torch.tensor(d["dist"]),
        "arsenic": torch.tensor(d["arsenic"]),
        "y": torch.tensor(d["switched"]).float(),
    }


def model(dist_, arsenic, y=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(4), 2.5).to_event(1))
    with pyro.plate("data", len(dist_)):
        x = torch.stack([torch.ones_like(dist_), dist_, arsenic, dist_ * arsenic], -1)
        pyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)
