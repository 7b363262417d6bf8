"""A step on a device that this machine need not have: with its pair and its rows on CUDA, all tensors must be there.

What a program or a bound makes on the wrong device, or keeps as a plain attribute that `to` does not move, is found on
any machine: torch's fake tensors have shapes and devices, no values, and refuse to meet across devices as real ones do.
Gradients and what reads values need a GPU: the tests marked `gpu`.
"""

from __future__ import annotations

import pyro
import pytest
import torch
from cases import CONDITIONAL_PRIORS, GUIDES, LOWER_BOUNDS, MODELS, PRIORS, own_guide
from test_graph import step_of
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import ppl_vae
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.errors import ProgramError
from ppl_vae.guides import MeanField
from ppl_vae.models import M2, VAE

LOOK_AT_VALUES = ("CNF", "NAF", "Coupling", "Spline, coupling", "CouplingFlowPrior")
"""Solvers and masks as indices: no tensor without values goes through them."""


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


@pytest.fixture(scope="module")
def few_labels():
    return ppl_vae.load("digits", labels=100)


def assert_stays(model, guide, data, bound):
    """The outcome of a step is on CUDA if the pair and the rows are."""
    batch = data.train.batch(slice(0, 6))
    step = step_of(model, guide, batch, bound)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, pyro.validation_enabled(False):
        for part in step.pair.modules():
            for home in (part._parameters, part._buffers):
                for name, value in home.items():
                    if value is not None:
                        moved = mode.from_tensor(value.detach()).to("cuda")
                        home[name] = nn.Parameter(moved) if isinstance(value, nn.Parameter) else moved
        outcome = step.outcome({n: mode.from_tensor(v).to("cuda") for n, v in batch.items()}, 0.5, 0.5)
    assert {v.device.type for v in outcome if v is not None} == {"cuda"}


@pytest.mark.parametrize("name", LOWER_BOUNDS)
def test_every_bound_stays_on_its_device(digits, name):
    model = VAE(digits, latent_dim=3, hidden=(8,))
    assert_stays(model, MeanField(model, hidden=(8,)), digits, LOWER_BOUNDS[name](4))


@pytest.mark.parametrize("name", [n for n in GUIDES if n not in LOOK_AT_VALUES])
def test_every_guide_stays_on_its_device(few_labels, name):
    model = M2(few_labels, latent_dim=3, hidden=(8,))
    assert_stays(model, GUIDES[name](model, hidden=(8,)), few_labels, ELBO(2))


@pytest.mark.parametrize("name", [n for n in PRIORS if n not in (*CONDITIONAL_PRIORS, *LOOK_AT_VALUES)])
def test_every_prior_stays_on_its_device(digits, name):
    model = VAE(digits, prior=PRIORS[name](), latent_dim=3, hidden=(8,))
    assert_stays(model, MeanField(model, hidden=(8,)), digits, IWAE(2))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_stays_on_its_device(digits, name):
    model = MODELS[name](digits)
    assert_stays(model, own_guide(model), digits, ELBO())


def test_a_tensor_that_was_left_behind_is_found(digits):
    class Behind(VAE):
        def forward(self, x=None, n=1):
            return super().forward(x if x is None else x + torch.zeros(x.shape[1:], dtype=torch.long), n)

    model = Behind(digits, latent_dim=3, hidden=(8,))
    with pytest.raises(ProgramError, match="on the same device"):
        assert_stays(model, MeanField(model, hidden=(8,)), digits, ELBO())
