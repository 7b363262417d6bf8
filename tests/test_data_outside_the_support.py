"""Data outside the support of their likelihood are refused with field, row, value and what fits."""

from __future__ import annotations

from dataclasses import replace

import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import errors

import ppl_vae
from ppl_vae import UserError
from ppl_vae.data import Field, load
from ppl_vae.errors import ProgramError
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.models import VAE


def observing(likelihood):
    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", likelihood(z), obs=x)

    return model


def any_guide(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


def bernoulli(z):
    return dist.Bernoulli(logits=z)


def categorical(z):
    return dist.Categorical(logits=z.unsqueeze(-1) * torch.arange(4.0))


OUTSIDE = {
    "pixels in 0..255 under Bernoulli": (bernoulli, "Bernoulli", 200.0, "Poisson, .*Normal"),
    "grey levels under Bernoulli": (bernoulli, "Bernoulli", 0.5, "Normal"),
    "negative counts": (lambda z: dist.Poisson(z.exp()), "Poisson", -3.0, "Normal"),
    "a count of -1, which is no label": (lambda z: dist.Poisson(z.exp()), "Poisson", -1.0, "Normal"),
    "categories out of range": (categorical, "Categorical", 7, "Poisson, .*Categorical, .*Normal"),
    "negative categories": (categorical, "Categorical", -2, "Normal"),
}  # fmt: skip


@pytest.mark.parametrize("row", [0, 33])  # among the rows on which the pair is read, and far behind them
@pytest.mark.parametrize("name", OUTSIDE)
def test_data_outside_the_support_are_refused_with_field_row_value_and_what_fits(name, row):
    """Pixels in 0..255 under Bernoulli, negative counts, categories out of range."""
    likelihood, family, value, fits = OUTSIDE[name]
    x = (torch.arange(40) % 2).to(torch.int64 if isinstance(value, int) else torch.float32)
    model = observing(likelihood)
    assert not errors(model, any_guide, x)
    x[row] = value
    expected = rf"field 'x'.*row {row}\b.*value {value:g}\b.*{family}.*{fits}"
    with pytest.raises(UserError, match=expected):
        ppl_vae.fit(model, any_guide, x, epochs=1)
    (finding,) = errors(model, any_guide, x)
    assert f"value {value:g} " in str(finding)


def test_held_out_rows_outside_the_support_are_refused_too():
    """Validation rows are looked at before training, not after its first epoch."""
    data = load((torch.arange(40) % 2).float(), kinds={"x": "real"}, validation=10, test=10)
    values = data.validation["x"].clone()
    values[4] = 0.3
    data = replace(data, validation=replace(data.validation, fields={"x": values}))
    with pytest.raises(UserError, match=r"field 'x', validation row 4: value 0.3 is outside the support"):
        ppl_vae.fit(observing(bernoulli), any_guide, data, epochs=1)


def test_grey_levels_under_a_bernoulli_are_refused():
    """The cross-entropy of grey levels is reported as a log-likelihood."""
    grey = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r"field 'x' is unit, which Bernoulli is no distribution over: use"):
        Bernoulli().build(Field("x", "unit", (4,)))
    with pytest.raises(UserError, match="Bernoulli is no distribution over"):
        VAE(load(grey), likelihood=Bernoulli(), latent_dim=2)

    def grey_model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z).to_event(1), obs=x)

    def grey_guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    with pytest.raises(UserError, match=r"field 'x'.*outside the support of Bernoulli.*Normal"):
        ppl_vae.fit(grey_model, grey_guide, grey, epochs=1)


def test_codes_of_classes_are_no_numbers():
    """1, 2, 3 and 5 loaded as a label are the classes 0 to 3: a Poisson model would silently count them so."""
    table = pandas.DataFrame({"a": [0.1 * i for i in range(40)], "y": [1, 2, 3, 5] * 10})

    def model(a=None, y=None):
        with pyro.plate("data", len(a)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(a)), 1.0))
            pyro.sample("y", dist.Poisson(z.exp()), obs=y)

    def guide(a=None, y=None):
        with pyro.plate("data", len(a)):
            pyro.sample("z", dist.Normal(torch.zeros(len(a)), 1.0))

    kept = {"fields": {"a": "a"}, "label": "y", "validation": 0, "test": 0}
    with pytest.raises(ProgramError, match=r"holds classes \(1, 2, 3, 5\), kept as codes 0 to 3"):
        ppl_vae.fit(model, guide, ppl_vae.load(table, **kept), epochs=1)
    ppl_vae.fit(model, guide, {"a": torch.arange(40.0), "y": torch.tensor([1, 2, 3, 5] * 10)}, epochs=1)
