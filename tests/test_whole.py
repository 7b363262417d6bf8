"""The ELBO that Pyro's SVI asks for, of two programs without rows, is that of the engine where it can run them, too."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import torch
from cases import F64
from pyro.infer import config_enumerate

import ppl_vae
from ppl_vae.bounds.whole import elbo_of_whole
from ppl_vae.data import as_one_unit

SERIES = torch.tensor([0.3, -1.2, 0.8], dtype=F64)
HALF = torch.tensor(0.5, dtype=F64)


def model(x):
    """A switch that the guide has, and a chain that the model alone has: all of them are summed out."""
    switch = pyro.sample("switch", dist.Bernoulli(HALF))
    state = torch.zeros((), dtype=F64)
    for t in pyro.markov(range(len(x))):
        state = pyro.sample(f"state{t}", dist.Bernoulli(0.2 + 0.5 * state + 0.2 * switch))
        pyro.sample(f"x{t}", dist.Normal(2 * state - 1, 1.0), obs=x[t])


def guide(x):
    pyro.sample("switch", dist.Bernoulli(0.6 + 0 * HALF))


def test_both_sum_the_same_values():
    programs = (partial(config_enumerate(program), SERIES) for program in (model, guide))
    found = ppl_vae.log_weights(model, guide, as_one_unit({"x": SERIES}), discrete="expectation")
    torch.testing.assert_close(elbo_of_whole(*programs), found.log_weight.squeeze())
