"""Pyro's own AutoGuides are guides like any other: what draws has a density, what does not is a point."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal

import ppl_vae
from ppl_vae.bounds import ELBO
from ppl_vae.checks.analysis import analyse
from ppl_vae.programs.program import Pair

X = torch.linspace(-1, 2, 12)


def model(x=None):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, scale), obs=x)


@pytest.mark.parametrize("family", [AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal])
def test_an_autoguide_that_draws_has_a_density(family):
    guide = family(model)
    guide(X)
    values = []
    for bound in (ELBO(), Trace_ELBO()):
        torch.manual_seed(1)
        values.append(bound.loss(model, guide, X))
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert not analyse(Pair(model, guide), {"x": X}).points
    assert not any("point" in str(found) for found in ppl_vae.check(model, guide, {"x": X}))


def test_an_autoguide_of_points_is_one():
    guide = AutoDelta(model)
    guide(X)
    assert analyse(Pair(model, guide), {"x": X}).points == {"scale", "mu"}
