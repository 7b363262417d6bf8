"""gp_pois_regr-gp_regr: a Gaussian process with its scales, one joint observation without rows."""

import pyro
import pyro.distributions as dist
import torch

NAME = "gp_pois_regr-gp_regr"
ROWS = None


def data(d):
    return {"x": torch.tensor(d["x"]).float(), "y": torch.tensor(d["y"])}


def model(x, y=None):
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))[..., None, None]
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))[..., None, None]
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))[..., None, None]
    covariance = alpha**2 * (-0.5 * ((x[:, None] - x) / rho) ** 2).exp() + sigma * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)
