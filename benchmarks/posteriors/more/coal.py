"""Disasters in coal mines, whose rate changes in a year that is summed out."""

import pyro
import pyro.distributions as dist
import torch

NAME = "coal"
ROWS = None


def data(d):
    return {"y": torch.tensor(d["y"])}


def model(y):
    early = pyro.sample("early", dist.Exponential(0.3))
    late = pyro.sample("late", dist.Exponential(0.3))
    change = pyro.sample("change", dist.Categorical(torch.ones(111)))
    with pyro.plate("years", len(y)):
        rate = torch.where(torch.arange(111) < change, early, late)
        pyro.sample("y", dist.Poisson(rate), obs=y)


def frame(found, fields):
    return {n: found[n] for n in ("early", "late")}
