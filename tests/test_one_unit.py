"""All data as one unit, from `load` and from the command line: a series is not shuffled, split, or taken for rows."""

from __future__ import annotations

import json
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae
from ppl_vae.cli import main
from ppl_vae.data import OneUnit, as_one_unit, rebuild
from ppl_vae.errors import UserError

PROGRAMS = """
import pyro, torch
import pyro.distributions as dist

def walk(y):
    start = pyro.sample("start", dist.Normal(0.0, 1.0))
    steps = pyro.sample("steps", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(start.unsqueeze(-1) + steps.cumsum(-1), 1.0).to_event(1), obs=y)

def guide(y):
    loc = pyro.param("loc", torch.zeros(len(y) + 1))
    pyro.sample("start", dist.Normal(loc[0], 0.7))
    pyro.sample("steps", dist.Normal(loc[1:], 0.7).to_event(1))
"""
STEPS = 12


def evidence(y):
    """log p(y) of the walk: a normal with covariance 1 + 1 + min(s, t) + [s = t]."""
    t = torch.arange(1.0, STEPS + 1, dtype=torch.float64)
    covariance = 1 + torch.minimum(t[:, None], t) + torch.eye(STEPS, dtype=torch.float64)
    return float(torch.distributions.MultivariateNormal(torch.zeros(STEPS).double(), covariance).log_prob(y.double()))


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unit")
    (folder / "series.py").write_text(PROGRAMS)
    y = np.random.default_rng(0).normal(size=STEPS).cumsum()
    (folder / "series.csv").write_text("y\n" + "\n".join(f"{v:.5f}" for v in y))
    return folder


def test_a_unit_is_loaded_whole_and_in_its_order(series):
    data = ppl_vae.load(series / "series.csv", rows=None)
    assert isinstance(data.train, OneUnit)
    assert data.validation is data.test is None
    wanted = torch.tensor(np.loadtxt(series / "series.csv", skiprows=1), dtype=torch.float32)
    assert torch.equal(data.train["y"], wanted)
    assert torch.equal(rebuild(data.source).train["y"], wanted)
    apart = ppl_vae.load({"y": np.arange(8.0), "sigma": np.ones(3), "size": np.array(8)}, rows=None).train
    assert [tuple(v.shape) for v in apart.fields.values()] == [(8,), (3,), ()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"test": 0.1}, "leave test out"),
        ({"labels": 3}, "leave labels out"),
        ({"group": "y"}, "leave group out"),
        ({"binarise": "dynamic"}, "static"),
        ({"rows": "none"}, "did you mean 'None'"),
    ],
)
def test_what_one_unit_has_not_is_refused(series, options, words):
    with pytest.raises(UserError, match=words):
        ppl_vae.load(series / "series.csv", **({"rows": None} | options))


def test_shuffled_rows_are_no_unit(series):
    """A series whose rows were shuffled would be another series, without a word."""
    with pytest.raises(UserError, match=r"shuffled and split: load them with rows=None"):
        as_one_unit(ppl_vae.load(series / "series.csv"))
    with pytest.raises(UserError, match="independent rows"):
        ppl_vae.load("digits", rows=None)


def test_data_that_are_one_unit_are_taken_so_by_all():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mean.unsqueeze(-1), 1.0).expand([*mean.shape, len(y)]).to_event(1), obs=y)

    def exact(y):
        pyro.sample("mean", dist.Normal(y.sum() / (len(y) + 1), (len(y) + 1) ** -0.5))

    data = ppl_vae.load({"y": torch.tensor([0.5, 1.5, -0.5])}, rows=None)
    right = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3) + 1).log_prob(data.train["y"])
    found = ppl_vae.evaluate(model, exact, data, particles=5)
    assert found.log_evidence.tolist() == pytest.approx([float(right)], abs=1e-5)
    assert ppl_vae.check(model, exact, data) == ppl_vae.check(model, exact, dict(data.train.fields), rows=None) == []
    draws = ppl_vae.posterior(model, exact, data, draws=20, particles=50)
    assert draws["mean"].shape == (20,)
    assert len(ppl_vae.fit(model, exact, data, epochs=1, compile="off").history) == 1


@pytest.fixture(scope="module")
def run(series):
    """The folder of a run with --rows none."""
    words = [f"{series / 'series.py'}:{name}" for name in ("walk", "guide")]
    fit = ["fit", words[0], "--guide", words[1], "--data", str(series / "series.csv"), "--rows", "none"]
    more = ["--lr", "0.05", "--evaluate-particles", "400", "--warm-up", "0", "--out", str(series / "run")]
    assert main([*fit, *more, "--epochs", "60"]) == 0
    return series / "run", [*fit, *more], ["--model", words[0], "--guide", words[1]]


def test_the_command_line_fits_evaluates_and_reports_one_unit(run, series):
    folder, _, _ = run
    told = json.loads((folder / "run.json").read_text())
    assert told["data"]["source"]["options"]["rows"] is None
    found = json.loads((folder / "evaluation.json").read_text())["train"]
    right = evidence(torch.tensor(np.loadtxt(series / "series.csv", skiprows=1)))
    assert (found["rows"], found["of"]) == (1, "all data")
    assert -found["negative_elbo"] < right
    assert -found["nll"] == pytest.approx(right, abs=4 * found["nll_mc_se"] + 0.5)
    page = (folder / "report.html").read_text()
    assert "All data are one unit" in page
    assert "steps[3]" in page
    strip = re.search(r'<ul class="verdicts".*?</ul>', page, re.DOTALL)[0]
    assert re.search("The evidence: k-hat of all data together is|The posterior: ", strip)
    assert re.search("Training: the bound was best at epoch|Training is not finished", strip)
    for href in re.findall(r'href="#([^"]*)"', strip):
        assert f'id="{href}"' in page


def test_later_commands_take_the_run_as_one_unit(run, series, capsys):
    folder, _, own = run
    assert main(["posterior", str(folder), *own, "--particles", "100", "--draws", "50", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["posterior"]) == STEPS + 1
    other = ["--data", str(series / "series.csv")]
    assert main(["evaluate", str(folder), *own, *other, "--particles", "50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"]["of"] == "all data"
    assert main(["report", str(folder), *own]) == 0
    assert main(["diagnose", str(folder), *own, "--only", "collapse"]) == 0
    assert "all data as one unit" in capsys.readouterr().out
    assert main(["evaluate", str(folder), *own, "--split", "test"]) == 2
    assert "one unit, which has no test split" in capsys.readouterr().err
    assert main(["certify", str(folder), *own, "--accuracy", "1", "--validate", "0"]) == 0
    assert "Log evidence of all data" in capsys.readouterr().out
    assert main(["sample", str(folder), "-n", "2", "--model", own[1], "--guide", own[3]]) != 0
    assert "--rows none), and this command is about rows" in capsys.readouterr().err


def test_one_unit_is_resumed_as_one_unit(run, capsys):
    folder, fit, _ = run
    assert main([*fit, "--epochs", "62", "--resume", "--no-report"]) == 0
    assert len((folder / "history.jsonl").read_text().splitlines()) == 62
    capsys.readouterr()
    rows = [word for word in fit if word not in ("--rows", "none")]
    assert main([*rows, "--epochs", "63", "--resume", "--no-report"]) != 0
    assert "--rows none" in capsys.readouterr().err
