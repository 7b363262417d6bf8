"""kilpisjarvi_mod-kilpisjarvi: summer temperatures over years that are far from zero, with a flat prior of sigma."""

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

NAME = "kilpisjarvi_mod-kilpisjarvi"


def data(d):
    return {"a": torch.tensor(d["x"]).float(), "r": torch.tensor(d["y"])}


def model(a, r=None):
    alpha = pyro.sample("alpha", dist.Normal(9.31290322580645, 100.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 0.0333333333333333))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("data", len(a)):
        pyro.sample("r", dist.Normal(alpha + beta * a, sigma), obs=r)
