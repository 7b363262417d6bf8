"""A plate that shows some of its items at a time (`subsample_size=`): an unbiased ELBO, and no evidence."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64

import ppl_vae
from ppl_vae.bounds import ELBO
from ppl_vae.errors import ProgramError, UserError

ITEMS = 6
X = torch.randn(5, ITEMS, dtype=F64, generator=torch.manual_seed(0))
HALF = torch.tensor(0.5, dtype=F64)


def shown(some, chosen=None):
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1.0))
            with pyro.plate("items", ITEMS, some, chosen, dim=-1) as items:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, items])

    return model


def posterior(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(x.sum(1, keepdim=True) / (ITEMS + 1), 1 / math.sqrt(ITEMS + 1)))


def labelled(some, inside, chosen=None):
    """A label of a row, or of each item, that the model alone has."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1.0))
            label = None if inside else pyro.sample("label", dist.Bernoulli(HALF))
            with pyro.plate("items", ITEMS, some, chosen, dim=-1) as items:
                label = pyro.sample("label", dist.Bernoulli(HALF)) if inside else label
                pyro.sample("x", dist.Normal(z + 2 * label, 1.0), obs=x[:, items])

    return model


def loss(model):
    torch.manual_seed(0)
    return ELBO().loss(model, posterior, X)


def test_the_evidence_is_refused_where_some_items_are_shown_and_exact_where_all_are():
    """The mean of exp(scaled sum) is above the evidence, by nats."""
    covariance = torch.eye(ITEMS, dtype=F64) + 1
    exact = torch.distributions.MultivariateNormal(torch.zeros(ITEMS, dtype=F64), covariance).log_prob(X)
    found = ppl_vae.evaluate(shown(ITEMS), posterior, {"x": X}, particles=20)
    torch.testing.assert_close(torch.as_tensor(found.log_evidence).double(), exact, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="plate 'items' shows a part of its items"):
        ppl_vae.evaluate(shown(2), posterior, {"x": X}, particles=20)


@pytest.mark.parametrize("model", [shown, partial(labelled, inside=True)], ids=["drawn", "summed"])
def test_the_elbo_is_that_of_all_items_on_average(model):
    """At one draw of the guide: the mean over all pairs of items."""
    assert not ppl_vae.check(model(2), posterior, {"x": X})  # several particles of it run together
    pairs = [torch.tensor(pair) for pair in itertools.combinations(range(ITEMS), 2)]
    mean = sum(loss(model(2, chosen=pair)) for pair in pairs) / len(pairs)
    assert mean == pytest.approx(loss(model(ITEMS)))


def test_a_sum_over_values_of_which_some_items_are_seen_is_refused():
    """A factor to a power within the sum would put its mean above the evidence."""
    model = labelled(2, inside=False)
    [finding] = ppl_vae.check(model, posterior, {"x": X})
    assert "in plate 'items', which shows a part of its items" in finding.problem
    with pytest.raises(ProgramError, match=r"common poutine\.scale"):
        loss(model)
    assert math.isfinite(loss(labelled(ITEMS, inside=False)))
