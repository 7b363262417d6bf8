"""Properties of every model and every likelihood."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from cases import LIKELIHOODS, MODELS

import ppl_vae
from ppl_vae import UserError
from ppl_vae.data import Field
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import Normal

by_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
by_likelihood = pytest.mark.parametrize(("likelihood", "field"), LIKELIHOODS.values(), ids=LIKELIHOODS)


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


@by_model
def test_a_model_simulates_what_it_observes(make, digits):
    model = make(digits)
    x = model(n=5)
    assert x.shape == (5, 8, 8)
    assert x.min() >= 0
    assert x.max() <= 16


@by_model
def test_a_model_is_clean_with_a_generated_guide(make, digits):
    model = make(digits)
    assert ppl_vae.check(model, MeanField(model, hidden=(8,)), digits) == []


@by_model
def test_a_model_is_rebuilt_from_its_run_folder(make, digits, tmp_path):
    model = make(digits)
    result = ppl_vae.fit(model, MeanField(model, hidden=(8,)), digits, epochs=1)
    run = ppl_vae.open_run(result.save(tmp_path / "run"))
    pyro.set_rng_seed(0)
    first = model(n=4)
    pyro.set_rng_seed(0)
    assert torch.equal(first, run.model(n=4))


def built(likelihood, field):
    train = torch.rand(50, *field.shape) if field.kind in ("real", "positive") else torch.zeros(50, *field.shape)
    return likelihood.build(field, train)


@by_likelihood
def test_a_likelihood_is_normalised(likelihood, field):
    """The sum (or the integral) of the mass over one entry is 1."""
    made = built(likelihood, field)
    entry = made.entries(torch.randn(*field.shape, made.width))
    if field.kind in ("real", "positive"):
        grid = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
        at = grid.reshape(-1, *(1,) * len(field.shape))
        total = entry.log_prob(at).exp().sum(0) * (grid[1] - grid[0])
    else:
        top = 200 if field.kind == "count" and likelihood.width == 1 and made.width == 1 else max(made.width, 2)
        at = torch.arange(top).float().reshape(-1, *(1,) * len(field.shape))
        total = entry.log_prob(at).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)


@by_likelihood
def test_a_likelihood_has_the_shape_of_its_field_under_any_leading_dims(likelihood, field):
    made = built(likelihood, field)
    fn = made(torch.randn(4, 1, 5, field.size * made.width))
    assert fn.event_shape == field.shape
    assert fn.batch_shape == (4, 1, 5)
    x = fn.sample()
    assert field.support.check(x).all() if field.kind != "positive" else torch.isfinite(x).all()
    assert torch.isfinite(fn.log_prob(x)).all()
    assert made.initial_bias(torch.zeros(7, *field.shape)).shape == (field.size * made.width,)


@by_likelihood
def test_a_likelihood_refuses_foreign_kinds(likelihood, field):
    kinds = {"binary", "unit", "real", "positive", "count", "categorical"} - set(likelihood.kinds)
    for kind in kinds:
        with pytest.raises(UserError, match=f"is {kind}.*use "):
            likelihood.build(Field("x", kind, (3,), 5 if kind == "categorical" else None))


def test_unscaled_columns_start_at_their_own_scale():
    train = torch.randn(200, 2) * torch.tensor([1e3, 1e-3]) + torch.tensor([5e4, 0.0])
    made = Normal().build(Field("x", "real", (2,)), train)
    log_p = made(torch.zeros(2)).log_prob(train).mean().item()
    best = -math.log(2 * math.pi) - 1 - math.log(1e3) - math.log(1e-3)
    assert log_p == pytest.approx(best, abs=0.2)


def test_a_scale_must_be_positive():
    with pytest.raises(UserError, match="scale must be positive"):
        Normal(scale=0.0)
