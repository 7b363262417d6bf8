"""A field that the rows do not have is a field that is missing in every row: of every kind of model, by every verb."""

from __future__ import annotations

import math

import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64
from torch import nn

import ppl_vae
from ppl_vae import UserError
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE


class Two(nn.Module):
    """A user's own model of two vectors and a label, each linear in what it shares with the others."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.y = nn.Linear(2, 3), nn.Linear(2, 4), nn.Linear(2, 3)

    def forward(self, a=None, b=None, y=None, n=1):
        rows = next((len(v) for v in (a, b, y) if v is not None), n)
        with pyro.plate("data", rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("a", dist.Normal(self.a(z), 0.5).to_event(1), obs=a)
            pyro.sample("b", dist.Normal(self.b(z), 0.5).to_event(1), obs=b)
            pyro.sample("y", dist.Categorical(logits=self.y(z)), obs=y)


def fields(names=("left", "right", "up")):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 3, (60,), generator=generator)
    a = torch.randn(60, 3, generator=generator) + codes[:, None]
    b = torch.randn(60, 4, generator=generator) - codes[:, None]
    a[::5], b[1::5] = torch.nan, torch.nan
    return {"a": a, "b": b, "y": [None if i % 7 == 0 else names[c] for i, c in enumerate(codes.tolist())]}


@pytest.fixture(scope="module")
def trained():
    data = ppl_vae.load(fields(), missing="allow")
    torch.manual_seed(0)
    model = Two()
    guide = MeanField(model, data, hidden=(8,))
    ppl_vae.fit(model, guide, data, epochs=2, compile="off")
    return model, guide


A = torch.tensor([[0.1, 0.4, -0.2], [1.5, 1.0, 2.0]])
WAYS = {
    "absent": {"a": A},
    "missing in every row": {"a": A, "b": torch.full((2, 4), torch.nan), "y": torch.full((2,), -1)},
    "a label of words": {"a": A, "y": [None, None]},
}


@pytest.mark.parametrize("way", list(WAYS)[1:])
def test_an_absent_field_is_a_missing_one(trained, way):
    rows, other = WAYS["absent"], WAYS[way]
    for ask in (
        lambda data: ppl_vae.evaluate(*trained, data, particles=20).log_evidence,
        lambda data: ppl_vae.impute(*trained, data, particles=20).mean["b"],
        lambda data: ppl_vae.predict(*trained, data, "y", draws=5).probs,
        lambda data: ppl_vae.predict(*trained, data, "b", draws=5).mean,
    ):
        assert torch.equal(ask(rows), ask(other))


def test_the_evidence_of_a_row_without_a_field_is_that_of_the_rest(trained):
    """log p(a) of a linear-Gaussian part: N(a; bias, W W' + s^2 I)."""
    model, guide = trained
    found = ppl_vae.evaluate(model, guide, {"a": A}, particles=4000)
    weight, bias = model.a.weight.to(F64), model.a.bias.to(F64)
    exact = dist.MultivariateNormal(bias, weight @ weight.T + 0.25 * torch.eye(3, dtype=F64)).log_prob(A.to(F64))
    assert bool(((found.log_evidence - exact).abs() < 5 * found.log_evidence_se + 1e-4).all())


def test_a_label_keeps_its_names(trained):
    """Classes are numbered as in training, whichever of them occur in the rows."""
    one = ppl_vae.predict(*trained, {"a": A, "y": ["up", "up"]}, "y", draws=5)
    assert one.names == ("left", "right", "up")
    torch.testing.assert_close(one.log_prob, one.probs[:, 2].log())
    with pytest.raises(UserError, match="down"):
        ppl_vae.evaluate(*trained, {"a": A, "y": ["down", "up"]})


def test_a_program_by_hand_is_given_rows_that_miss_a_field_everywhere():
    def model(a=None, b=None):
        with pyro.plate("data", len(a)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(a)), 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=a)
            pyro.sample("b", dist.Normal(z, 1.0), obs=b)

    def posterior(a=None, b=None):
        with pyro.plate("data", len(a)):
            pyro.sample("z", dist.Normal(a / 2, 0.5**0.5))

    found = ppl_vae.impute(
        model, posterior, {"a": torch.tensor([0.5, -2.0]), "b": torch.full((2,), torch.nan)}, particles=4000
    )
    assert found.mean["b"].tolist() == pytest.approx([0.25, -1.0], abs=0.1)
    assert found.log_evidence.tolist() == pytest.approx(
        [-(v**2) / 4 - 0.5 * math.log(4 * math.pi) for v in (0.5, -2.0)], abs=1e-4
    )


def table(holes=True):
    rows = {"age": [31.5, 64.1, None if holes else 45.0, 50.2] * 5, "height": [1.71, 1.55, 1.8, 1.62] * 5}
    return pandas.DataFrame({**rows, "smoker": [True, False] * 10})


def test_a_column_that_never_had_holes_is_asked_for():
    data = ppl_vae.load(table(), missing="allow", test=0, validation=0)
    model = VAE(data, latent_dim=2, hidden=(8,))
    guide = MeanField(model, hidden=(8,))
    kept = table().drop(columns="age")
    assert ppl_vae.evaluate(model, guide, kept, particles=5).log_evidence.isfinite().all()
    with pytest.raises(UserError, match="expected field 'height', got only age, smoker: pass it"):
        ppl_vae.evaluate(model, guide, table().drop(columns="height"))
    found = ppl_vae.impute(model, guide, table().drop(columns="height"), particles=5)
    assert found.frame()["height"].tolist() == pytest.approx(found.mean["height"].tolist())
    with pytest.raises(UserError, match="expected field 'age', got 'ages': rename it"):
        ppl_vae.evaluate(model, guide, table().rename(columns={"age": "ages"}))


def test_a_field_that_training_never_missed_is_asked_for_by_name():
    data = ppl_vae.load({"a": torch.randn(20, 3), "b": torch.randn(20, 4), "y": torch.arange(20) % 3})
    model = Two()
    guide = MeanField(model, data, hidden=(8,))
    for ask in (ppl_vae.evaluate, ppl_vae.predict):
        with pytest.raises(UserError, match="expected field 'b', got only a"):
            ask(model, guide, {"a": A, "y": [0, 1]})
