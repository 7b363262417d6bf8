"""Hidden cells: coverage of exact posteriors is what it says, and of wrong ones it is not."""

from __future__ import annotations

import json
import math

import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from test_cli import refused, said

import ppl_vae
from ppl_vae import UserError, check_imputation
from ppl_vae.cli import main
from ppl_vae.prediction._checked import LEVELS

NOISE, COLUMNS = 0.5, 4


def pair(noise):
    """x_j = z + noise e_j, and the exact posterior of z given the entries that are there."""

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, COLUMNS), noise).to_event(1), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            precision = 1 + (~x.isnan()).sum(-1) / noise**2
            pyro.sample("z", dist.Normal(x.nan_to_num().sum(-1) / noise**2 / precision, precision.rsqrt()))

    return model, guide


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(600, 1, generator=generator)
    return z + NOISE * torch.randn(600, COLUMNS, generator=generator)


@pytest.fixture(scope="module")
def exact(rows):
    return check_imputation(*pair(NOISE), rows, particles=100, draws=49, share=0.25)


def test_an_exact_posterior_covers_what_it_says(exact):
    for level in LEVELS:
        share, error = exact.coverage(level)
        assert abs(share - level) < 4 * error
    assert exact.calibrated
    assert 0.2 * 600 * COLUMNS < exact.cells < 0.25 * 600 * COLUMNS * 1.1


def test_its_errors_are_those_of_the_closed_form(exact):
    # given m other entries the variance is noise^2 + 1 / (1 + m / noise^2); without them 1 + noise^2
    best = math.sqrt(NOISE**2 + 1 / (1 + (COLUMNS - 1) / NOISE**2))
    for column in exact.columns:
        error = column.error / math.sqrt(2 * column.cells)
        assert best - 4 * error < column.error < best + 0.03 + 4 * error
        assert abs(column.baseline - math.sqrt(1 + NOISE**2)) < 0.25


def test_a_model_that_is_too_sure_is_found_out(rows):
    found = check_imputation(*pair(NOISE / 2), rows, particles=200, draws=49)
    assert found.coverage(0.9)[0] < 0.75
    assert not found.calibrated
    assert "not calibrated" in repr(found)


def test_whole_numbers_have_the_coverage_of_their_ties():
    # counts that the rest of the row says nothing about: draws and truth are mostly equal
    def model(a=None, b=None):
        with pyro.plate("data", len(a)):
            pyro.sample("a", dist.Poisson(torch.full((len(a),), 0.7)), obs=a)
            pyro.sample("b", dist.Bernoulli(torch.full((len(a),), 0.8)), obs=b, infer={"leaf": True})

    def guide(a=None, b=None):
        pass

    generator = torch.Generator().manual_seed(1)
    counts = torch.poisson(torch.full((500,), 0.7), generator=generator)
    truths = (torch.rand(500, generator=generator) < 0.8).float()
    found = check_imputation(model, guide, {"a": counts, "b": truths}, share=0.5, draws=49, particles=50)
    count, truth = found.columns
    for level in LEVELS:
        share, error = found.coverage(level, "a")
        assert abs(share - level) < 4 * error
    assert len(truth.place) == 0
    assert truth.error == pytest.approx(0.2, abs=4 * (0.16 / truth.cells) ** 0.5)  # the likeliest is wrong in a fifth
    assert truth.baseline == truth.error
    assert count.error == pytest.approx(0.7**0.5, abs=0.2)


def test_what_cannot_be_checked_is_refused(rows):
    with pytest.raises(UserError, match="share must be below 1, got 1"):
        check_imputation(*pair(NOISE), rows, share=1)
    with pytest.raises(UserError, match="no cell could be hidden"):
        check_imputation(*pair(NOISE), rows[:1], share=1e-9)


def test_the_command_tells_it_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    z = torch.randn(120, generator=torch.Generator().manual_seed(0)).numpy()
    table = pandas.DataFrame({"a": z, "b": -z, "c": ["low" if v < 0 else "high" for v in z]})
    table.loc[::7, "a"] = None
    table.to_csv("t.csv", index=False)
    small = ["--epochs", "20", "--evaluate-particles", "5", "--no-report", "--latent-dim", "2", "--hidden", "8"]
    assert main(["fit", "--data", "t.csv", "--missing", "allow", *small, "--out", "run"]) == 0
    capsys.readouterr()
    before = sorted(p.name for p in tmp_path.rglob("*"))
    text = said(capsys, "impute", "run", "--check", "--particles", 50)
    assert text.startswith("rows: test")
    assert "numbers within their intervals" in text
    found = json.loads(said(capsys, "impute", "run", "--check", "--particles", 50, "--json"))["check"]
    assert found["rows"] == 24
    assert [c["column"] for c in found["columns"]] == ["a", "b", "c"]
    own = ppl_vae.open_run("run")
    again = check_imputation(own.model, own.guide, own.data().test, particles=50)
    assert found["coverage"] == again.summary()["coverage"]
    assert [c["error"] for c in found["columns"]] == [c.error for c in again.columns]
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert "--check writes nothing" in refused(capsys, "impute", "run", "--check", "--out", "f.csv")
