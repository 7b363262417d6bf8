"""`ppl-vae fit`, `posterior` and the report of a user's regression, whose coefficients all rows share."""

from __future__ import annotations

import csv
import json
import re

import pytest
import torch

from ppl_vae.cli import main

MODEL = """
import pyro, torch
import pyro.distributions as dist

def model(a, r=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("data", len(a)):
        pyro.sample("r", dist.Normal(b[..., 0] + b[..., 1] * a, s), obs=r)
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A run folder, the model's file, and what `fit` said."""
    folder = tmp_path_factory.mktemp("posterior")
    (folder / "line.py").write_text(MODEL)
    a = torch.randn(60, generator=torch.manual_seed(0))
    r = 1 - 0.5 * a + 0.6 * torch.randn(60, generator=torch.manual_seed(1))
    with (folder / "d.csv").open("w") as file:
        file.write("a,r\n" + "\n".join(f"{x:.5f},{y:.5f}" for x, y in zip(a.tolist(), r.tolist(), strict=True)))
    word = f"{folder / 'line.py'}:model"
    options = ["--guide", "full_rank", "--data", str(folder / "d.csv"), "--field", "a", "--field", "r"]
    more = ["--epochs", "60", "--batch-size", "60", "--lr", "0.05", "--evaluate-particles", "200"]
    assert main(["fit", word, *options, *more, "--patience", "0", "--out", str(folder / "run")]) == 0
    return folder / "run", word


def test_fit_ends_with_the_numbers_of_all_rows(fitted):
    found = json.loads((fitted[0] / "evaluation.json").read_text())["train"]
    assert found["rows"] == 42
    assert found["joint_elbo"] <= found["joint_log_evidence"] + 3 * found["joint_elbo_se"]
    assert found["held_out_rows"] == 12
    with (fitted[0] / "evaluation-train.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 42


def test_the_report_shows_what_all_rows_share(fitted):
    page = (fitted[0] / "report.html").read_text()
    assert "What all rows share" in page
    assert "b[1]" in page
    strip = re.search(r'<ul class="verdicts".*?</ul>', page, re.DOTALL)[0]
    assert re.search(r"The posterior: (k-hat of its draws is|draws were moved|[^<]*not to be believed)", strip)
    assert {"shared-forest.png", "shared-pairs.png"} <= {f.name for f in (fitted[0] / "figures").iterdir()}


def test_a_run_tells_its_posterior(fitted, tmp_path, capsys):
    run, word = fitted
    assert main(["posterior", str(run), "--model", word, "--particles", "1000"]) == 0
    assert "b[1]" in capsys.readouterr().out
    out = tmp_path / "draws.csv"
    assert main(["posterior", str(run), "--model", word, "--draws", "50", "--json", "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(told["posterior"]) == ["b[0]", "b[1]", "s"]
    assert abs(told["posterior"]["b[1]"]["mean"] + 0.5) < 0.4
    with out.open() as file:
        assert len(list(csv.DictReader(file))) == 50


def test_evaluate_weighs_all_rows_again(fitted, capsys):
    run, word = fitted
    assert main(["evaluate", str(run), "--model", word, "--particles", "300", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"]["rows"] == 42


def test_compare_refuses_in_a_line(fitted, capsys):
    run, word = fitted
    assert main(["compare", str(run), "--model", word, "--particles", "20"]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert "shared by all rows" in err[-1]
