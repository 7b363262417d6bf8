"""A run that diverges is explained, and keeps its last good weights."""

from __future__ import annotations

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import normal_posterior
from helpers import assert_same, rows, weights_of
from torch import nn

import ppl_vae
from ppl_vae import UserError


class Unbounded(nn.Module):
    """x ~ N(weight z, exp(raw)^2): the exp of an unbounded scale."""

    def __init__(self):
        super().__init__()
        self.weight, self.raw = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.weight * z, self.raw.exp()), obs=x)


def test_a_last_step_that_leads_to_no_bound_is_explained():
    """The objective of a step is that before it: the last one of a run is seen by the rows that are held out alone."""
    model, x = Unbounded(), rows(40, 1)[:, 0]
    data = ppl_vae.load({"x": x}, validation=10, test=0)
    with pytest.raises(UserError, match=r"training diverged at epoch 1, step 1: site .* is not finite"):
        ppl_vae.fit(model, normal_posterior, data, epochs=1, lr=1e30, batch_size=30)
    assert model.raw.item() == 0.0


def test_divergence_is_explained_and_the_last_good_weights_are_kept():
    """ "Expected parameter loc to satisfy Real()": which site, which step, what was largest."""
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
