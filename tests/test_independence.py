"""Rows that look at each other inside the data plate are found, whatever the way; rows that do not are let through."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_vae
from ppl_vae.errors import ProgramError
from ppl_vae.guides import FullRank, MeanField

ROWS = torch.randn(40, generator=torch.Generator().manual_seed(0))


def walk(y):
    with pyro.plate("data", len(y)):
        e = pyro.sample("e", dist.Normal(0.0, 0.3))
        pyro.sample("y", dist.Normal(e.cumsum(-1), 0.5), obs=y)


def centred(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z - z.mean(-1, keepdim=True), 0.5), obs=y)


def centred_data(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(y.mean(), 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def lagged(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        before = nn.functional.pad(y[:-1], (1, 0))
        pyro.sample("y", dist.Normal(a * before, 1.0), obs=y)


def ordered(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z.sort(-1).values, 0.5), obs=y)


def shuffled(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z[..., torch.arange(len(y)).flip(0)], 0.5), obs=y)


def first_row(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z + z[..., :1], 0.5), obs=y)


def standardised(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z * y.std(), 0.5), obs=y)


def empirical(y):
    a = pyro.sample("a", dist.Normal(y.mean(), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a, 0.5), obs=y)


def lagged_far(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        before = nn.functional.pad(y, (20, 0))[: len(y)]
        pyro.sample("y", dist.Normal(a * before, 1.0), obs=y)


def summed_from_the_end(y):
    with pyro.plate("data", len(y)):
        e = pyro.sample("e", dist.Normal(0.0, 0.3))
        pyro.sample("y", dist.Normal(e.flip(-1).cumsum(-1).flip(-1), 0.5), obs=y)


def ranked(y):
    with pyro.plate("data", len(y)):
        rank = y.argsort().argsort() / len(y)
        z = pyro.sample("z", dist.Normal(rank, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def largest(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z - z.max(-1, keepdim=True).values, 0.5), obs=y)


def largest_field(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z * y.max() - y.min(), 0.5), obs=y)


def mixed(y):
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("y", dist.Normal(k.float() + y.mean(), 0.5), obs=y)


COUPLED = {
    walk: "y",
    centred: "y",
    centred_data: "z",
    lagged: "y",
    ordered: "y",
    shuffled: "y",
    first_row: "y",
    standardised: "y",
    empirical: "a",
    mixed: "y",
    lagged_far: "y",
    summed_from_the_end: "y",
    ranked: "z",
    largest: "y",
    largest_field: "y",
}


@pytest.mark.parametrize(("model", "site"), COUPLED.items(), ids=lambda v: getattr(v, "__name__", v))
def test_rows_that_look_at_each_other_are_an_error(model, site):
    guide = MeanField(model, {"y": ROWS}, hidden=(8,))
    (found,) = (f for f in ppl_vae.check(model, guide, {"y": ROWS}) if f.severity == "error")
    assert found.site == site
    assert "rows=None" in found.remedy
    assert "outside of the model" in found.remedy
    with pytest.raises(ProgramError, match="rows=None"):
        ppl_vae.fit(model, guide, {"y": ROWS}, epochs=1)


def test_of_one_unit_rows_may_look_at_each_other():
    def guide(y):
        loc, scale = pyro.param("loc", 0 * ROWS), pyro.param("scale", 0.3 + 0 * ROWS, dist.constraints.positive)
        with pyro.plate("data", len(y)):
            pyro.sample("e", dist.Normal(loc, scale))

    result = ppl_vae.fit(walk, guide, {"y": ROWS}, epochs=2, rows=None, compile="off")
    assert torch.isfinite(torch.tensor(result.history[-1]["train"]))


def independent(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def labelled(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Categorical(weights))
        z = pyro.sample("z", dist.Normal(k.float(), 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def series(y):
    with pyro.plate("data", len(y)):
        z = 0.0
        for t in range(3):
            z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def crossed(y):
    with pyro.plate("items", 4, dim=-2):
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y), dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z - difficulty.mean(-2), 1.0), obs=y)


@pytest.mark.parametrize("model", [independent, labelled, series, crossed], ids=lambda m: m.__name__)
@pytest.mark.parametrize("family", [MeanField, FullRank])
def test_independent_rows_are_let_through(model, family):
    guide = family(model, {"y": ROWS}, hidden=(8,))
    assert [f for f in ppl_vae.check(model, guide, {"y": ROWS}) if f.severity == "error"] == []


def test_holes_are_no_coupling():
    rows = ROWS.clone()
    rows[::3] = torch.nan
    guide = MeanField(independent, {"y": rows}, hidden=(8,))
    assert ppl_vae.check(independent, guide, {"y": rows}) == []


class Normalised(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8, **options), nn.Linear(8, 1))

    def forward(self, y):
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            out = self.net(z.reshape(-1, 1)).reshape(z.shape)
            pyro.sample("y", dist.Normal(out, 1.0), obs=y)


def test_batch_normalisation_is_a_warning_that_says_what_it_means():
    model = Normalised()
    found = ppl_vae.check(model, MeanField(model, {"y": ROWS}, hidden=(8,)), {"y": ROWS})
    (said,) = (f for f in found if "batch normalisation" in f.problem)
    assert said.severity == "warning"
    assert "LayerNorm" in said.remedy


def test_batch_normalisation_without_running_means_couples_rows():
    model = Normalised(track_running_stats=False)
    found = ppl_vae.check(model, MeanField(model, {"y": ROWS}, hidden=(8,)), {"y": ROWS})
    assert [f.site for f in found if f.severity == "error"] == ["y"]
