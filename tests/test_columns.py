"""Tables with columns of several types: chosen and named likelihoods, holes, run folders, the command line."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pandas as pd
import pyro
import pytest
import torch

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import IWAE
from ppl_vae.cli import main
from ppl_vae.data import Field, Schema, as_split
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import (
    Beta,
    Categorical,
    Columns,
    Laplace,
    NegativeBinomial,
    Normal,
    Poisson,
    column_likelihood,
)
from ppl_vae.models import VAE

CHOSEN = {
    "smoker": "Bernoulli",
    "visits": "NegativeBinomial",
    "colour": "Categorical",
    "grade": "Ordinal",
    "age": "DiscretisedLogistic",
    "price": "LogNormal",
    "rate": "Beta",
    "share": "Normal",
    "change": "Normal",
}


def table(rows=120):
    draw = np.random.default_rng(0)
    trait = draw.normal(size=rows)
    return pd.DataFrame(
        {
            "smoker": draw.uniform(size=rows) < 1 / (1 + np.exp(-2 * trait)),
            "visits": draw.poisson(np.exp(1 + trait)),
            "colour": np.where(trait > 0, "red", np.where(draw.uniform(size=rows) < 0.5, "blue", "green")),
            "grade": pd.Categorical.from_codes(
                np.digitize(trait, [-0.5, 0.5]), ["low", "middle", "high"], ordered=True
            ),
            "age": draw.integers(40, 60, rows),
            "price": np.exp(trait + draw.normal(size=rows)),
            "rate": 1 / (1 + np.exp(-trait)),
            "share": np.clip(trait, 0, 1),
            "change": trait + draw.normal(size=rows),
        }
    )


def with_holes(frame, share=0.25):
    draw = np.random.default_rng(1)
    return pd.DataFrame({name: frame[name].where(draw.uniform(size=len(frame)) > share) for name in frame})


def small(data, **options):
    pyro.set_rng_seed(0)
    model = VAE(data, latent_dim=2, hidden=(8,), **options)
    return model, MeanField(model, hidden=(8,))


def names(columns):
    return {field.name: type(each).__name__ for field, each in zip(columns.fields, columns.each, strict=True)}


# -- choosing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", [None, Columns()])
@pytest.mark.parametrize("missing", [False, True])
def test_likelihoods_are_chosen_by_dtype_and_values(likelihood, missing):
    frame = with_holes(table()) if missing else table()
    data = ppl_vae.load(frame, missing="allow")
    assert names(VAE(data, likelihood=likelihood).likelihood) == CHOSEN
    assert data.schema["grade"].names == ("low", "middle", "high")
    assert data.schema["colour"].names == ("blue", "green", "red")
    assert all(field.missing == missing for field in data.schema)


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        (Field("c", "count", (), 9), [0.0, 0.0, 8.0], "NegativeBinomial"),
        (Field("c", "count", (), 9), [4.0, 4.0, 5.0], "DiscretisedLogistic"),
        (Field("c", "real"), [0.5, 3.0], "LogNormal"),
        (Field("c", "real"), [0.5, torch.nan], "LogNormal"),
        (Field("c", "real"), [0.0, 3.0], "Normal"),
        (Field("c", "unit"), [0.5, 0.9], "Beta"),
        (Field("c", "unit"), [0.5, 1.0], "LogNormal"),
        (Field("c", "unit"), [0.5, 0.0], "Normal"),
        (Field("c", "real", (2,)), [[0.5, 3.0]], "Normal"),
    ],
)
def test_the_choice_follows_the_values(field, values, expected):
    assert type(column_likelihood(field, torch.tensor(values))).__name__ == expected


def test_named_likelihoods_override_the_choice():
    data = ppl_vae.load(table())
    model = VAE(data, likelihood=Columns(age=Normal(), visits=Poisson(), change=Laplace(per_row=True)))
    expected = CHOSEN | {"age": "Normal", "visits": "Poisson", "change": "Laplace"}
    assert names(model.likelihood) == expected
    ages = [np.asarray(data.train["age"]).mean(), model(n=4000)["age"].mean().item()]
    assert ages[1] == pytest.approx(ages[0], rel=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Columns(visit=Poisson()), "unknown column 'visit': did you mean 'visits'"),
        (lambda: Columns(visits=3), "column 'visits' expects a likelihood such as Normal.., got int"),
        (lambda: Columns(visits="poison"), "unknown likelihood 'poison': did you mean 'poisson'"),
        (lambda: Columns(visits=Beta()), "field 'visits' is count, which Beta is no distribution over.*use Poisson"),
        (lambda: Columns(colour=Normal()), "field 'colour' is categorical.*use Categorical"),
        (lambda: Columns(share=Beta()), r"field 'share' \(training row \d+: value 0\) is outside.*Beta.*use Normal"),
        (lambda: Normal(), r"field 'x', but the data has smoker, .*: use .*Columns\(smoker=Normal"),
    ],
)
def test_bad_overrides_are_refused_by_column_with_the_remedy(make, message):
    data = ppl_vae.load(table())
    with pytest.raises(UserError, match=message):
        VAE(data, likelihood=make())


def test_a_matrix_is_no_table_of_columns_until_a_column_has_a_kind():
    frame = table()[["price", "change"]]
    with pytest.raises(UserError, match=r"column 'price' is a part of field 'x'.*kinds={'price'"):
        VAE(ppl_vae.load(frame), likelihood=Columns(price=Normal()))
    data = ppl_vae.load(frame, kinds={"price": "positive"})
    assert names(VAE(data).likelihood) == {"price": "LogNormal", "change": "Normal"}


@pytest.mark.parametrize("name", ["z", "n", "data", "self"])
def test_a_column_with_a_name_that_the_model_needs_is_refused(name):
    data = ppl_vae.load({name: [0.5, 1.5, 2.5], "b": [1, 0, 1]}, test=0, validation=0)
    with pytest.raises(UserError, match=f"column '{name}' has the name of a site or argument of the model: rename it"):
        VAE(data)


def test_the_label_is_no_column():
    data = ppl_vae.load(table(), label="colour")
    model, guide = small(data)
    assert "y" in data.schema
    assert "y" not in model.observes
    assert set(guide.encoder.names) == set(CHOSEN) - {"colour"}
    with pytest.raises(UserError, match="'y' is the label"):
        Columns(y=Categorical()).of(data.schema, data.train)


def test_other_fields_stand_beside_columns():
    draw = np.random.default_rng(0)
    source = {"x": draw.normal(size=(30, 4, 4)), "weight": draw.normal(size=30)}
    data = ppl_vae.load(source, test=0, validation=0)
    assert VAE(data)(n=3).shape == (3, 4, 4)  # field x alone, as ever
    both = VAE(data, likelihood=Columns(x=Laplace()))
    assert {name: tuple(v.shape) for name, v in both(n=3).items()} == {"x": (3, 4, 4), "weight": (3,)}


# -- the model -----------------------------------------------------------------------------------------------------


def test_simulated_columns_are_of_their_kinds():
    data = ppl_vae.load(table())
    model, _ = small(data)
    drawn = model(n=200)
    assert tuple(drawn) == tuple(CHOSEN)
    for field in data.schema:
        assert drawn[field.name].shape == (200,)
        if CHOSEN[field.name] != "Normal":  # a share may be 0 or 1, for which there is no Beta
            assert field.support.check(drawn[field.name]).all(), field.name
    assert (drawn["price"] > 0).all()


def test_log_likelihood_is_the_sum_over_the_entries_that_are_there():
    """Whatever stands in the place of a missing entry."""
    data = ppl_vae.load(with_holes(table()), missing="allow")
    model, guide = small(data)
    with torch.no_grad():  # cut the decoder off from z: each column has one known distribution
        model.decoder.last.weight.zero_()
        model.decoder.beside.weight.zero_()
        sites = model.likelihood.sites(model.decoder.last.bias)
    batch = data.test.batch()
    expected = torch.zeros(len(data.test))
    for field in data.schema:
        x = batch[field.name]
        seen = x >= 0 if field.kind == "categorical" else ~torch.isnan(x)
        assert not seen.all()
        expected[seen] += sites[field.name].log_prob(x[seen]).detach()
    found = ppl_vae.log_weights(model, guide, batch, particles=2).log_likelihood
    torch.testing.assert_close(found.detach(), expected.expand(2, -1))


def test_holes_in_columns_leave_the_guide_alone():
    """A yes-or-no column with holes is skipped, not inferred: the guide has z alone and reads every column."""
    data = ppl_vae.load(with_holes(table()), missing="allow")
    model, guide = small(data)
    assert list(guide.sites) == ["z"]
    assert set(guide.encoder.names) == set(CHOSEN)
    assert ppl_vae.check(model, guide, data) == []


@pytest.mark.parametrize("holes", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_pair_of_columns_is_trained_judged_and_rebuilt(holes, tmp_path):
    data = ppl_vae.load(with_holes(table(200)) if holes else table(200), missing="allow")
    model, guide = small(data)
    result = ppl_vae.fit(model, guide, data, IWAE(3), epochs=15, lr=0.03, batch_size=20, seed=0)
    assert result.history[-1]["train"] > result.history[0]["train"] + 0.3
    run = ppl_vae.open_run(result.save(tmp_path / "run"))
    assert names(run.model.likelihood) == CHOSEN  # though a schema has no values to choose from
    one, two = (
        ppl_vae.evaluate(m, g, data.test, particles=20, seed=0)
        for m, g in ((result.model, result.guide), (run.model, run.guide))
    )
    assert torch.equal(one.log_evidence, two.log_evidence)
    assert torch.isfinite(one.log_evidence).all()
    written = json.loads((tmp_path / "run" / "run.json").read_text())["model"]["arguments"]["likelihood"]
    assert written["arguments"]["visits"] == {"likelihoods": "NegativeBinomial", "arguments": {}}


def test_new_rows_of_a_table_are_read_by_the_schema():
    frame = table()
    data = ppl_vae.load(frame)
    few = frame.head(4).assign(extra="unused").iloc[:, ::-1]  # other order, one more column, fewer categories
    split = as_split(few, schema=data.schema)
    assert split.schema == data.schema
    assert split["colour"].tolist() == [data.schema["colour"].names.index(c) for c in few["colour"]]
    assert split["grade"].tolist() == few["grade"].cat.codes.tolist()
    model, guide = small(data)
    assert len(ppl_vae.evaluate(model, guide, few, particles=3).elbo) == 4
    with pytest.raises(UserError, match="expected field 'price'"):
        as_split(few.drop(columns="price"), schema=data.schema)
    with pytest.raises(UserError, match="unknown category of field 'colour' 'pink'"):
        as_split(few.assign(colour="pink"), schema=data.schema)
    with pytest.raises(UserError, match=r"field 'rate'.*value 1 is outside the support of.*Normal"):
        ppl_vae.evaluate(model, guide, few.assign(rate=1.0), particles=3)


def test_a_schema_alone_makes_a_model():
    schema = Schema((Field("a", "count", (), 5), Field("b", "categorical", (), 3, ordered=True)))
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    assert names(VAE(schema).likelihood) == {"a": "Poisson", "b": "Categorical"}
    named = Columns(a=NegativeBinomial(), b=column_likelihood(schema["b"], torch.tensor([0, 1, 2])))
    assert names(VAE(schema, likelihood=named).likelihood) == {"a": "NegativeBinomial", "b": "Ordinal"}


# -- the command line ----------------------------------------------------------------------------------------------


def test_the_command_line_trains_and_uses_a_table_with_holes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with_holes(table(100).drop(columns="grade")).to_csv("mixed.csv", index=False)
    fit = ("fit", "vae", "--data", "mixed.csv", "--likelihood", "columns", "--epochs", "1", "--latent-dim", "2")
    assert main([*fit, "--hidden", "8", "--evaluate-particles", "5", "--missing", "allow", "--out", "a"]) == 0
    page = (tmp_path / "a" / "report.html").read_text()
    assert "price: LogNormal" in page
    for command in (
        ["evaluate", "a", "--particles", "5", "--data", "mixed.csv"],
        ["encode", "a", "--data", "mixed.csv", "--out", "z.csv"],
        ["sample", "a", "-n", "7", "--out", "s.csv"],
        ["sample", "a", "-n", "7", "--mean", "--out", "m.csv"],
        ["sample", "a", "-n", "7"],
    ):
        assert main(command) == 0, capsys.readouterr().err
    for file in ("s.csv", "m.csv"):
        with open(file, newline="") as opened:
            drawn = list(csv.DictReader(opened))
        assert len(drawn) == 7
        assert set(drawn[0]) == set(CHOSEN) - {"grade"}
        assert {row["colour"] for row in drawn} <= {"red", "blue", "green"}
    assert set(np.load("a/samples.npz")) == {"z", *CHOSEN} - {"grade"}
    assert len(pd.read_csv("z.csv")) == 100
    capsys.readouterr()
    assert main(["fit", "--data", "mixed.csv", "--missing", "allow", "--likelihood", "beta"]) == 2
    assert "Beta is a likelihood of field 'x'" in capsys.readouterr().err


def test_a_column_may_have_the_name_of_anything_in_python():
    table = {"type": [1.5, 2.5, 3.5, 4.5], "a.b": [0, 1, 0, 1], "keys": [3, 1, 4, 1]}
    data = ppl_vae.load(table, test=0, validation=0)
    model = VAE(data, latent_dim=2, hidden=(4,))
    result = ppl_vae.fit(model, MeanField(model, hidden=(4,)), data, epochs=2)
    assert math.isfinite(result.history[-1]["train"])
