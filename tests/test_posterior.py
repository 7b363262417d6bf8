"""Posterior draws of all latents against closed forms: shared, of rows, discrete, of one unit; and ArviZ on them."""

from __future__ import annotations

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.gaussian import XH, hierarchy, hierarchy_guide
from cases.problem import F64, t
from test_joint import (
    COVARIANCE,
    DATA,
    MEAN,
    NOISE,
    PRIOR,
    ROWS,
    A,
    Y,
    exact,
    mixture,
    mixture_guide,
    narrow,
    regression,
    wide,
)

import ppl_vae
from ppl_vae.errors import NoDensity, UserError


def test_weights_turn_a_wide_guide_into_the_posterior():
    found = ppl_vae.posterior(regression, wide, DATA, draws=4000, particles=20_000)
    sd = COVARIANCE.diagonal().sqrt()
    draws = found["b"]
    assert ((draws.mean(0) - MEAN).abs() < 0.08 * sd).all()
    torch.testing.assert_close(torch.cov(draws.T) / sd.outer(sd), COVARIANCE / sd.outer(sd), rtol=0, atol=0.1)
    table = found.summary()
    assert list(table.index) == ["b[0]", "b[1]"]
    assert abs(table["mean"].to_numpy() - MEAN.numpy()).max() < 0.04 * float(sd.max())
    assert abs(table["sd"].to_numpy() / sd.numpy() - 1).max() < 0.03
    assert abs(table["contraction"].to_numpy() - (1 - COVARIANCE.diagonal() / PRIOR**2).numpy()).max() < 0.01
    for q, z in (("5%", -1.645), ("50%", 0.0), ("95%", 1.645)):
        assert abs(table[q].to_numpy() - (MEAN + z * sd).numpy()).max() < 0.08 * float(sd.max())


def test_without_resampling_the_draws_are_the_guides():
    found = ppl_vae.posterior(regression, wide, DATA, draws=4000, resample=None)
    sd = COVARIANCE.diagonal().sqrt()
    covariance = torch.cov(found["b"].T) / sd.outer(sd)
    torch.testing.assert_close(covariance, 1.5 * COVARIANCE / sd.outer(sd), rtol=0, atol=0.15)


def test_a_narrow_guide_is_said_to_be_one():
    found = ppl_vae.posterior(regression, narrow, DATA, resample="psis")
    assert found.khat > 0.7
    assert "not to be believed" in found.findings[0].problem
    assert (found.summary()["khat"] >= found.khat).all()


def test_rows_are_drawn_given_what_they_share():
    found = ppl_vae.posterior(hierarchy, hierarchy_guide, {"x": XH}, draws=4000, particles=8000)
    n = len(XH)  # x = mean + noise of variance 1.25; z | mean, x is normal
    variance = 1 / (1 / 4 + n / 1.25)
    centre = variance * XH.sum() / 1.25
    assert abs(float(found["mean"].mean() - centre)) < 0.1 * variance**0.5
    shrink = 1 / (1 + 4)  # weight of the mean in E[z | mean, x]
    torch.testing.assert_close(found["z"].mean(0), shrink * centre + (1 - shrink) * XH, rtol=0, atol=0.05)
    spread = (0.2 + shrink**2 * variance) ** 0.5
    torch.testing.assert_close(found["z"].std(0) / spread, torch.ones(n, dtype=F64), rtol=0, atol=0.08)
    # jointly: the regression of z on the mean has the slope that the model says
    both = torch.cov(torch.stack([found["mean"], found["z"].mean(1)]))
    assert abs(float(both[0, 1] / both[0, 0]) - shrink) < 0.06


def test_rows_of_a_poor_guide_are_drawn_without_bias():
    """Its candidates are few and far: fresh ones for every particle would be pulled towards it."""

    def guide(x=None):
        pyro.sample("mean", dist.Normal(t(1.0), 0.6))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.5))

    found = ppl_vae.posterior(hierarchy, guide, {"x": XH[:2]}, draws=4000, particles=8000)
    variance = 1 / (1 / 4 + 2 / 1.25)
    centre = variance * XH[:2].sum() / 1.25
    torch.testing.assert_close(found["z"].mean(0), 0.2 * centre + 0.8 * XH[:2], rtol=0, atol=0.03)
    torch.testing.assert_close(found["z"].var(0) / (0.2 + 0.04 * variance), torch.ones(2, dtype=F64), rtol=0, atol=0.1)


