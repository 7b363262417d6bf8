"""rats_data-rats_model: weights of thirty young rats, a line for each, flat priors of the scales."""

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

NAME = "rats_data-rats_model"
ORDER = ("mu_alpha", "mu_beta", "sigma_y", "sigma_alpha", "sigma_beta", "alpha", "beta")


def data(d):
    x = torch.tensor(d["x"]).float() - d["xbar"]
    return {"rat": torch.tensor(d["rat"]) - 1, "x": x, "y": torch.tensor(d["y"]).float()}


def model(rat, x, y=None):
    sigma_y = pyro.sample("sigma_y", dist.ImproperUniform(constraints.positive, (), ()))
    sigma_alpha = pyro.sample("sigma_alpha", dist.ImproperUniform(constraints.positive, (), ()))
    sigma_beta = pyro.sample("sigma_beta", dist.ImproperUniform(constraints.positive, (), ()))
    mu_alpha = pyro.sample("mu_alpha", dist.Normal(0.0, 100.0))
    mu_beta = pyro.sample("mu_beta", dist.Normal(0.0, 100.0))
    with pyro.plate("rats", 30):
        alpha = pyro.sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
        beta = pyro.sample("beta", dist.Normal(mu_beta, sigma_beta))
    with pyro.plate("data", len(rat)):
        pyro.sample("y", dist.Normal(alpha[..., rat] + beta[..., rat] * x, sigma_y), obs=y)
