"""A regression with the horseshoe prior, three of ten weights not zero (simulated)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "horseshoe"


def data(d):
    return {"x": torch.tensor(d["x"]), "y": torch.tensor(d["y"])}


def model(x, y=None):
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    lam = pyro.sample("lam", dist.HalfCauchy(torch.ones(10)).to_event(1))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(10), tau * lam).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def frame(found, fields):
    return {n: found[n] for n in ("beta", "sigma")} | {f"log_{n}": found[n].log() for n in ("tau", "lam")}
