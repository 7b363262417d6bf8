"""A Gaussian mixture: where the posterior is and how wide, against EM and the curvature at its end."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

import ppl_vae
from ppl_vae.guides import FullRank

ROWS = 400
OF_FIRST = torch.rand(ROWS, generator=torch.manual_seed(0), dtype=torch.float64) < 0.35
X = torch.where(OF_FIRST, -1.5, 2.0) + torch.where(OF_FIRST, 0.8, 1.2) * torch.randn(
    ROWS, generator=torch.manual_seed(1), dtype=torch.float64
)


def log_likelihood(theta):
    """Of (m_1, m_2, log s_1, log s_2, logit w), the rows in one of two normals."""
    loc, scale = theta[:2], theta[2:4].exp()
    weights = torch.nn.functional.logsigmoid(torch.stack([theta[4], -theta[4]]))
    return (weights + dist.Normal(loc, scale).log_prob(X[:, None])).logsumexp(1).sum()


def by_em():
    loc, scale, weight = torch.tensor([-1.0, 1.0]).double(), torch.ones(2).double(), torch.tensor([0.5, 0.5]).double()
    for _ in range(2000):
        chances = (weight.log() + dist.Normal(loc, scale).log_prob(X[:, None])).softmax(1)
        count = chances.sum(0)
        loc = (chances * X[:, None]).sum(0) / count
        scale = ((chances * (X[:, None] - loc).square()).sum(0) / count).sqrt()
        weight = count / ROWS
    return torch.cat([loc, scale.log(), (weight[0] / weight[1]).log()[None]])


def model(x):
    loc = pyro.sample("loc", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    scale = pyro.sample("scale", dist.LogNormal(torch.zeros(2), 10.0).to_event(1))
    odds = pyro.sample("odds", dist.Normal(0.0, 10.0))
    weights = torch.stack([odds.sigmoid(), (-odds).sigmoid()], -1)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(loc, scale)), obs=x)


@pytest.mark.slow
def test_the_posterior_of_a_mixture_is_where_em_ends():
    top = by_em()
    covariance = torch.linalg.inv(-torch.autograd.functional.hessian(log_likelihood, top))
    assert math.isclose(float(torch.autograd.functional.jacobian(log_likelihood, top).abs().max()), 0, abs_tol=1e-3)
    data = {"x": X.float()}
    guide = ppl_vae.fit(model, FullRank(model, data), data, epochs=20, seed=0).guide
    found = ppl_vae.posterior(model, guide, data, draws=4000)
    draws = torch.cat([found["loc"], found["scale"].log(), found["odds"][:, None]], 1).double()
    sd = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - top).abs() < 0.25 * sd).all()  # flat priors: skewness alone moves a mean from the top
    assert ((draws.std(0) / sd).log().abs() < 0.15).all()
