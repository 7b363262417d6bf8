"""The weight of the KL: on both sides or refused, and zero is zero."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import SLOPE, WIDTH, NormalGuide, normal_model, t
from helpers import fit_still, mean_and_error, normals, rows, small_pair, standing_still
from pyro import poutine

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import CIWAE, ELBO, IWAE
from ppl_vae.data import load
from ppl_vae.schedules import WarmUp


def kl_to_prior(x):
    """KL(N(SLOPE x, WIDTH^2) || N(0, 1))."""
    return 0.5 * (WIDTH**2 + (SLOPE * x) ** 2 - 1) - math.log(WIDTH)


def expected_log_likelihood(x):
    return -0.5 * math.log(2 * math.pi) - 0.5 * ((x * (1 - SLOPE)) ** 2 + WIDTH**2)


def test_a_kl_weight_on_one_side_is_refused_and_fit_weighs_both_sides():
    """beta on the model's KL but not on the guide's is silently something else (or ignored)."""
    x = normals(200, math.sqrt(2.0))
    beta = 4.0

    def scaled_model(x=None):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    scaled_guide = poutine.scale(NormalGuide(), scale=beta)
    for programs in ((scaled_model, NormalGuide()), (normal_model, scaled_guide)):
        finding = next(f for f in ppl_vae.check(*programs, x) if f.severity == "error")
        assert finding.site == "z"
        assert "scaled by" in finding.problem
        assert "fit(beta=" in finding.remedy
        with pytest.raises(UserError, match="site 'z' is scaled by"):
            ppl_vae.fit(*programs, x, epochs=1)

    kl, likelihood = float(kl_to_prior(x).mean()), float(expected_log_likelihood(x).mean())
    for bound in (ELBO(20), ELBO(20, analytic_kl=True)):
        history = fit_still(normal_model, NormalGuide(), x, bound, beta=beta, epochs=20, batch_size=64).history
        for key, expected in (
            ("objective", likelihood - beta * kl),
            ("train", likelihood - kl),
            ("rate", kl),
            ("distortion", -likelihood),
        ):
            value, error = mean_and_error([record[key] for record in history])
            assert abs(value - expected) <= 4 * error + 1e-9, key
        for record in history:
            assert record["objective"] == pytest.approx(-record["distortion"] - beta * record["rate"], abs=1e-9)


def test_beta_zero_is_zero_and_not_the_default():
    """`beta or self.beta`: beta = 0 becomes the default."""
    data = load(rows(60), validation=10, test=10)
    for beta in (0, 0.0, WarmUp(5, beta=0.0)):
        record = ppl_vae.fit(*small_pair(data), data, beta=beta, epochs=1, optimizer=standing_still).history[0]
        assert record["beta"] == 0
        assert record["objective"] == pytest.approx(-record["distortion"], rel=1e-6)
        assert record["rate"] > 0.01
        assert record["train"] == pytest.approx(-record["distortion"] - record["rate"], rel=1e-6)
    log_w = 3 * rows(8, 4)
    torch.testing.assert_close(CIWAE(0.0, 8).of(log_w), IWAE(8).of(log_w))
    assert CIWAE(0, 8).beta == 0
    result = ppl_vae.fit(*small_pair(data), data, beta=0.0, weight_decay=0.0, epochs=1)
    assert result.settings["beta"] == 0
    assert result.settings["weight_decay"] == 0
