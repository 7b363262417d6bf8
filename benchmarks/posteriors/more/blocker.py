"""Twenty-two trials of beta blockers: a random effects meta-analysis."""

import pyro
import pyro.distributions as dist
import torch

NAME = "blocker"


def data(d):
    return {n: torch.tensor(v) for n, v in d.items()}


def model(nt, nc, rt=None, rc=None):
    centre = pyro.sample("d", dist.Normal(0.0, 10.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
    with pyro.plate("data", len(nt)):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        delta = pyro.sample("delta", dist.Normal(centre, sigma))
        pyro.sample("rc", dist.Binomial(nc, logits=mu), obs=rc)
        pyro.sample("rt", dist.Binomial(nt, logits=mu + delta), obs=rt)
