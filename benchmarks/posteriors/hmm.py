"""hmm_example-hmm_example: a Markov chain of two states, summed out by Pyro's DiscreteHMM."""

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

NAME = "hmm_example-hmm_example"
ROWS = None


def data(d):
    return {"y": torch.tensor(d["y"])}


def model(y):
    theta1 = pyro.sample("theta1", dist.Dirichlet(torch.ones(2)))
    theta2 = pyro.sample("theta2", dist.Dirichlet(torch.ones(2)))
    first, more = (pyro.sample(n, dist.ImproperUniform(constraints.positive, (), ())) for n in ("first", "more"))
    mu = torch.stack([first, first + more], -1)  # positive and ordered
    pyro.factor("prior", dist.Normal(torch.tensor([3.0, 10.0]), 1.0).log_prob(mu).sum(-1))
    moves = torch.stack([theta1, theta2], -2).log().unsqueeze(-3)
    chain = dist.DiscreteHMM(torch.zeros(2), moves, dist.Normal(mu.unsqueeze(-2), 1.0), duration=len(y))
    pyro.sample("y", chain, obs=y)


def frame(found, fields):
    mu = torch.stack([found["first"], found["first"] + found["more"]], -1)
    return {"theta1": found["theta1"], "theta2": found["theta2"], "mu": mu}
