"""A multinomial logit of three choices, one set of weights too many (simulated)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "choices"


def data(d):
    return {"x": torch.tensor(d["x"]), "y": torch.tensor(d["y"])}


def model(x, y=None):
    a = pyro.sample("a", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    b = pyro.sample("b", dist.Normal(torch.zeros(3, 3), 1.0).to_event(2))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Categorical(logits=a + x @ b.T), obs=y)
