"""An ordered probit of four levels (simulated)."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints

NAME = "ordinal"


def data(d):
    return {"x": torch.tensor(d["x"]), "y": torch.tensor(d["y"])}


def model(x, y=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 2.5).to_event(1))
    c = pyro.sample("c", dist.ImproperUniform(constraints.ordered_vector, (), (3,)))
    pyro.factor("prior", dist.Normal(0.0, 5.0).log_prob(c).sum(-1))
    with pyro.plate("data", len(x)):
        below = dist.Normal(0.0, 1.0).cdf(c - (x @ b).unsqueeze(-1))
        edges = torch.nn.functional.pad(torch.nn.functional.pad(below, (0, 1), value=1.0), (1, 0))
        pyro.sample("y", dist.Categorical(edges.diff(dim=-1).clamp(min=1e-7)), obs=y)