def test_discrete_latents_are_drawn_given_the_others():
    x = t([-1.2, 0.2, 1.4])
    found = ppl_vae.posterior(mixture, mixture_guide, {"x": x}, draws=4000)
    loc = found["loc"]
    first = t(0.3).log() + dist.Normal(loc[:, :1], 0.5).log_prob(x)
    second = t(0.7).log() + dist.Normal(loc[:, 1:], 0.5).log_prob(x)
    responsibility = (second - torch.logaddexp(first, second)).exp().mean(0)
    torch.testing.assert_close(found["k"].double().mean(0), responsibility, rtol=0, atol=0.03)


def test_rows_that_share_nothing_have_their_posteriors():
    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.3 * x, 1.0))

    x = t([-1.0, 0.5, 2.0])
    found = ppl_vae.posterior(model, guide, {"x": x}, draws=4000, particles=8000)
    torch.testing.assert_close(found["z"].mean(0), x / 2, rtol=0, atol=0.05)
    torch.testing.assert_close(found["z"].var(0), torch.full((3,), 0.5, dtype=F64), rtol=0, atol=0.05)
    assert found.shared == ()
    assert found.frame("z").shape == (12_000, 1)


def eight(y=None, sigma=None):
    mu = pyro.sample("mu", dist.Normal(t(0.0), 5.0))
    theta = pyro.sample("theta", dist.Normal(mu[..., None] + torch.zeros(3, dtype=F64), 3.0).to_event(1))
    pyro.sample("y", dist.Normal(theta, sigma).to_event(1), obs=y)


def eight_guide(y=None, sigma=None):
    mu = pyro.sample("mu", dist.Normal(t(4.0), 5.0))
    pyro.sample("theta", dist.Normal(0.5 * mu[..., None] + 0.5 * y, 3.0).to_event(1))


def test_one_unit_has_a_posterior_of_everything():
    data = {"y": t([8.0, 3.0, -1.0]), "sigma": t([5.0, 4.0, 6.0])}
    found = ppl_vae.posterior(eight, eight_guide, data, draws=4000, particles=20_000, rows=None)
    precision = 1 / (9 + data["sigma"] ** 2)
    variance = 1 / (1 / 25 + precision.sum())
    centre = variance * (precision * data["y"]).sum()
    table = found.summary()
    assert list(table.index) == ["mu", "theta[0]", "theta[1]", "theta[2]"]
    assert abs(table.loc["mu", "mean"] - float(centre)) < 0.1 * float(variance.sqrt())
    assert abs(table.loc["mu", "sd"] / float(variance.sqrt()) - 1) < 0.05
    assert found.frame().shape == (4000, 4)


def test_plates_of_shared_latents_keep_their_names():
    def model(g, x=None):
        with pyro.plate("group", 3):
            a = pyro.sample("a", dist.Normal(t(0.0), 2.0))
        with pyro.plate("data", len(g)):
            pyro.sample("x", dist.Normal(a[..., g] if a.dim() == 1 else a.squeeze(-2)[..., g], 1.0), obs=x)

    def guide(g, x=None):
        with pyro.plate("group", 3):
            pyro.sample("a", dist.Normal(t(0.5), 1.0))

    g, x = torch.tensor([0, 0, 1, 2, 2]), t([1.0, 0.0, 2.0, -1.0, 0.0])
    found = ppl_vae.posterior(model, guide, {"g": g, "x": x}, draws=4000, particles=8000)
    n = t([2.0, 1.0, 2.0])
    total = t([1.0, 2.0, -1.0])
    assert found.dims["a"] == ("group",)
    torch.testing.assert_close(found["a"].mean(0), total / (n + 0.25), rtol=0, atol=0.08)


# -- ArviZ -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz

        yield arviz


def test_arviz_reads_the_draws(arviz):
    found = ppl_vae.posterior(hierarchy, hierarchy_guide, {"x": XH}, draws=500)
    idata = found.to_arviz()
    assert dict(idata["posterior"]["mean"].sizes) == {"chain": 1, "draw": 500}
    assert dict(idata["posterior"]["z"].sizes) == {"chain": 1, "draw": 500, "row": len(XH)}
    assert "mean" in arviz.summary(idata, kind="stats").index
    assert dict(idata["log_likelihood"]["x"].sizes) == {"chain": 1, "draw": 500, "row": len(XH)}


def test_the_whole_pair_goes_to_arviz(arviz):
    idata = ppl_vae.to_arviz(regression, wide, DATA, draws=250, chains=4, particles=4000, resample=True)
    assert dict(idata["posterior"]["b"].sizes) == {"chain": 4, "draw": 250, "b_dim": 2}
    assert len(arviz.summary(idata)) == 2
    with pytest.raises(UserError, match="cannot be cut into 3 chains"):
        ppl_vae.posterior(regression, wide, DATA, draws=10, particles=50).to_arviz(3)


