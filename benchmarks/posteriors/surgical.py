"""surgical_data-surgical_model: deaths after operations in twelve hospitals."""

import pyro
import pyro.distributions as dist
import torch

NAME = "surgical_data-surgical_model"


def data(d):
    return {name: torch.tensor(d[name]).float() for name in ("n", "r")}


def model(n, r=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 1000.0))
    square = pyro.sample("sigma_sq", dist.InverseGamma(0.001, 0.001))
    with pyro.plate("data", len(n)):
        b = pyro.sample("b", dist.Normal(mu, square.sqrt()))
        pyro.sample("r", dist.Binomial(n, logits=b), obs=r)


def frame(found, fields):
    return {"mu": found["mu"], "b": found["b"], "sigma": found["sigma_sq"] ** 0.5}
