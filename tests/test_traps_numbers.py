"""TRAPS.md 23 to 28: numbers. At least one test per line, in its order."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, t
from torch import nn

import ppl_vae
import ppl_vae.guides
import ppl_vae.models
from ppl_vae import UserError, log_weights
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.data import load
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import Normal
from ppl_vae.models import VAE


def rows(count=40, columns=3, seed=0, dtype=torch.float32):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def weights_of(*modules):
    return {f"{i} {n}": v.clone() for i, m in enumerate(modules) for n, v in m.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def errors(model, guide, data):
    return [f for f in ppl_vae.check(model, guide, data) if f.severity == "error"]


def small_pair(data, seed=0):
    torch.manual_seed(seed)
    model = VAE(data, latent_dim=2, hidden=(8,))
    return model, MeanField(model, hidden=(8,))


# z ~ N(0, 1), x ~ N(z, 1) and its posterior


def normal_posterior(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))


# -- 23 ----------------------------------------------------------------------------------------------------


class FactorModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.loading = nn.Parameter(t([[1.0, 0.5, -0.3, 0.2], [0.1, -0.8, 0.6, 0.9]]))

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.loading, 0.7).to_event(1), obs=x)

    def evidence(self, x):
        """log N(x_seen; 0, W_seen' W_seen + 0.49 I), row by row."""
        covariance = self.loading.T @ self.loading + 0.49 * torch.eye(4, dtype=F64)
        values = []
        for row in x:
            seen = (~row.isnan()).nonzero()[:, 0]
            marginal = dist.MultivariateNormal(torch.zeros(len(seen), dtype=F64), covariance[seen][:, seen])
            values.append(marginal.log_prob(row[seen]))
        return torch.stack(values)


class FactorPosterior(nn.Module):
    """The exact posterior given the entries that are there, with a slope through which gradients flow."""

    def __init__(self, model):
        super().__init__()
        self.loading = model.loading.detach().clone()
        self.slope = nn.Parameter(t(1.0))

    def forward(self, x=None):
        seen = (~x.isnan()).to(F64)
        precision = torch.eye(2, dtype=F64) + torch.einsum("bd,id,jd->bij", seen, self.loading, self.loading) / 0.49
        covariance = torch.linalg.inv(precision)
        mean = torch.einsum("bij,jd,bd->bi", covariance, self.loading, torch.nan_to_num(x)) / 0.49
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(self.slope * mean, covariance))


def test_missing_entries_give_finite_gradients_and_the_marginal_evidence():
    """23. NaN in masked entries gives NaN gradients even where the likelihood skips them (0 * NaN)."""
    nan = math.nan
    x = t([[0.5, nan, 0.2, 1.5], [2.0, 0.3, -0.7, 0.1], [nan, nan, 0.4, -0.6], [-1.0, 0.8, nan, 2.0]])
    model = FactorModel()
    guide = FactorPosterior(model)
    truth = model.evidence(x)
    (slope,) = torch.autograd.grad(truth.sum(), [model.loading])
    with torch.no_grad():
        weights = log_weights(model, guide, x, particles=6).log_weight
        torch.testing.assert_close(weights, truth.expand(6, -1), atol=1e-9, rtol=0)
        found = ppl_vae.evaluate(model, guide, x, particles=4).log_evidence
        torch.testing.assert_close(found, truth.detach(), atol=1e-9, rtol=0)
    for bound in (ELBO(), ELBO(4, estimator="stl"), IWAE(4), IWAE(4, estimator="dreg")):
        drawn = []
        for _ in range(50):
            loss = bound.differentiable_loss(model, guide, x)
            gradients = torch.autograd.grad(-loss, [model.loading, guide.slope])
            assert all(torch.isfinite(g).all() for g in gradients)
            drawn.append(gradients[0])
        stacked = torch.stack(drawn)  # at the posterior the mean gradient is that of the evidence (Fisher)
        error = stacked.std(0) / math.sqrt(len(drawn))
        assert ((stacked.mean(0) - slope).abs() <= 4 * error + 1e-9).all(), type(bound).__name__


def test_a_generated_guide_trains_on_rows_with_holes():
    """23. The encoder sees a mask, not NaN."""
    x = rows(60)
    x[::3, 0], x[5] = math.nan, math.nan  # entries, and one row of which nothing is known
    data = load(x, missing="allow", test=10, validation=10)
    model, guide = small_pair(data)
    result = ppl_vae.fit(model, guide, data, epochs=3)
    assert all(math.isfinite(record["train"]) for record in result.history)
    assert all(torch.isfinite(v).all() for v in weights_of(model, guide).values())
    everything = ppl_vae.evaluate(model, guide, torch.full((3, 3), math.nan), particles=200)
    # nothing observed: log p = 0, and the weights are those of prior against guide
    assert (everything.log_evidence.abs() <= 4 * everything.log_evidence_se + 1e-6).all()
    assert everything.distortion.abs().max() == 0


# -- 24 ----------------------------------------------------------------------------------------------------


class Unbounded(nn.Module):
    """x ~ N(weight z, exp(raw)^2): the exp of an unbounded scale."""

    def __init__(self):
        super().__init__()
        self.weight, self.raw = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.weight * z, self.raw.exp()), obs=x)


