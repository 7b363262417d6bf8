"""Criticism of pairs whose rows share latents: replicas and LOO-PIT by draws of their posterior; closed forms."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.problem import F64, t

import ppl_vae
from ppl_vae.diagnostics import collapse, loo_pit, predictive_check, two_sample
from ppl_vae.errors import UserError

# mean ~ N(0, 2), z_n ~ N(mean, 1), x_n1, x_n2 ~ N(z_n, 0.5)
PRIOR, OWN, NOISE, FITTED = 2.0, 1.0, 0.5, 8
RAW = torch.randn(60, 3, generator=torch.manual_seed(5), dtype=F64)
X = 1.5 + OWN * RAW[:, :1] + NOISE * RAW[:, 1:]
TRAIN, TEST = X[:FITTED], X[FITTED:]
SPREAD = OWN**2 + NOISE**2 / 2  # of a row's mean given the mean
VARIANCE = 1 / (1 / PRIOR**2 + FITTED / SPREAD)
CENTRE = VARIANCE * TRAIN.mean(1).sum() / SPREAD


def model(x=None):
    mean = pyro.sample("mean", dist.Normal(t(0.0), PRIOR))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mean, OWN))
        pyro.sample("x", dist.Normal(z[..., None], NOISE).expand([*z.shape, 2]).to_event(1), obs=x)


def guide(x=None):
    mean = pyro.sample("mean", dist.Normal(CENTRE, VARIANCE**0.5))
    precision = 1 / OWN**2 + 2 / NOISE**2
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((mean / OWN**2 + x.sum(-1) / NOISE**2) / precision, precision**-0.5))


@pytest.fixture(scope="module")
def posterior():
    return ppl_vae.posterior(model, guide, {"x": TRAIN}, draws=1000, particles=1000)


def predicted(rest):
    """Mean and deviation of an entry given the row's other entry and the rows of training."""
    before = OWN**2 + VARIANCE  # of z given the rows of training
    shrink = before / (before + NOISE**2)
    return CENTRE + shrink * (rest - CENTRE), (before * (1 - shrink) + NOISE**2) ** 0.5


def test_an_entry_is_predicted_from_the_others_and_what_rows_share(posterior):
    found = loo_pit(model, guide, {"x": TEST}, particles=1000, posterior=posterior)
    mean, sd = predicted(TEST.flip(1))
    exact = dist.Normal(mean, sd).cdf(TEST)
    error = 4 * (exact * (1 - exact) / found.ess.to(exact)).sqrt().clamp(min=0.01)
    assert ((found.u - exact).abs() < error).all()


def test_data_sets_that_the_model_makes_have_one_draw_of_what_is_shared_each(posterior):
    found = predictive_check(model, guide, {"x": TEST}, {"mean": torch.mean}, draws=400, posterior=posterior)
    made = found.replicated[:, 0]
    variance = VARIANCE + SPREAD / len(TEST)  # fresh draws for each row would have SPREAD + VARIANCE over the rows
    assert abs(float(made.mean() - CENTRE)) < 4 * (variance / 400) ** 0.5
    assert abs(float(made.var()) / variance - 1) < 4 * (2 / 400) ** 0.5
    assert variance > 3 * (SPREAD + VARIANCE) / len(TEST)


def test_rows_made_again_from_their_own_latents_follow_the_draws_of_what_is_shared(posterior):
    options = {"draws": 400, "posterior": posterior, "kind": "posterior"}
    found = predictive_check(model, guide, {"x": TEST}, {"mean": torch.mean}, **options)
    made = found.replicated[:, 0]
    precision = 1 / OWN**2 + 2 / NOISE**2
    mean = (CENTRE / OWN**2 + 2 * TEST.mean() / NOISE**2) / precision
    shared = VARIANCE / (OWN**2 * precision) ** 2
    variance = shared + (1 / precision + NOISE**2 / 2) / len(TEST)
    assert abs(float(made.mean() - mean)) < 4 * (variance / 400) ** 0.5
    assert abs(float(made.var()) / variance - 1) < 4 * (2 / 400) ** 0.5


def test_programs_without_room_for_particles_have_the_same_data_sets():
    a = torch.randn(30, 2, generator=torch.manual_seed(1), dtype=F64)

    def regression(a, y=None):
        b = pyro.sample("b", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        with pyro.plate("data", len(a)):
            pyro.sample("y", dist.Normal(a @ b, 0.5), obs=y)

    def exact(a, y=None):
        pyro.sample("b", dist.Normal(t([1.0, -1.0]), 0.2).to_event(1))

    data = {"a": a, "y": a @ t([1.0, -1.0])}
    found = ppl_vae.posterior(regression, exact, data, draws=100, particles=100, resample=None)
    for kind in ("prior", "posterior"):
        options = {"draws": 100, "posterior": found, "kind": kind}
        made = predictive_check(regression, exact, data, {"y": {"mean": torch.mean}}, **options).replicated[:, 0]
        variance = 0.04 * float(a.mean(0).square().sum()) + 0.25 / 30
        assert abs(float(made.var()) / variance - 1) < 4 * (2 / 100) ** 0.5
    u = loo_pit(regression, exact, data, "y", particles=100, posterior=found).u
    spread = (0.04 * a.square().sum(1) + 0.25).sqrt()
    torch.testing.assert_close(u, dist.Normal(0.0, spread).cdf(torch.zeros(30, dtype=F64)), rtol=0, atol=0.2)


def test_draws_from_the_posterior_are_asked_for():
    for check in (loo_pit, lambda *a: predictive_check(*a, kind="posterior")):
        with pytest.raises(UserError, match=r"mean is shared by all rows, and .* pass posterior="):
            check(model, guide, {"x": TEST})
    with pytest.raises(UserError, match="posterior="):
        predictive_check(model, guide, {"x": TEST})


def test_what_has_no_meaning_says_why():
    with pytest.raises(UserError, match="not exchangeable"):
        two_sample(model, {"x": TEST})
    with pytest.raises(UserError, match="no codes of rows"):
        collapse(model, guide, {"x": TEST})