def test_data_are_drawn_by_the_posterior_predictive_and_by_the_prior(arviz):
    found = ppl_vae.posterior(regression, wide, DATA, draws=4000, particles=20_000, predictive=True)
    spread = ((A @ COVARIANCE * A).sum(-1) + NOISE**2).sqrt()
    assert ((found.predictive["y"].mean(0) - A @ MEAN).abs() / spread).max() < 0.08
    torch.testing.assert_close(found.predictive["y"].std(0) / spread, torch.ones(ROWS, dtype=F64), rtol=0, atol=0.06)
    before = (PRIOR**2 * A.square().sum(-1) + NOISE**2).sqrt()
    ratio = found.prior_predictive["y"].std(0) / before
    torch.testing.assert_close(ratio, torch.ones(ROWS, dtype=F64), rtol=0, atol=0.12)  # of 1,000 draws
    idata = found.to_arviz(4)
    assert set(idata.children if hasattr(idata, "children") else idata.groups()) == {
        "posterior", "posterior_predictive", "log_likelihood", "prior", "prior_predictive", "observed_data",
        "constant_data",
    }  # fmt: skip
    assert dict(idata["posterior_predictive"]["y"].sizes) == {"chain": 4, "draw": 1000, "row": ROWS}
    assert abs(idata["observed_data"]["y"].values - Y.numpy()).max() == 0
    assert dict(idata["constant_data"]["a"].sizes) == {"row": ROWS, "a_dim": 2}
    if hasattr(arviz, "plot_ppc"):
        arviz.plot_ppc(idata, num_pp_samples=5)
    else:
        arviz.plot_ppc_dist(idata)
    arviz.plot_loo_pit(idata, **({"y": "y"} if hasattr(arviz, "plot_ppc") else {}))
    arviz.plot_pair(idata, var_names=["b"])
    arviz.plot_forest(idata)
    arviz.compare({"one": idata, "other": idata})


def test_a_unit_can_leave_out_what_it_observes_by_itself(arviz):
    data = {"y": t([8.0, 3.0, -1.0]), "sigma": t([5.0, 4.0, 6.0])}
    found = ppl_vae.posterior(eight, eight_guide, data, draws=1000, rows=None, predictive=True)
    theta, sigma = found["theta"], data["sigma"]
    torch.testing.assert_close(found.log_likelihood["y"], dist.Normal(theta, sigma).log_prob(data["y"]))
    idata = found.to_arviz(2)
    assert dict(idata["log_likelihood"]["y"].sizes) == {"chain": 2, "draw": 500, "y_dim": 3}
    assert dict(idata["constant_data"]["sigma"].sizes) == {"sigma_dim": 3}
    assert arviz.loo(idata).n_data_points == 3


def test_groups_and_rows_have_the_names_of_the_table():
    import pandas as pd

    table = pd.DataFrame({"county": ["Aitkin", "Cass", "Aitkin"], "r": [1.0, 2.0, 0.5]}, index=["a", "b", "c"])
    data = ppl_vae.load(table, validation=0, test=0)

    def model(county, r=None):
        with pyro.plate("county", 2):
            level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(county)):
            pyro.sample("r", dist.Normal(level[..., county], 1.0), obs=r)

    def guide(county, r=None):
        with pyro.plate("county", 2):
            pyro.sample("level", dist.Normal(0.5, 1.0))

    found = ppl_vae.posterior(model, guide, data, draws=10, particles=50)
    assert list(found.coords["county"]) == ["Aitkin", "Cass"]
    assert list(found.summary().index) == ["level[Aitkin]", "level[Cass]"]
    assert list(found.frame()) == ["level[Aitkin]", "level[Cass]"]
    assert list(found.to_arviz()["posterior"]["county"].values) == ["Aitkin", "Cass"]


def test_arviz_leaves_rows_out_as_we_do(arviz):
    found = ppl_vae.posterior(regression, exact, DATA, draws=2000)
    loo = arviz.loo(found.to_arviz(), pointwise=True)
    ours = ppl_vae.evaluate(regression, exact, DATA, particles=4000)
    assert abs(float(getattr(loo, "elpd_loo", getattr(loo, "elpd", 0.0))) - float(ours.loo.sum())) < 0.15
    assert len(ours.loo) == ROWS


# -- refusals --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="particles must be a whole number of at least 1000"):
        ppl_vae.posterior(regression, wide, DATA, particles=10)
    with pytest.raises(UserError, match="unknown value of resample"):
        ppl_vae.posterior(regression, wide, DATA, resample="sir")
    with pytest.raises(UserError, match="unknown latent 'c'"):
        ppl_vae.posterior(regression, wide, DATA, draws=10, particles=50)["c"]
    with pytest.raises(NoDensity, match="'b' is a point"):
        ppl_vae.posterior(regression, lambda a=None, y=None: pyro.sample("b", dist.Delta(MEAN).to_event(1)), DATA)
