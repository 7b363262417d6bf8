"""What a pair predicts for a field that is hidden from its guide, against closed forms and exact sums."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, XM, chain, mixture, mixture_classifier, styled, styled_collapsed, styled_guide, t

import ppl_vae
from ppl_vae.errors import UserError
from ppl_vae.guides import IAF, MeanField
from ppl_vae.models import GMVAE, VAE

A, B = t([[1.0, -0.5, 0.3]]), t([[0.8]])
S, T = 0.6, 0.4


def response(x=None, y=None):
    """z ~ N(0, 1), x = z A + noise, y = z B + noise: p(y | x) is a closed form."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(t([0.0]), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ A, S).to_event(1), obs=x)
        pyro.sample("y", dist.Normal((z @ B).squeeze(-1), T), obs=y)


VARIANCE = 1 / (1 + (A**2).sum() / S**2)


def given_x(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(VARIANCE * (x @ A.T) / S**2, VARIANCE.sqrt()).to_event(1))


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
Y = torch.tensor([0.3, -1.0, torch.nan, 2.0, 0.0], dtype=F64)


def test_numbers_have_the_closed_form_of_a_linear_model():
    count = 1000
    found = ppl_vae.predict(response, given_x, {"x": X, "y": Y}, draws=count)
    mean = (VARIANCE * (X @ A.T) / S**2 * B).squeeze(-1)
    sd = (T**2 + B.squeeze() ** 2 * VARIANCE).sqrt()
    spread = B.squeeze() * VARIANCE.sqrt()
    assert ((found.mean - mean).abs() < 4 * spread / count**0.5).all()
    assert torch.allclose(found.sd, sd.expand(5), rtol=0.05)
    assert ((found.draws.mean(0) - mean).abs() < 4 * sd / count**0.5).all()
    exact = torch.where(Y.isnan(), Y, dist.Normal(mean, sd).log_prob(Y.nan_to_num()))
    # E[p(y | z)^2] is a normal density again, so that the standard error of the log mean density is known
    square = dist.Normal(mean, (T**2 / 2 + spread**2).sqrt()).log_prob(Y.nan_to_num()).exp() / (2 * T * math.pi**0.5)
    error = ((square / (2 * exact.nan_to_num()).exp() - 1) / count).sqrt()
    assert ((found.log_prob - exact).abs() < 4 * error)[~Y.isnan()].all()
    assert torch.equal(found.log_prob.isnan(), Y.isnan())
    low, high = found.interval(0.9)
    assert torch.allclose((high - low) / sd, torch.tensor(2 * 1.645, dtype=F64), rtol=0.1)
    assert found.probs is None
    with pytest.raises(UserError, match="which have no labels"):
        found.labels


def test_the_field_is_hidden_from_the_guide_even_if_the_data_have_it():
    looked = []

    def peeping(x=None, y=None):
        looked.append(y)
        given_x(x)

    def needy(x, y):
        looked.append(y)
        given_x(x)

    alone = ppl_vae.predict(response, peeping, {"x": X}, draws=3)
    with_y = ppl_vae.predict(response, peeping, {"x": X, "y": Y.nan_to_num()}, draws=3)
    assert all(y is None for y in looked)
    assert torch.equal(alone.mean, with_y.mean)
    assert alone.log_prob is None
    ppl_vae.predict(response, needy, {"x": X, "y": Y}, draws=3)
    assert looked[-1].isnan().all()


def test_a_label_that_the_guide_draws_has_the_probabilities_of_its_classifier():
    found = ppl_vae.predict(mixture, mixture_classifier, {"x": XM, "y": torch.tensor([0, 1, 2, -1, 1])}, draws=3)
    logits = torch.stack([-XM, 0.3 * XM, XM], -1)
    assert torch.allclose(found.probs, logits.softmax(-1))
    assert torch.equal(found.labels, logits.argmax(-1))
    assert torch.allclose(found.log_prob[1], logits.log_softmax(-1)[1, 1])
    assert found.log_prob.isnan().tolist() == [False, False, False, True, False]


