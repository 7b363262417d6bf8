"""The verdict on joint weights: believable or not, what is at fault, and the components of a mixture."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, XH, hierarchy, t
from test_joint import DATA, exact, narrow, regression

from ppl_vae.diagnostics import joint_posterior
from ppl_vae.diagnostics._joint.components import _switched
from ppl_vae.errors import UserError

X = torch.cat([t([-2.1, -1.9, -2.3, -1.8]), t([1.4, 1.6, 1.5, 1.3, 1.7, 1.5])])


def mixture(x):
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(t(0.0), 3.0))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(t([0.5, 0.5])))
        pyro.sample("x", dist.Normal(torch.where(k == 0, loc[..., :1], loc[..., 1:]), 0.5), obs=x)


def guide_at(first, second, scale=0.2):
    def guide(x):
        with pyro.plate("components", 2):
            pyro.sample("loc", dist.Normal(t([first, second]), scale))

    return guide


def test_an_exact_guide_is_believable_and_a_narrow_one_is_not():
    assert joint_posterior(regression, exact, DATA, particles=200).verdict.startswith("Believable: ")
    found = joint_posterior(regression, narrow, DATA)
    assert found.verdict.startswith("Not to be believed: ")
    assert "b has" in found.verdict
    assert found.summary()["faults"]["b"]["share"] > 0.5
    assert found.figure().axes


def test_components_that_may_be_exchanged_are_said_to_be_and_held():
    found = joint_posterior(mixture, guide_at(-2.0, 1.5), {"x": X}, particles=400)
    (one,) = found.components
    assert one.exchangeable
    assert one.switched == 0
    assert not one.alike
    assert [round(share, 1) for share in one.shares] == [0.4, 0.6]
    assert "the log evidence lacks log 2! = 0.69" in found.verdict


def test_a_mixture_whose_components_are_alike_or_empty_has_collapsed():
    alike = joint_posterior(mixture, guide_at(0.1, 0.1, 0.5), {"x": X}, particles=200)
    assert alike.components[0].alike == ((0, 1),)
    assert "has collapsed" in alike.verdict
    empty = joint_posterior(mixture, guide_at(0.0, 40.0), {"x": X}, particles=200)
    assert empty.components[0].empty == (1,)
    assert "omponent 1 of k has no rows" in empty.verdict


def test_labels_that_switch_among_the_draws_are_counted():
    first = t([[-2.0], [1.5]]) + 0.1 * torch.randn(300, 2, 1, dtype=F64, generator=torch.manual_seed(0))
    turned = torch.arange(300) % 4 == 0
    numbers = torch.where(turned[:, None, None], first.flip(1), first)
    assert abs(_switched(numbers) - 0.25) < 0.01
    assert _switched(first) == 0


def test_a_prior_that_orders_components_has_one_numbering():
    def ordered(x):
        loc = pyro.sample("loc", dist.Normal(t([-2.0, 2.0]), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(t([0.5, 0.5])))
            pyro.sample("x", dist.Normal(torch.where(k == 0, loc[..., :1], loc[..., 1:]), 0.5), obs=x)

    def guide(x):
        pyro.sample("loc", dist.Normal(t([-2.0, 1.5]), 0.2).to_event(1))

    found = joint_posterior(ordered, guide, {"x": X}, particles=200)
    assert not found.components[0].exchangeable
    assert "labels" not in found.verdict


def test_rows_that_share_nothing_are_refused():
    def alone(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    with pytest.raises(UserError, match="share no latent"):
        joint_posterior(alone, guide, {"x": XH})
    with pytest.raises(UserError, match="particles must be a whole number of at least 100"):
        joint_posterior(hierarchy, guide, {"x": XH}, particles=5)
