"""Missing entries: finite gradients, the evidence of what was observed."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from cases import F64, t
from helpers import rows, small_pair, weights_of
from torch import nn

import ppl_vae
from ppl_vae import log_weights
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.data import load


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
    """NaN in masked entries gives NaN gradients even where the likelihood skips them (0 * NaN)."""
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
    """The encoder sees a mask, not NaN."""
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