def test_a_label_given_other_latents_is_averaged_over_them():
    def guide(x=None):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=torch.stack([-x, x], -1)))
            pyro.sample("b", dist.Categorical(logits=torch.stack([1.0 * a, 0.5 * x], -1)))

    found = ppl_vae.predict(chain, guide, {"x": XM}, "b", draws=500)
    p_a = torch.stack([-XM, XM], -1).softmax(-1)
    each = [torch.stack([torch.full_like(XM, a), 0.5 * XM], -1).softmax(-1) for a in (0.0, 1.0)]
    exact = sum(p_a[:, [a]] * each[a] for a in (0, 1))
    spread = (p_a.prod(-1, keepdim=True)).sqrt() * (each[0] - each[1]).abs()
    assert ((found.probs - exact).abs() <= 4 * spread / 500**0.5 + 1e-9).all()


def test_clusters_and_pixels_are_fields_too():
    data = ppl_vae.load("digits")
    model = GMVAE(data, clusters=3, latent_dim=2, hidden=(8,))
    found = ppl_vae.predict(model, MeanField(model, hidden=(8,)), data.test.rows(slice(0, 6)), "cluster", draws=2)
    assert found.probs.shape == (6, 3)
    assert torch.allclose(found.probs.sum(-1), torch.ones(6))


def test_columns_of_a_table_are_predicted_from_the_others():
    """Two columns that share a cause, all types: hiding one leaves the other to speak for it."""
    torch.manual_seed(0)
    z = torch.randn(400)
    table = {"height": z + 0.2 * torch.randn(400), "old": (z + 0.2 * torch.randn(400) > 0).float()}
    table["height"][::4] = torch.nan
    table["old"][1::4] = torch.nan
    data = ppl_vae.load(table, missing="allow", test=0, validation=0)
    model = VAE(data, latent_dim=1, hidden=(8,))
    guide = IAF(model, hidden=(8,), width=8, flows=1)
    ppl_vae.fit(model, guide, data, epochs=15, lr=0.03, batch_size=50)
    tall = ppl_vae.predict(model, guide, {"height": torch.tensor([-1.5, 1.5])}, "old")
    assert tall.probs.shape == (2, 2)
    assert tall.probs[0, 0] > 0.6
    assert tall.probs[1, 1] > 0.6
    old = ppl_vae.predict(model, guide, {"old": [0.0, 1.0]}, "height")
    assert old.mean[1] > old.mean[0]
    assert (old.sd > 0.3).all()


@pytest.mark.parametrize(
    ("model", "guide", "field", "words"),
    [
        (styled, styled_collapsed, "y", "depends on 'y'"),
        (styled, styled_guide, "z", "continuous latent"),
        (mixture, mixture_classifier, "colour", "unknown field or discrete latent 'colour'"),
    ],
)
def test_what_cannot_be_predicted_is_refused(model, guide, field, words):
    with pytest.raises(UserError, match=words):
        ppl_vae.predict(model, guide, {"x": XM, "y": torch.tensor([0, 1, 2, 0, 1])}, field)


def test_an_encoder_that_never_saw_the_field_missing_is_refused():
    torch.manual_seed(0)
    table = {"a": torch.randn(30), "b": torch.randn(30)}
    data = ppl_vae.load(table, test=0, validation=0)
    model = VAE(data, latent_dim=1, hidden=(8,))
    with pytest.raises(UserError, match="has never seen it missing: train with rows"):
        ppl_vae.predict(model, MeanField(model, hidden=(8,)), {"a": [1.0]}, "b")


def test_the_condition_of_a_model_is_not_predicted():
    def model(x=None, dose=None):
        with pyro.plate("data", len(dose)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(dose)), 1.0))
            pyro.sample("x", dist.Normal(z + dose, 1.0), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(UserError, match="conditions on field 'dose'"):
        ppl_vae.predict(model, guide, {"x": torch.zeros(3), "dose": torch.zeros(3)}, "dose")
    with pytest.raises(UserError, match="draws must be"):
        ppl_vae.predict(model, guide, {"x": torch.zeros(3)}, draws=0)


def test_probabilities_of_draws_and_global_generators():
    before = torch.random.get_rng_state()
    one, two = (ppl_vae.predict(mixture, mixture_classifier, {"x": XM}, draws=5, seed=s) for s in (1, 1))
    assert torch.equal(one.draws, two.draws)
    assert torch.equal(before, torch.random.get_rng_state())
    assert math.isclose(float(one.probs.sum()), 5.0, rel_tol=1e-6)
