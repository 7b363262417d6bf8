"""kidiq-kidscore_momhsiq: test scores of children, predictors that are not centred, flat coefficients."""

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

NAME = "kidiq-kidscore_momhsiq"


def data(d):
    return {
        "hs": torch.tensor(d["mom_hs"]).float(),
        "iq": torch.tensor(d["mom_iq"]),
        "r": torch.tensor(d["kid_score"]).float(),
    }


def model(hs, iq, r=None):
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (3,)))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("data", len(hs)):
        pyro.sample("r", dist.Normal(beta[..., 0] + beta[..., 1] * hs + beta[..., 2] * iq, sigma), obs=r)