def test_divergence_is_explained_and_the_last_good_weights_are_kept():
    """24. "Expected parameter loc to satisfy Real()": which site, which step, what was largest."""
    model = Unbounded()
    x = 100.0 * rows(40, 1)[:, 0]
    made, good = [], []

    def optimizer(parameters):
        made.append(torch.optim.SGD(parameters, lr=1e-6))
        return made[0]

    def on_epoch(record):
        good.append(weights_of(model))
        if record["epoch"] == 2:
            made[0].param_groups[0]["lr"] = 1e30

    with pytest.raises(UserError) as caught:
        ppl_vae.fit(model, normal_posterior, x, epochs=5, batch_size=10, optimizer=optimizer, on_epoch=on_epoch)
    message = str(caught.value)
    assert "at epoch 3, step 2" in message
    assert "site 'x' of the model is not finite" in message
    largest = re.search(r"largest parameter \S+ \((.+?)\), gradient \S+ \((.+?)\), input (\S+) \(x\)", message)
    assert largest, message
    assert {largest[1], largest[2]} <= {"model.body.weight", "model.body.raw"}
    assert 10 < float(largest[3]) <= float(x.abs().max()) + 1  # of the batch at which it happened
    for cause in ("learning rate", "unscaled input", "exp of an unbounded scale"):
        assert cause in message
    assert "last good weights are kept" in message
    assert len(good) == 2
    assert_same(weights_of(model), good[-1])
    assert not torch.equal(good[0]["0 weight"], good[1]["0 weight"])


# -- 25 ----------------------------------------------------------------------------------------------------


def observing(likelihood):
    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", likelihood(z), obs=x)

    return model


def any_guide(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


def bernoulli(z):
    return dist.Bernoulli(logits=z)


def categorical(z):
    return dist.Categorical(logits=z.unsqueeze(-1) * torch.arange(4.0))


OUTSIDE = {
    "pixels in 0..255 under Bernoulli": (bernoulli, "Bernoulli", 200.0, "Poisson, .*Normal"),
    "grey levels under Bernoulli": (bernoulli, "Bernoulli", 0.5, "Normal"),
    "negative counts": (lambda z: dist.Poisson(z.exp()), "Poisson", -3.0, "Normal"),
    "a count of -1, which is no label": (lambda z: dist.Poisson(z.exp()), "Poisson", -1.0, "Normal"),
    "categories out of range": (categorical, "Categorical", 7, "Poisson, .*Categorical, .*Normal"),
    "negative categories": (categorical, "Categorical", -2, "Normal"),
}  # fmt: skip


@pytest.mark.parametrize("row", [0, 33])  # among the rows on which the pair is read, and far behind them
@pytest.mark.parametrize("name", OUTSIDE)
def test_data_outside_the_support_are_refused_with_field_row_value_and_what_fits(name, row):
    """25. Pixels in 0..255 under Bernoulli, negative counts, categories out of range."""
    likelihood, family, value, fits = OUTSIDE[name]
    x = (torch.arange(40) % 2).to(torch.int64 if isinstance(value, int) else torch.float32)
    model = observing(likelihood)
    assert not errors(model, any_guide, x)
    x[row] = value
    expected = rf"field 'x'.*row {row}\b.*value {value:g}\b.*{family}.*{fits}"
    with pytest.raises(UserError, match=expected):
        ppl_vae.fit(model, any_guide, x, epochs=1)
    (finding,) = errors(model, any_guide, x)
    assert f"value {value:g} " in str(finding)


def test_held_out_rows_outside_the_support_are_refused_too():
    """25. Validation rows are looked at before training, not after its first epoch."""
    data = load((torch.arange(40) % 2).float(), kinds={"x": "real"}, validation=10, test=10)
    values = data.validation["x"].clone()
    values[4] = 0.3
    data = replace(data, validation=replace(data.validation, fields={"x": values}))
    with pytest.raises(UserError, match=r"field 'x', validation row 4: value 0.3 is outside the support"):
        ppl_vae.fit(observing(bernoulli), any_guide, data, epochs=1)


# -- 28 ----------------------------------------------------------------------------------------------------


def test_a_data_set_says_how_it_was_binarised_and_a_run_records_it(tmp_path):
    """28. Numbers on thresholded, static and dynamic binarisations of one data set are not comparable."""
    file = tmp_path / "grey.npy"
    np.save(file, np.random.default_rng(0).uniform(size=(60, 4)))
    said = {}
    for mode in ("dynamic", "static", "none"):
        data = load(file, binarise=mode)
        assert data.schema["x"].kind == ("unit" if mode == "none" else "binary")
        assert data.train.draws == (frozenset({"x"}) if mode == "dynamic" else frozenset())
        assert ("drawn at every use" in repr(data)) == (mode == "dynamic")
        assert data.source["options"]["binarise"] == mode
        likelihood = Normal() if mode == "none" else None
        model = VAE(data, latent_dim=2, hidden=(4,), likelihood=likelihood)
        result = ppl_vae.fit(model, MeanField(model, hidden=(4,)), data, epochs=1)
        run = ppl_vae.open_run(result.save(tmp_path / mode))
        said[mode] = run.info["data"]["source"]["options"]["binarise"]
    assert said == {"dynamic": "dynamic", "static": "static", "none": "none"}
