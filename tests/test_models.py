"""Properties of every model."""

from __future__ import annotations

import pyro
import pytest
import torch
from cases import MODELS, conditions, own_guide

import ppl_vae

by_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


@by_model
def test_a_model_simulates_what_it_observes(make, digits):
    model = make(digits)
    x = model(n=5, **conditions(model, digits, 5))
    assert x.shape == (5, 8, 8)
    assert x.min() >= 0
    assert x.max() <= 16


@by_model
def test_a_model_is_clean_with_a_generated_guide(make, digits):
    model = make(digits)
    assert ppl_vae.check(model, own_guide(model), digits) == []


@by_model
def test_a_model_is_rebuilt_from_its_run_folder(make, digits, tmp_path):
    model = make(digits)
    result = ppl_vae.fit(model, own_guide(model), digits, epochs=1)
    run = ppl_vae.open_run(result.save(tmp_path / "run"))
    given = conditions(model, digits, 4)
    pyro.set_rng_seed(0)
    first = model(n=4, **given)
    pyro.set_rng_seed(0)
    assert torch.equal(first, run.model(n=4, **given))
