"""Lengths of 27 dugongs that grow towards a limit (Carlin and Gelfand 1991)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "dugongs"


def data(d):
    return {"x": torch.tensor(d["x"]), "y": torch.tensor(d["y"])}


def model(x, y=None):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 1000.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 1000.0))
    lam = pyro.sample("lam", dist.Uniform(0.5, 1.0))
    tau = pyro.sample("tau", dist.Gamma(0.0001, 0.0001))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(alpha - beta * lam**x, tau**-0.5), obs=y)
