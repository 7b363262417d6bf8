"""Mutant colonies of salmonella by dose, Poisson with an effect of each of 18 plates."""

import pyro
import pyro.distributions as dist
import torch

NAME = "salm"


def data(d):
    return {"dose": torch.tensor(d["dose"]).float(), "y": torch.tensor(d["y"]).float()}


def model(dose, y=None):
    alpha, beta, gamma = (pyro.sample(n, dist.Normal(0.0, 100.0)) for n in ("alpha", "beta", "gamma"))
    sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
    with pyro.plate("data", len(dose)):
        lam = pyro.sample("lam", dist.Normal(0.0, sigma))
        level = alpha + beta * (dose + 10).log() + gamma * dose / 1000 + lam
        pyro.sample("y", dist.Poisson(level.exp()), obs=y)
