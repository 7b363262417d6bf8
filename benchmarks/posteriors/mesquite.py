"""mesquite-mesquite: weights of bushes, not on the log scale, flat priors."""

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

NAME = "mesquite-mesquite"
COLUMNS = ("diam1", "diam2", "canopy_height", "total_height", "density", "group")


def data(d):
    columns = [torch.tensor(d[name]).float() for name in COLUMNS]
    return {"a": torch.stack([torch.ones(d["N"]), *columns], 1), "r": torch.tensor(d["weight"]).float()}


def model(a, r=None):
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (7,)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("data", len(a)):
        pyro.sample("r", dist.Normal((a * beta).sum(-1), sigma), obs=r)
