"""The information bottleneck: a classifier at a small KL weight, which forgets x as the weight grows."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.neural_network import MLPClassifier
from torch.distributions import kl_divergence

import ppl_vae
from ppl_vae.errors import UserError
from ppl_vae.guides import MeanField
from ppl_vae.models import InformationBottleneck


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


@pytest.fixture(scope="module")
def trained(digits):
    """Pairs by their KL weight."""
    found = {}
    for beta in (1e-3, 0.1, 1.0):
        pyro.set_rng_seed(0)
        model = InformationBottleneck(digits, latent_dim=8)
        guide = MeanField(model, hidden=(64,), activation="relu")
        result = ppl_vae.fit(model, guide, digits.train, beta=beta, epochs=15, lr=3e-3)
        found[beta] = model, guide, result.history[-1]
    return found


def test_at_a_small_weight_it_classifies_like_a_network_of_the_same_size(trained, digits):
    x, y = digits.train["x"].flatten(1).numpy(), digits.train["y"].numpy()
    plain = MLPClassifier((64,), max_iter=15, learning_rate_init=3e-3, batch_size=64, random_state=0)
    with pytest.warns(match="Maximum iterations"):
        plain.fit(x / 16.0, y)
    test = digits.test["y"]
    reference = plain.score(digits.test["x"].flatten(1).numpy() / 16.0, test.numpy())
    model, guide, _ = trained[1e-3]
    accuracy = float((ppl_vae.predict(model, guide, digits.test).labels == test).float().mean())
    error = (reference * (1 - reference) / len(test)) ** 0.5
    assert accuracy > reference - 4 * error
    assert accuracy > 0.88


def test_a_larger_weight_lowers_the_rate(trained):
    rates = [history["rate"] for _, _, history in trained.values()]
    assert rates[0] > rates[1] > rates[2] >= 0
    assert rates[2] < 1.0


def test_the_rate_is_the_kl_and_the_bound_that_of_log_p_y(trained, digits):
    model, guide, _ = trained[0.1]
    batch = digits.test.batch()
    with torch.no_grad():
        q = pyro.poutine.trace(guide).get_trace(**batch).nodes["z"]["fn"]
        exact = kl_divergence(q.base_dist, dist.Normal(0.0, 1.0)).sum(-1)
    weights = ppl_vae.log_weights(model, guide, batch, particles=400)
    error = (weights.rate.var(0) / 400).sum().sqrt()
    assert (weights.rate.mean(0) - exact).sum().abs() < 4 * error
    assert ppl_vae.evaluate(model, guide, digits.test, particles=20).rate.mean() > 1


def test_the_guide_sees_x_alone(trained, digits):
    model, guide, _ = trained[0.1]
    assert guide.encoder.names == ("x",)
    assert model(n=3).shape == (3,)
    with_labels = ppl_vae.predict(model, guide, digits.test, draws=4)
    without = ppl_vae.predict(model, guide, {"x": digits.test["x"]}, draws=4)
    assert torch.equal(with_labels.probs, without.probs)
    assert without.log_prob is None
    assert ppl_vae.check(model, guide, digits) == []


def test_rows_without_a_response_are_skipped(digits):
    x, y = digits.train["x"][:60], digits.train["y"][:60].clone()
    y[::2] = -1
    data = ppl_vae.load({"x": x, "y": y}, missing="allow", test=0, validation=0, kinds={"x": "categorical"})
    model = InformationBottleneck(data, latent_dim=2)
    guide = MeanField(model, hidden=(8,))
    found = ppl_vae.evaluate(model, guide, data.train, particles=3)
    assert torch.equal(found.distortion == 0, data.train["y"] == -1)


def test_numbers_are_predicted_too():
    torch.manual_seed(0)
    x = torch.randn(400, 3)
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.5 * torch.randn(400)
    data = ppl_vae.load({"x": x, "y": y}, validation=0)
    model = InformationBottleneck(data, latent_dim=2)
    guide = MeanField(model, hidden=(32,))
    ppl_vae.fit(model, guide, data, beta=0.01, epochs=40, lr=5e-3)
    found = ppl_vae.predict(model, guide, data.test)
    residual = (found.mean - data.test["y"]).square().mean().sqrt()
    assert residual < 0.8  # 0.5 is the noise, 2.3 the deviation of y
    assert found.log_prob.mean() > dist.Normal(0.0, 2.3).entropy().neg() + 0.5  # half a nat above what y says of itself


def test_what_there_is_nothing_to_predict_from_is_refused(digits):
    with pytest.raises(UserError, match="unknown field 'z'"):
        InformationBottleneck(digits, response="z")
    with pytest.raises(UserError, match="have only field 'y'"):
        InformationBottleneck(ppl_vae.load({"y": torch.arange(20) % 3}))


def test_a_model_may_only_name_fields_that_there_are(digits):
    model = InformationBottleneck(digits, latent_dim=2)
    model.encodes = ("colour",)
    with pytest.raises(UserError, match="unknown field of the model's `encodes` 'colour'"):
        MeanField(model)


def test_epochs_are_judged_by_the_weighted_bound(digits):
    """The ELBO itself falls while a small KL weight lets the guide say more: it must not choose the epoch."""
    model = InformationBottleneck(digits, latent_dim=8)
    result = ppl_vae.fit(model, MeanField(model, hidden=(32,)), digits, beta=0.01, epochs=8, lr=3e-3)
    judged = [record["validation_objective"] for record in result.history]
    bounds = [record["validation"] for record in result.history]
    assert result.best.epoch == 1 + judged.index(max(judged))
    assert result.best.epoch > 1 + bounds.index(max(bounds))
    assert result.best.bound == bounds[result.best.epoch - 1]
