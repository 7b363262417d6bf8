"""earnings-logearn_interaction: log earnings by height and sex with their interaction, flat priors."""

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

NAME = "earnings-logearn_interaction"


def data(d):
    height, male = torch.tensor(d["height"]).float(), torch.tensor(d["male"]).float()
    a = torch.stack([torch.ones_like(height), height, male, height * male], 1)
    return {"a": a, "r": torch.tensor(d["earn"]).float().log()}


def model(a, r=None):
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (4,)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("data", len(a)):
        pyro.sample("r", dist.Normal((a * beta).sum(-1), sigma), obs=r)
