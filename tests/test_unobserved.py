"""Rows in which a model observes nothing are no part of a fit: their bound is best where nothing was learned."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae
from ppl_vae.data import Data, Field, Schema, Split
from ppl_vae.errors import ProgramError
from ppl_vae.guides import MeanField
from ppl_vae.models import InformationBottleneck

SCHEMA = Schema((Field("x", "real", (2,)), Field("y", "categorical", (), cardinality=2, missing=True)))


def split(name, rows, known, seed):
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))
    y = (x[:, 0] > 0).long()
    return Split(SCHEMA, name, {"x": x, "y": torch.where(torch.arange(rows) < known, y, -1)}, hidden={"y": y})


def data(known=40, validated=0):
    parts = split("train", 400, known, 0), split("validation", 50, validated, 1), split("test", 300, 0, 2)
    return Data("few", SCHEMA, *parts)


def fitted(few, **options):
    torch.manual_seed(0)
    model = InformationBottleneck(few, latent_dim=2)
    guide = MeanField(model, hidden=(8,))
    result = ppl_vae.fit(model, guide, few, beta=0.01, lr=0.01, batch_size=20, compile="off", seed=0, **options)
    told = ppl_vae.predict(model, guide, {"x": few.test["x"]}, "y").labels
    return result, float((told == few.test.truth("y")).float().mean())


def test_labels_of_few_rows_are_learned_though_no_validation_row_has_one():
    result, right = fitted(data(), epochs=30)
    assert right > 0.85  # at the epoch that the unlabelled validation rows chose, 0.5
    told = [finding.problem for finding in result.findings]
    assert "360 of 400 training rows have nothing that the model observes (y) and are left out" in told
    assert any("no validation row has y" in problem for problem in told)
    assert "validation" not in result.history[0]


def test_validation_rows_that_have_some_choose_the_epoch():
    result, _ = fitted(data(validated=20), epochs=2)
    alone, _ = fitted(
        Data("few", SCHEMA, data().train, split("validation", 50, 20, 1).rows(slice(0, 20)), data().test), epochs=2
    )
    assert result.history[0]["validation"] == alone.history[0]["validation"]


def test_rows_that_lack_some_fields_only_stay():
    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([len(x), 2]).to_event(1), obs=x)
            pyro.sample("y", dist.Bernoulli(logits=z), obs=y)

    rows = {"x": torch.randn(30, 2), "y": torch.full((30,), torch.nan)}
    rows["y"][:10] = 1.0
    result = ppl_vae.fit(model, MeanField(model, rows, hidden=(4,)), rows, epochs=1, compile="off")
    assert not any("left out" in finding.problem for finding in result.findings)
    rows["x"][20:] = torch.nan
    result = ppl_vae.fit(model, MeanField(model, rows, hidden=(4,)), rows, epochs=1, compile="off")
    assert any("10 of 30 training rows" in finding.problem for finding in result.findings)


def test_rows_without_any_observation_are_refused():
    with pytest.raises(ProgramError, match="no training row has y"):
        fitted(data(known=0), epochs=1)
