"""Supports are those of the model: asked for where they move, those of the density where Pyro says more."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.guides import GUIDES
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import AffineTransform

import ppl_vae
from ppl_vae import UserError
from ppl_vae.distributions import support_of
from ppl_vae.guides import FullRank, MeanField


def of_rows(prior):
    """A latent of every row with a prior, and one measurement of it; `upper` is a field."""

    def model(x=None, upper=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(upper))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    return model


def of_latents(x=None, upper=None):
    """Bounds from a shared latent and from one of the row."""
    a = pyro.sample("a", dist.Uniform(0.0, 1.0))
    b = pyro.sample("b", dist.Uniform(torch.zeros(()), 1 - a))
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", dist.Uniform(a, a + b + 0.1))
        v = pyro.sample("v", dist.Uniform(-u - 1, u + 1))
        pyro.sample("x", dist.Normal(u + v, 1.0), obs=x)


def learned(x=None, upper=None):
    edge = pyro.param("edge", torch.tensor(3.0), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Uniform(torch.zeros(()), edge))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


MOVING = {
    "of the row": of_rows(lambda upper: dist.Uniform(torch.zeros(()), upper)),
    "of latents": of_latents,
    "learned": learned,
    "shifted by the row": of_rows(
        lambda upper: dist.TransformedDistribution(dist.Exponential(1.0), AffineTransform(upper, 1.0))
    ),
}


def fields(rows=7):
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(rows, generator=generator),
        "upper": 0.5 + torch.rand(rows, generator=generator),
    }


@pytest.mark.parametrize("guide", ["MeanField", "FullRank", "Planar", "IAF", "Spline", "Mixture"])
@pytest.mark.parametrize("name", MOVING)
def test_a_support_that_moves_is_that_of_the_run(name, guide):
    model, data = MOVING[name], fields()
    made = GUIDES[guide](model, data, hidden=(4,))
    assert [f for f in ppl_vae.check(model, made, data) if f.severity == "error"] == []
    for batch in (data, {n: v[:3].flip(0) for n, v in data.items()}):
        weights = ppl_vae.log_weights(model, made, batch, particles=4)
        assert torch.isfinite(weights.log_weight).all()


def test_the_evidence_under_bounds_of_the_row_is_the_exact_one():
    torch.manual_seed(0)
    upper = 1 + 3 * torch.rand(60)
    data = {"x": upper * torch.rand(60) + 0.5 * torch.randn(60), "upper": upper}
    model = MOVING["of the row"]
    normal = torch.distributions.Normal(0.0, 1.0)
    width = normal.cdf(data["x"] / 0.5) - normal.cdf((data["x"] - upper) / 0.5)
    found = ppl_vae.evaluate(model, MeanField(model, data, hidden=(8,)), data, particles=4000)
    error = (found.log_evidence - (width / upper).log()) / found.log_evidence_se
    assert error.abs().max() < 4.5


def test_the_density_of_an_angle_is_counted_once():
    """By quadrature; the two angles of a sine von Mises have supports of their own too."""

    def angle(x=None):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.VonMises(0.0, 1.0))
            pyro.sample("x", dist.Normal(a.cos(), 1.0), obs=x)

    x = torch.randn(20)
    grid = torch.linspace(-math.pi, math.pi, 4001)[:-1]
    joint = dist.VonMises(torch.tensor(0.0), 1.0).log_prob(grid) + dist.Normal(grid.cos(), 1.0).log_prob(x[:, None])
    exact = joint.logsumexp(1) + math.log(2 * math.pi / 4000)
    found = ppl_vae.evaluate(angle, MeanField(angle, x, hidden=(8,), init_scale=2.0), x, particles=4000)
    assert ((found.log_evidence - exact) / found.log_evidence_se).abs().max() < 4.5
    pair = dist.SineBivariateVonMises(0.0, 0.0, 1.0, 1.0, 0.5)
    assert (biject_to(support_of(pair))(torch.tensor([50.0, -50.0])).abs() <= math.pi + 1e-5).all()


def test_what_has_no_map_from_the_reals_or_follows_the_rows_is_refused_by_site():
    def sphere(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.ProjectedNormal(torch.ones(2)))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    def largest(x=None):
        a = pyro.sample("a", dist.Uniform(0.0, x.abs().max()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    def counted(g, x=None):
        a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([int(g.max()) + 1]).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a[..., g.long()], 1.0), obs=x)

    def later(x=None):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            z = pyro.sample("z", dist.Uniform(-1 - k, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def unnamed(*args):
        raise AssertionError

    x = torch.arange(20.0)
    for model, data, message in (
        (sphere, x, r"'z' is ProjectedNormal: no map from R\^d onto its values"),
        (largest, x, r"'a' is shared by all rows, but its support, Interval.* on others: compute its bounds once"),
        (counted, {"g": x, "x": x}, r"'a' is shared by all rows, but has event shape \(20,\).*\(18,\) on others"),
        (unnamed, x, r"takes \*args"),
    ):
        with pytest.raises(UserError, match=message):
            MeanField(model, data)
    with pytest.raises(UserError, match="the support of latent site 'z' may depend on k, which this guide does not"):
        MeanField(later, x, collapse="k")
    assert FullRank(later, x).sites["z"].moving


def test_an_error_of_the_model_is_one_line_with_site_and_rows():
    def broken(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            raise KeyError("county")

    with pytest.raises(UserError, match=r"^the model fails at or after site 'z' \(KeyError: 'county'.*x \(4,\)"):
        MeanField(broken, torch.zeros(9))
