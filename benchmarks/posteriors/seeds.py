"""seeds_data-seeds_model: germinated seeds of 21 plates by two factors, with an effect of each plate."""

import pyro
import pyro.distributions as dist
import torch

NAME = "seeds_data-seeds_model"


def data(d):
    return {name: torch.tensor(d[name]).float() for name in ("N", "x1", "x2", "n")}


def model(N, x1, x2, n=None):
    alpha0, alpha1, alpha2, alpha12 = (
        pyro.sample(name, dist.Normal(0.0, 1000.0)) for name in ("alpha0", "alpha1", "alpha2", "alpha12")
    )
    tau = pyro.sample("tau", dist.Gamma(0.001, 0.001))
    with pyro.plate("data", len(N)):
        b = pyro.sample("b", dist.Normal(0.0, tau**-0.5))
        logits = alpha0 + alpha1 * x1 + alpha2 * x2 + alpha12 * x1 * x2 + b
        pyro.sample("n", dist.Binomial(N, logits=logits), obs=n)


def frame(found, fields):
    names = ("alpha0", "alpha1", "alpha2", "alpha12", "b")
    return {n: found[n] for n in names} | {"sigma": found["tau"] ** -0.5}
