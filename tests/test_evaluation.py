"""`evaluate`: as many particles as were asked for, their error, the prior that was learned."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, NormalGuide, normal_evidence, normal_model, normal_posterior, t
from helpers import normals, rows, small_pair

import ppl_vae
from ppl_vae import UserError
from ppl_vae.guides import MeanField


@pytest.mark.parametrize("particles", [1, 7, 100, 1001])
def test_evaluate_draws_exactly_the_particles_asked_for(particles):
    """pythae draws `batch_size` particles whenever fewer are asked for, and rounds down otherwise."""
    x = normals(6, math.sqrt(2.0))
    for at_once in (2**24, 700):  # 700 numbers at once: many chunks, the last one short
        found = ppl_vae.evaluate(normal_model, normal_posterior, x, particles=particles, floats_at_once=at_once)
        # at the exact posterior all weights are equal, so that ess counts the draws, and their mean is exact
        torch.testing.assert_close(found.ess, torch.full((6,), float(particles), dtype=F64), rtol=1e-9, atol=0)
        torch.testing.assert_close(found.elbo, normal_evidence(x), atol=1e-9, rtol=0)
        torch.testing.assert_close(found.log_evidence, normal_evidence(x), atol=1e-9, rtol=0)
        assert found.particles == found.summary()["particles"] == particles


def test_evaluate_says_its_monte_carlo_error():
    """And without a standard error nobody can see that."""
    rows = 2000
    x = torch.full((rows,), 1.3, dtype=F64)  # independent replicates of one row
    found = ppl_vae.evaluate(normal_model, NormalGuide(), x, particles=200)
    spread = float(found.log_evidence.std())
    said = float(found.log_evidence_se.square().mean().sqrt())
    assert abs(spread / said - 1) <= 4 / math.sqrt(2 * rows)
    assert abs(float(found.log_evidence.mean()) - float(normal_evidence(x[:1]))) <= 4 * spread / math.sqrt(rows)
    assert found.summary()["nll_mc_se"] == pytest.approx(said / math.sqrt(rows))


def test_the_evidence_is_computed_under_the_prior_that_was_learned():
    """scvi-tools' marginal_ll hard-codes N(0, I)."""
    truth = 2.5 + 0.4 * torch.randn(400, dtype=F64) + 0.5 * torch.randn(400, dtype=F64)

    def model(x=None):
        loc = pyro.param("loc", t(0.0))
        scale = pyro.param("scale", t(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, scale))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    guide = MeanField(model, truth.float(), hidden=(16,))
    result = ppl_vae.fit(model, guide, truth.float(), epochs=70, batch_size=100, lr=0.02)
    learned = {n.split(".")[-1]: p for n, p in result.model.named_parameters()}
    loc, scale = learned["loc"].item(), learned["scale"].exp().item()
    assert abs(loc - 2.5) < 0.2
    found = ppl_vae.evaluate(result.model, guide, truth.float(), particles=200)
    exact = dist.Normal(loc, (scale**2 + 0.25) ** 0.5).log_prob(truth)
    assert ((found.log_evidence - exact).abs() <= 5 * found.log_evidence_se + 1e-3).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"particles": 10**12}, "GiB of numbers and weeks of work: take particles="),
        ({"seed": "x"}, "seed must be a whole number of at least 0, got 'x'"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**64}, "seed must be"),
    ],
)
def test_numbers_that_cannot_be_are_refused_at_the_door(options, told):
    data = ppl_vae.load(rows())
    with pytest.raises(UserError, match=told):
        ppl_vae.evaluate(*small_pair(data), data, **{"particles": 3} | options)


def test_numbers_of_numpy_are_numbers():
    data = ppl_vae.load(rows())
    model, guide = small_pair(data)
    one = ppl_vae.evaluate(model, guide, data, 3, seed=2)
    other = ppl_vae.evaluate(model, guide, data, np.int64(3), seed=np.int64(2))
    assert torch.equal(one.elbo, other.elbo)
