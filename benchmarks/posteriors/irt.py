"""irt_2pl-irt_2pl: a hundred persons and twenty items, two crossed plates."""

import pyro
import pyro.distributions as dist
import torch

NAME = "irt_2pl-irt_2pl"
ROWS = None


def data(d):
    return {"y": torch.tensor(d["y"]).float()}


def model(y):
    sigma_theta, sigma_a, sigma_b = (
        pyro.sample(name, dist.HalfCauchy(2.0)) for name in ("sigma_theta", "sigma_a", "sigma_b")
    )
    mu_b = pyro.sample("mu_b", dist.Normal(0.0, 5.0))
    persons, items = pyro.plate("persons", y.shape[1], dim=-1), pyro.plate("items", y.shape[0], dim=-2)
    with persons:
        theta = pyro.sample("theta", dist.Normal(0.0, sigma_theta))
    with items:
        a = pyro.sample("a", dist.LogNormal(0.0, sigma_a))
        b = pyro.sample("b", dist.Normal(mu_b, sigma_b))
    with items, persons:
        pyro.sample("y", dist.Bernoulli(logits=a * (theta - b)), obs=y)
