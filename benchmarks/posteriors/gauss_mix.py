"""low_dim_gauss_mix: two normals with ordered means; which of them a row is from is summed out."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints

NAME = "low_dim_gauss_mix-low_dim_gauss_mix"


def data(d):
    return {"r": torch.tensor(d["y"])}


def model(r):
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    pyro.factor("prior", dist.Normal(0.0, 2.0).log_prob(mu).sum(-1))
    sigma = pyro.sample("sigma", dist.HalfNormal(torch.full((2,), 2.0)).to_event(1))
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = torch.stack([theta, 1 - theta], -1)
    with pyro.plate("data", len(r)):
        pyro.sample("r", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(mu, sigma)), obs=r)
