"""The latent-variable regression against the closed forms of a linear-normal model, and on real rows."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_diabetes

import ppl_vae
from ppl_vae.errors import UserError
from ppl_vae.guides import FullRank, MeanField
from ppl_vae.likelihoods import Normal
from ppl_vae.likelihoods.location import LEAST
from ppl_vae.models import Regression
from ppl_vae.schedules import Cosine

LOADING = torch.tensor([[0.6, -0.4, 0.3, 0.0, 0.5], [0.2, 0.5, -0.3, 0.6, 0.0]])  # [latent, entry]
SLOPE, NOISE, S = torch.tensor([1.5, -1.0]), 0.8, 0.5


def linear_rows(n=1500, *, hidden_share=0.0):
    """x = z L + noise, y = z b + s: everything about p(y | x) is known."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, 2, generator=generator)
    x = z @ LOADING + NOISE * torch.randn(n, 5, generator=generator)
    y = z @ SLOPE + S * torch.randn(n, generator=generator)
    y[: round(hidden_share * n)] = torch.nan
    return ppl_vae.load({"x": x, "y": y}, missing="allow" if hidden_share else "refuse", test=0, validation=0)


def the_truth(data):
    """The model that made these rows, with nothing left to learn."""
    model = Regression(data, latent_dim=2, hidden=(), likelihood=Normal(), response_likelihood=Normal())
    parts = ((model.likelihood, model.decoder, LOADING.T, NOISE), (*_response(model), SLOPE[None], S))
    with torch.no_grad():
        for likelihood, network, weight, noise in parts:
            unit = likelihood.unit.reshape(-1)
            network.last.weight.copy_(weight / unit.unsqueeze(-1))
            network.last.bias.copy_(-likelihood.shift.reshape(-1) / unit)
            likelihood.log_scale.copy_((noise / likelihood.unit - LEAST).log())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _response(model):
    return model.response.likelihood, model.response.network


def prediction(x):
    """Mean and variance of E[y | z] given x: those of y are the mean, and S^2 more."""
    covariance = torch.linalg.inv(torch.eye(2) + LOADING @ LOADING.T / NOISE**2)
    return x @ LOADING.T @ covariance @ SLOPE / NOISE**2, SLOPE @ covariance @ SLOPE


def from_the_prior(x=None, y=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_evidence_is_that_of_a_joint_normal_of_what_was_observed(share):
    data = linear_rows(60, hidden_share=share)
    loadings = torch.cat([LOADING, SLOPE.unsqueeze(-1)], -1)
    covariance = loadings.T @ loadings + torch.diag(torch.tensor([NOISE**2] * 5 + [S**2]))
    batch = data.train.batch()
    row, alone = torch.cat([batch["x"], batch["y"].nan_to_num()[:, None]], -1), torch.zeros(5)
    both = dist.MultivariateNormal(torch.zeros(6), covariance).log_prob(row)
    rows = dist.MultivariateNormal(alone, covariance[:5, :5]).log_prob(batch["x"])
    exact = torch.where(batch["y"].isnan(), rows, both)
    found = ppl_vae.evaluate(the_truth(data), from_the_prior, data.train, particles=20000)
    error = found.log_evidence_se.square().sum().sqrt()
    assert (found.log_evidence - exact).sum().abs() < 4 * error
    assert error < 2


def test_a_guide_of_x_alone_has_the_right_mean_and_the_narrow_deviation_that_is_documented():
    data = linear_rows()
    model = the_truth(data)
    guide = FullRank(model, hidden=())
    assert guide.encoder.names == ("x",)
    ppl_vae.fit(model, guide, data, epochs=12, lr=Cosine(0.03, 12), batch_size=100)
    x = data.train["x"][:200]
    found = ppl_vae.predict(model, guide, {"x": x}, draws=400)
    mean, v = prediction(x)
    narrow = S**2 + v * S**2 / (v + S**2)
    assert (found.mean - mean).square().mean().sqrt() < 0.15 * mean.std()
    assert abs(float(found.sd.square().mean() / narrow) - 1) < 0.1
    assert float(narrow) < 0.5 * float(v + S**2)  # so that the difference is seen


@pytest.mark.slow
def test_with_hidden_responses_the_deviation_is_that_of_the_posterior():
    pyro.set_rng_seed(2)
    data = linear_rows(hidden_share=0.5)
    model = the_truth(data)
    guide = FullRank(model, hidden=(32,))
    assert guide.encoder.names == ("x", "y")
    ppl_vae.fit(model, guide, data, epochs=20, lr=Cosine(0.02, 20), batch_size=100)
    x = data.train["x"][:200]
    found = ppl_vae.predict(model, guide, {"x": x}, draws=400)
    mean, v = prediction(x)
    assert (found.mean - mean).square().mean().sqrt() < 0.15 * mean.std()
    assert abs(float(found.sd.square().mean() / (v + S**2)) - 1) < 0.1


def test_on_real_rows_it_is_better_than_the_mean():
    """Paired over 110 test rows: the squared errors are smaller than those of the mean, by four standard errors."""
    x, y = load_diabetes(return_X_y=True)
    data = ppl_vae.load({"x": x, "y": y}, kinds={"y": "real"}, test=0.25, validation=0)
    model = Regression(data, latent_dim=4, hidden=())
    guide = MeanField(model, hidden=(32,))
    ppl_vae.fit(model, guide, data, epochs=30, lr=1e-2)
    found, truth = ppl_vae.predict(model, guide, data.test), data.test["y"]
    gain = (data.train["y"].mean() - truth).square() - (found.mean - truth).square()
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5
    low, high = found.interval(0.9)
    covered = ((low < truth) & (truth < high)).float().mean()
    assert covered > 0.9 - 4 * (0.09 / len(truth)) ** 0.5
    assert found.log_prob.isfinite().all()


def test_responses_of_every_kind_and_columns():
    torch.manual_seed(0)
    z = torch.randn(200)
    table = {"a": z + 0.1 * torch.randn(200), "b": (z > 0).float(), "stay": torch.poisson(z.exp())}
    data = ppl_vae.load(table, test=0, validation=0)
    for response, kind in (("b", "probs"), ("stay", "mean"), ("a", "mean")):
        model = Regression(data, response=response, latent_dim=2, hidden=(4,))
        guide = MeanField(model, hidden=(4,))
        assert sorted(model(n=3)) == ["a", "b", "stay"]
        assert response not in guide.encoder.names
        assert ppl_vae.check(model, guide, data) == []
        found = ppl_vae.predict(model, guide, {n: v for n, v in table.items() if n != response}, response, draws=3)
        assert getattr(found, kind).isfinite().all()
    with pytest.raises(UserError, match="unknown field 'c'"):
        Regression(data, response="c")


def test_rows_without_a_response_are_taken_at_prediction_by_the_default():
    x, y = load_diabetes(return_X_y=True)
    data = ppl_vae.load({"x": x[:50], "y": y[:50]}, kinds={"y": "real"})
    model = Regression(data, latent_dim=2, hidden=(4,))
    assert ppl_vae.predict(model, MeanField(model, hidden=(4,)), x[:7], draws=2).mean.shape == (7,)
    seeing = Regression(data, latent_dim=2, hidden=(4,), sees_response=True)
    with pytest.raises(UserError, match="has never seen it missing"):
        ppl_vae.predict(seeing, MeanField(seeing, hidden=(4,)), x[:7], draws=2)
