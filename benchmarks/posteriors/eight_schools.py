"""eight_schools-eight_schools_noncentered: effects of coaching in eight schools, and how they vary."""

import pyro
import pyro.distributions as dist
import torch

NAME = "eight_schools-eight_schools_noncentered"
ORDER = ("theta", "mu", "tau")


def data(d):
    return {"y": torch.tensor(d["y"]).float(), "sigma": torch.tensor(d["sigma"]).float()}


def model(sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("data", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)
