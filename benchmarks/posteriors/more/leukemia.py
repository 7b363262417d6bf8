"""Weeks of remission, Weibull, some of them censored."""

import pyro
import pyro.distributions as dist
import torch

NAME = "leukemia"


def data(d):
    return {n: torch.tensor(d[n]) for n in ("t", "died", "treated")}


def model(t, died, treated):
    shape = pyro.sample("shape", dist.Gamma(1.0, 0.1))
    b0 = pyro.sample("b0", dist.Normal(0.0, 10.0))
    b1 = pyro.sample("b1", dist.Normal(0.0, 10.0))
    weibull = dist.Weibull((b0 + b1 * treated).exp(), shape)
    with pyro.plate("data", len(t)):
        log_survival = -((t / weibull.scale) ** weibull.concentration)
        pyro.factor("t", torch.where(died == 1, weibull.log_prob(t), log_survival))
