"""Programs within Pyro's handlers, decorators and naming: the weights are the evidence, and the ELBO is Pyro's."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64
from pyro import poutine
from pyro.contrib.autoname import name_count, scope
from pyro.infer import Trace_ELBO
from pyro.infer.reparam import TransformReparam
from pyro.poutine.mask_messenger import MaskMessenger

import ppl_vae
from ppl_vae.bounds import ELBO

X = torch.randn(6, dtype=F64, generator=torch.manual_seed(0))
ZERO = torch.zeros((), dtype=F64)


def body(x, z="z"):
    latent = pyro.sample(z, dist.Normal(ZERO, 1.0))
    pyro.sample("x", dist.Normal(latent, 1.0), obs=x)


def plain(x):
    with pyro.plate("data", len(x)):
        body(x)


@scope(prefix="inner")
def in_a_scope(x):
    plain(x)


@name_count
def counted(x):
    """Two sites of one name: the second is called z__1."""
    with pyro.plate("data", len(x)):
        first = pyro.sample("z", dist.Normal(ZERO, math.sqrt(0.5)))
        second = pyro.sample("z", dist.Normal(first, math.sqrt(0.5)))
        pyro.sample("x", dist.Normal(second, 1.0), obs=x)


def in_a_decorator(x):
    @pyro.plate("data", len(x))
    def rows():
        body(x)

    rows()


@MaskMessenger(mask=True)
def in_a_handler(x):
    plain(x)


def logarithm(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.LogNormal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(z.log(), 1.0), obs=x)


def unit(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Unit(dist.Normal(z, 1.0).log_prob(x)), obs=torch.empty(len(x), 0))


def factor(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.factor("x", dist.Normal(z, 1.0).log_prob(x))


def with_parameter(x):
    scale = pyro.param("scale", torch.ones((), dtype=F64), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x)


PROGRAMS = {
    "scope": (in_a_scope, "inner/z"),
    "plate as decorator": (in_a_decorator, "z"),
    "handler as decorator": (in_a_handler, "z"),
    "reparam": (poutine.reparam(logarithm, config={"z": TransformReparam()}), "z_base"),
    "unit": (unit, "z"),
    "factor": (factor, "z"),
    "substitute": (poutine.substitute(with_parameter, data={"scale": torch.ones((), dtype=F64)}), "z"),
}


def exact(site):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample(site, dist.Normal(x / 2, math.sqrt(0.5)))

    return guide


def by_two_steps(x):
    with pyro.plate("data", len(x)):
        first = pyro.sample("z", dist.Normal(x / 4, math.sqrt(3 / 8)))
        # the second given the first: between N(first, 1/2) and the observation
        pyro.sample("z__1", dist.Normal((2 * first + x) / 3, math.sqrt(1 / 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "guide"),
    [*[(model, exact(site)) for model, site in PROGRAMS.values()], (counted, by_two_steps)],
    ids=[*PROGRAMS, "name_count"],
)
def test_the_weights_of_the_posterior_are_the_evidence(model, guide):
    evidence = torch.distributions.Normal(ZERO, math.sqrt(2)).log_prob(X)
    w = ppl_vae.log_weights(model, guide, {"x": X}, particles=3)
    torch.testing.assert_close(w.log_weight, evidence.expand(3, -1))
    assert not [finding for finding in ppl_vae.check(model, guide, {"x": X}) if finding.severity == "error"]
    pyro.clear_param_store()
    assert ELBO().loss(model, guide, X) == pytest.approx(-float(evidence.sum()))
    assert Trace_ELBO().loss(model, guide, X) == pytest.approx(-float(evidence.sum()))
