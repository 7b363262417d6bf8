"""GLMM_Poisson_data-GLMM_Poisson_model: breeding pairs of falcons over forty years, with an effect of each year."""

import pyro
import pyro.distributions as dist
import torch

NAME = "GLMM_Poisson_data-GLMM_Poisson_model"


def data(d):
    return {"year": torch.tensor(d["year"]), "c": torch.tensor(d["C"]).float()}


def model(year, c=None):
    alpha = pyro.sample("alpha", dist.Uniform(-20.0, 20.0))
    beta1, beta2, beta3 = (pyro.sample(f"beta{i}", dist.Uniform(-10.0, 10.0)) for i in (1, 2, 3))
    sigma = pyro.sample("sigma", dist.Uniform(0.0, 5.0))
    with pyro.plate("data", len(year)):
        eps = pyro.sample("eps", dist.Normal(0.0, sigma))
        level = alpha + beta1 * year + beta2 * year**2 + beta3 * year**3 + eps
        pyro.sample("c", dist.Poisson(level.exp()), obs=c)
