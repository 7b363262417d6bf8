"""What several tests need: rows, a small pair, copies of its weights, the errors of `check`, a mean and its error."""

from __future__ import annotations

import math

import torch
from cases import F64

import ppl_vae
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

OWN_MODEL = """
import pyro
import pyro.distributions as dist
from torch import zeros

def model(x):
    mean = pyro.sample("mean", dist.Normal(zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)
"""
"""A user's file, whose rows share a latent."""


def rows(count=40, columns=3, seed=0, dtype=torch.float32):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mean_and_error(values):
    values = torch.as_tensor(values, dtype=F64)
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def small_pair(data, seed=0):
    torch.manual_seed(seed)
    model = VAE(data, latent_dim=2, hidden=(8,))
    return model, MeanField(model, hidden=(8,))


def weights_of(*modules):
    return {f"{i} {n}": v.clone() for i, m in enumerate(modules) for n, v in m.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def errors(model, guide, data):
    return [f for f in ppl_vae.check(model, guide, data) if f.severity == "error"]


def standing_still(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def fit_still(model, guide, data, bound=None, **settings):
    """A fit in which every step sees the same pair."""
    return ppl_vae.fit(model, guide, data, bound, optimizer=standing_still, **settings)


def normals(rows, scale, seed=0):
    return scale * torch.randn(rows, dtype=F64, generator=torch.Generator().manual_seed(seed))
