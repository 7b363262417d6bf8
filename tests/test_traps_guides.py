"""Traps about guides and labels: learned priors, transforms without an inverse, labels in some rows."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from cases import CENTRES, F64, WEIGHTS, XH, XM, YM, styled, styled_guide, t

import ppl_vae
import ppl_vae.guides
from ppl_vae import UserError, log_weights
from ppl_vae.bounds import ELBO


def test_the_evidence_is_computed_under_the_prior_that_was_learned():
    """7. scvi-tools' marginal_ll hard-codes N(0, I)."""
    truth = 2.5 + 0.4 * torch.randn(400, dtype=F64) + 0.5 * torch.randn(400, dtype=F64)

    def model(x=None):
        loc = pyro.param("loc", t(0.0))
        scale = pyro.param("scale", t(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, scale))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    guide = ppl_vae.guides.MeanField(model, truth.float(), hidden=(16,))
    result = ppl_vae.fit(model, guide, truth.float(), epochs=150, batch_size=100, lr=0.01)
    learned = {n.split(".")[-1]: p for n, p in result.model.named_parameters()}
    loc, scale = learned["loc"].item(), learned["scale"].exp().item()
    assert abs(loc - 2.5) < 0.2
    found = ppl_vae.evaluate(result.model, guide, truth.float(), particles=200)
    exact = dist.Normal(loc, (scale**2 + 0.25) ** 0.5).log_prob(truth)
    assert ((found.log_evidence - exact).abs() <= 5 * found.log_evidence_se + 1e-3).all()


class Planar(torch.nn.Module):
    """A flow whose transform can only be run forwards."""

    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Linear(1, 2)
        self.flow = transforms.Planar(2)

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            base = dist.Normal(self.loc(x.unsqueeze(-1)), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))


def two_latents(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def test_a_transform_without_an_inverse_fails_only_where_a_foreign_value_is_asked_for():
    """21. Its own draws are weighed; an estimator that needs log q of others says why it cannot be had."""
    x, guide = XH.float(), Planar()
    assert torch.isfinite(log_weights(two_latents, guide, x, particles=3).log_weight).all()
    ppl_vae.fit(two_latents, guide, x, ELBO(2), epochs=2)
    with pytest.raises(UserError, match=r"'z' has a TransformedDistribution.*no inverse.*reparameterised"):
        ppl_vae.fit(two_latents, guide, x, ELBO(2, estimator="stl"), epochs=1)


def weights_of(y):
    pyro.set_rng_seed(5)
    return log_weights(styled, styled_guide, {"x": XM, "y": y}, particles=4).log_weight


def test_labelled_and_unlabelled_rows_share_one_bound_and_no_label_leaks():
    """22. Two loaders and two losses drift apart; a label must touch its own row and no other."""
    other = YM.clone()
    other[1] = (other[1] + 1) % 3
    first, second = weights_of(YM), weights_of(other)
    same = torch.arange(len(YM)) != 1
    torch.testing.assert_close(first[:, same], second[:, same])
    assert not torch.isclose(first[:, 1], second[:, 1]).any()


def test_the_bound_of_a_labelled_row_includes_its_label():
    """22. The label-conditional bound left out for labelled rows: log p(x, y), not log p(x | y)."""
    pyro.set_rng_seed(0)
    x, y = XM[1:2].repeat(50_000), YM[1:2].repeat(50_000)
    ratio = log_weights(styled, styled_guide, {"x": x, "y": y}, particles=1).log_weight.exp().flatten()
    exact = WEIGHTS[YM[1]] * dist.Normal(CENTRES[YM[1]], 1.36**0.5).log_prob(XM[1]).exp()
    assert abs(ratio.mean() - exact) <= 4 * ratio.std() / len(ratio) ** 0.5


def test_a_name_is_one_parameter_within_a_pair_and_another_in_the_next():
    """11. As in Pyro, model and guide may share a parameter by its name; two pairs never do."""

    def model(x=None):
        scale = pyro.param("scale", t(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t(0.0), scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x=None):
        scale = pyro.param("scale", t(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, scale))

    first = ppl_vae.fit(model, guide, XH, epochs=5, lr=0.1)
    second = ppl_vae.fit(model, guide, 5 * XH, epochs=5, lr=0.1)
    scales = [[p for n, p in r.named_parameters() if n.endswith("scale")] for r in (first.model, first.guide)]
    assert scales[0][0] is scales[1][0]
    assert second.model.own._parameters["scale"] is not scales[0][0]
    assert second.model.own._parameters["scale"] != scales[0][0]
