"""kidiq-kidscore_interaction: test scores of children, an interaction of predictors that are not centred."""

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

NAME = "kidiq-kidscore_interaction"


def data(d):
    hs, iq = torch.tensor(d["mom_hs"]).float(), torch.tensor(d["mom_iq"])
    return {"a": torch.stack([torch.ones_like(hs), hs, iq, hs * iq], 1), "r": torch.tensor(d["kid_score"]).float()}


def model(a, r=None):
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (4,)))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("data", len(a)):
        pyro.sample("r", dist.Normal((a * beta).sum(-1), sigma), obs=r)
