"""What a program computes and names stays what it computed when data are drawn in the place of those observed."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae
from ppl_vae.programs.simulating import unobserved

ROWS = {"y": torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), "sigma": torch.full((8,), 10.0)}


def schools(sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("J", len(sigma)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + 3.0 * eta)
        pyro.sample("obs", dist.Normal(theta, sigma), obs=y)


def guide(sigma, y=None):
    pyro.sample("mu", dist.Normal(4.0, 3.0))
    with pyro.plate("J", len(sigma)):
        pyro.sample("eta", dist.Normal(0.0, 1.0))


def vector(y=None, rows=None):
    with pyro.plate("data", len(y) if rows is None else rows):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        twice = pyro.deterministic("twice", 2 * z, event_dim=1)
        pyro.sample("y", dist.Normal(twice.sum(-1), 1.0), obs=y)


def vector_guide(y=None, rows=None):
    with pyro.plate("data", len(y)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def test_a_value_is_not_drawn_again():
    trace = pyro.poutine.trace(unobserved()(schools)).get_trace(**ROWS)
    assert trace.nodes["theta"]["value"].shape == trace.nodes["obs"]["value"].shape == (8,)
    assert not torch.equal(trace.nodes["obs"]["value"], ROWS["y"])


@pytest.mark.parametrize(
    ("pair", "data", "site"),
    [((schools, guide), ROWS, "obs"), ((vector, vector_guide), {"y": torch.randn(6)}, "y")],
    ids=["plate", "event"],
)
def test_data_are_drawn_of_a_program_that_names_what_it_computes(pair, data, site):
    rows = len(data["y"])
    trees = ppl_vae.to_arviz(*pair, data, rows=20, draws=30, particles=50)
    for group in ("posterior_predictive", "prior_predictive"):
        assert trees[group][site].values.reshape(-1, rows).shape == (120, rows)
