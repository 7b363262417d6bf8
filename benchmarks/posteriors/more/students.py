"""A regression with errors of Student's t, whose degrees of freedom are not known (simulated)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "students"


def data(d):
    return {"x": torch.tensor(d["x"]), "y": torch.tensor(d["y"])}


def model(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    nu = pyro.sample("nu", dist.Gamma(2.0, 0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.StudentT(nu, a + b * x, sigma), obs=y)
