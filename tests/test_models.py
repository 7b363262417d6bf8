"""Properties of every model."""

from __future__ import annotations

import pyro
import pytest
import torch
from cases import MODELS, own_guide, simulated

import ppl_vae

by_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


@by_model
def test_a_model_simulates_what_it_observes(make, digits):
    model = make(digits)
    made = simulated(model, digits, 5)
    assert made
    for name, value in made.items():
        field = digits.schema[name]
        assert value.shape == (5, *field.shape)
        assert value.min() >= 0
        assert value.max() < field.cardinality


@by_model
def test_a_model_is_clean_with_a_generated_guide(make, digits):
    model = make(digits)
    assert ppl_vae.check(model, own_guide(model), digits) == []


@by_model
def test_a_model_is_rebuilt_from_its_run_folder(make, digits, tmp_path):
    model = make(digits)
    result = ppl_vae.fit(model, own_guide(model), digits, epochs=1, batch_size=500)
    run = ppl_vae.open_run(result.save(tmp_path / "run"))
    pyro.set_rng_seed(0)
    first = simulated(model, digits, 4)
    pyro.set_rng_seed(0)
    again = simulated(run.model, digits, 4)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
