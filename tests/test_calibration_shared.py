"""Calibration by simulation of what all rows share: exact and narrow posteriors, and guides that are fitted anew."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import XH, hierarchy
from test_joint import COVARIANCE, DATA, NOISE, regression

from ppl_vae.diagnostics import calibration
from ppl_vae.errors import UserError
from ppl_vae.guides import FullRank


def posterior_of(width):
    """The posterior of any responses, and one whose deviations are `width` times the right ones."""

    def guide(a=None, y=None):
        pyro.sample("b", dist.MultivariateNormal(COVARIANCE @ a.T @ y / NOISE**2, width**2 * COVARIANCE))

    return guide


def test_ranks_of_an_exact_posterior_are_uniform():
    found = calibration(regression, posterior_of(1.0), DATA, simulations=200)
    assert found.calibrated
    assert found.names == ("b[0]", "b[1]", "log p(x, z)")
    assert found.ranks.shape == (200, 3)
    assert "200 simulated data sets" in found.verdict
    assert ((found.coverage - torch.tensor(found.levels)).abs() < 4 * found.coverage_se).all()


def test_a_posterior_that_is_a_fifth_too_narrow_is_not_calibrated():
    found = calibration(regression, posterior_of(0.8), DATA, simulations=300)
    assert not found.calibrated
    assert "too narrow" in found.verdict
    assert abs(found.width["b[0]"] - 0.8) < 0.08
    assert abs(found.width["b[1]"] - 0.8) < 0.08


@pytest.mark.parametrize(("simulations", "steps"), [(20, 30), pytest.param(20, 150, marks=pytest.mark.slow)])
def test_a_guide_is_fitted_to_every_data_set_and_stays_as_it_was(simulations, steps):
    guide = FullRank(regression, DATA).double()
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    found = calibration(regression, guide, DATA, simulations=simulations, steps=steps, draws=19)
    assert found.calibrated
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())


def test_refits_that_were_given_no_steps_are_noticed():
    found = calibration(regression, FullRank(regression, DATA).double(), DATA, simulations=20, steps=0, draws=19)
    assert not found.calibrated
    assert "k-hat of the refitted guide is above" in found.notes[0]


def test_rows_with_latents_of_their_own_are_judged_by_what_they_share():
    variance = 1 / (1 / 4 + len(XH) / 1.25)

    def guide(x=None):
        mean = pyro.sample("mean", dist.Normal(variance * x.sum() / 1.25, variance**0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.2 * mean + 0.8 * x, 0.2**0.5))

    found = calibration(hierarchy, guide, {"x": XH}, simulations=200)
    assert found.names == ("mean", "log p(x, z)")
    assert found.calibrated


def schools(y=None, s=None):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 5.0))
    pyro.sample("y", dist.Normal(mu[..., None], s).to_event(1), obs=y)


def schools_guide(y=None, s=None):
    precision = s.pow(-2).sum() + 1 / 25
    pyro.sample("mu", dist.Normal((y / s**2).sum() / precision, precision**-0.5))


def test_a_unit_without_rows_is_simulated_as_a_whole():
    data = {"y": torch.tensor([28.0, 8, -3]), "s": torch.tensor([15.0, 10, 16])}
    found = calibration(schools, schools_guide, data, rows=None, simulations=200)
    assert found.calibrated
    assert found.names == ("mu", "log p(x, z)")


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match="steps must be a whole number of at least 0"):
        calibration(regression, posterior_of(1.0), DATA, steps=-1)
    with pytest.raises(UserError, match="unknown value of rows 'all'"):
        calibration(regression, posterior_of(1.0), DATA, rows="all")
