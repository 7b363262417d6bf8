"""Rows given some of their columns, against the conditional of the linear-Gaussian model, in Python and the command."""

from __future__ import annotations

import pandas
import pytest
import torch

import ppl_vae
from ppl_vae import UserError
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE


def pair(apart, missing=False):
    x = torch.randn(600, 2, generator=torch.manual_seed(0)) @ torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, -1.0]])
    x = 5 + x + 0.3 * torch.randn(x.shape, generator=torch.manual_seed(1))
    table = pandas.DataFrame(x.numpy(), columns=["a", "b", "c"])
    if apart:
        table["group"] = ["low" if v < 5 else "high" for v in table["a"]]
    data = ppl_vae.load(table)
    torch.manual_seed(0)
    model = VAE(data, latent_dim=2, hidden=(8,))
    return model.eval(), MeanField(model, hidden=(8,)).eval()


def exact(model, place, value):
    """Mean and covariance of the others given one column, of a linear decoder at which the pair begins."""
    likelihood = model.likelihood
    loadings = likelihood.unit[:, None] * model.decoder.beside.weight
    covariance = (loadings @ loadings.T + torch.diag(likelihood(torch.zeros(3)).variance)).detach()
    mean = (likelihood.shift + likelihood.unit * model.decoder.last.bias).detach()
    rest = [i for i in range(3) if i != place]
    gain = covariance[rest, place] / covariance[place, place]
    left = covariance[rest][:, rest] - gain[:, None] * covariance[place, rest]
    return rest, mean[rest] + gain * (value - mean[place]), left


def test_draws_given_a_column_have_the_conditional_moments():
    model, guide = pair(False)
    found = ppl_vae.sample(model, guide, 4000, given={"b": 8.0}, particles=20_000)
    rest, mean, covariance = exact(model, 1, 8.0)
    drawn = found.rows["x"]
    assert bool((drawn[:, 1] == 8).all())
    error = 4 * (covariance.diagonal() * (1 / 4000 + 1 / found.ess)).sqrt()
    assert bool(((drawn[:, rest].mean(0) - mean).abs() < error).all())
    torch.testing.assert_close(torch.cov(drawn[:, rest].T), covariance, atol=0.12, rtol=0)
    assert list(found.frame().columns) == ["a", "b", "c"]


def test_levels_are_given_and_drawn_by_name():
    model, guide = pair(True)
    found = ppl_vae.sample(model, guide, 50, given={"group": "low", "c": 4.0}).frame()
    assert set(found["group"]) == {"low"}
    assert (found["c"] == 4).all()
    assert found["a"].std() > 0


def test_nothing_given_is_a_draw_from_the_model():
    model, guide = pair(True)
    found = ppl_vae.sample(model, guide, 30)
    assert found.ess is None
    assert found.frame().shape == (30, 4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"d": 1}, "unknown column 'd'"),
        ({"group": "middle"}, "unknown value of group 'middle'"),
        ({"a": "much"}, "expected a number"),
        ({"a": float("nan")}, "expected a finite number"),
    ],
)
def test_what_cannot_be_given_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        ppl_vae.sample(*pair(True), 3, given=given)


def test_few_effective_particles_are_told():
    model, guide = pair(False)
    assert ppl_vae.sample(model, guide, 10, given={"b": 8.0}).doubt is None
    assert "effective particles" in ppl_vae.sample(model, guide, 10, given={"b": 8.0}, particles=5).doubt
