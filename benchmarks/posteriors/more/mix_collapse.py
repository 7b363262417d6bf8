"""Two normals without an order: their labels can be exchanged, and both orders are the posterior."""

import pyro
import pyro.distributions as dist
import torch

NAME = "mix_collapse"


def data(d):
    return {"r": torch.tensor(d["y"])}


def model(r):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(torch.full((2,), 2.0)).to_event(1))
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = torch.stack([theta, 1 - theta], -1)
    with pyro.plate("data", len(r)):
        pyro.sample("r", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(mu, sigma)), obs=r)
