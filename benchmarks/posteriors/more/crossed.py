"""Six raters of twenty-four items, both with effects of their own (simulated after lme4's Penicillin)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "crossed"


def data(d):
    return {n: torch.tensor(d[n]) for n in ("rater", "item", "y")}


def model(rater, item, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 100.0))
    sd_rater, sd_item, sigma = (pyro.sample(n, dist.HalfCauchy(5.0)) for n in ("sd_rater", "sd_item", "sigma"))
    with pyro.plate("raters", 6):
        of_rater = pyro.sample("rater_", dist.Normal(0.0, sd_rater))
    with pyro.plate("items", 24):
        of_item = pyro.sample("item_", dist.Normal(0.0, sd_item))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu + of_rater[..., rater] + of_item[..., item], sigma), obs=y)


def frame(found, fields):
    return {n.strip("_"): found[n] for n in found.draws}
