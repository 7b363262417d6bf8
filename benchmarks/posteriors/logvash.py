"""mesquite-logmesquite_logvash: log weights of bushes, flat priors."""

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

NAME = "mesquite-logmesquite_logvash"


def data(d):
    t = {name: torch.tensor(values).float() for name, values in d.items() if name != "N"}
    area = t["diam1"] * t["diam2"]
    each = (area * t["canopy_height"], area, t["diam1"] / t["diam2"], t["total_height"])
    return {"a": torch.stack([v.log() for v in each] + [t["group"]], 1), "r": t["weight"].log()}


def model(a, r=None):
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (6,)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("data", len(a)):
        pyro.sample("r", dist.Normal(beta[..., 0] + (a * beta[..., 1:]).sum(-1), sigma), obs=r)
