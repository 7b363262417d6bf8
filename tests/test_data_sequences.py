"""Sequences of unequal length: lists of arrays, padded arrays with lengths, and the same rows as groups of a table."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import ppl_vae
from ppl_vae.cli import main
from ppl_vae.data import as_split
from ppl_vae.errors import UserError

LENGTHS = (3, 5, 1, 4, 2, 5, 3, 4, 2, 1)


@pytest.fixture(scope="module")
def steps():
    random = np.random.default_rng(0)
    return [random.normal(size=(n, 2)) for n in LENGTHS]


@pytest.fixture(scope="module")
def padded(steps):
    return np.stack([np.vstack([s, np.zeros((5 - len(s), 2))]) for s in steps])


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(torch.nan_to_num(a[n], nan=-9.0), torch.nan_to_num(b[n], nan=-9.0)) for n in a
    )


def test_lists_padded_arrays_tables_and_groups_are_the_same_rows(steps, padded):
    listed = ppl_vae.load(steps)
    cut = ppl_vae.load({"x": padded, "steps": LENGTHS}, lengths="steps")
    of = np.repeat(np.arange(10), LENGTHS)
    long = ppl_vae.load({"x": np.concatenate(steps), "sequence": of}, group="sequence")
    for data in (cut, long):
        assert same(listed.train.fields, data.train.fields)
        assert listed.schema["x"] == data.schema["x"]
    tables = ppl_vae.load([pd.DataFrame({"x": s[:, 0]}) for s in steps])
    assert same({"x": listed.train["x"][..., 0]}, {"x": tables.train["x"]})
    missing = torch.isnan(listed.train["x"]).any(-1).sum(1)
    assert sorted((5 - missing).tolist() + (5 - torch.isnan(listed.test["x"]).any(-1).sum(1)).tolist()) == sorted(
        LENGTHS[i] for i in range(10) if str(i) in (*listed.train.groups, *listed.test.groups)
    )


def test_what_a_sequence_has_once_is_a_field_of_its_own(steps, padded):
    extra = {"age": np.arange(10.0) + 0.5, "sex": list("mfmfmfmfmf")}
    other = {"u": [float(i) + torch.arange(len(s)) / 8 for i, s in enumerate(steps)]}
    data = ppl_vae.load({"x": steps, **other, **extra}, test=0, validation=0)
    assert {f.name: f.shape for f in data.schema} == {"x": (5, 2), "u": (5,), "age": (), "sex": ()}
    who = [int(name) for name in data.train.groups]
    assert data.train["age"].tolist() == [extra["age"][i] for i in who]
    assert data.train["u"][:, 0].tolist() == [float(i) for i in who]
    wide = ppl_vae.load({"x": padded, "n": LENGTHS, "w": np.random.default_rng(1).normal(size=(10, 3))}, lengths="n")
    assert wide.schema["w"].shape == (3,)
    assert wide.schema.groups.inner == ("x",)


def test_new_sequences_come_as_the_training_data_came(steps, padded):
    listed = ppl_vae.load(steps)
    few = as_split([steps[0], steps[4]], schema=listed.schema)
    assert few["x"].shape == (2, 5, 2)
    assert torch.isnan(few["x"][1, 2:]).all()
    assert as_split([torch.tensor(steps[1]).float()], schema=listed.schema)["x"].shape == (1, 5, 2)
    cut = ppl_vae.load({"x": padded, "n": LENGTHS}, lengths="n")
    again = as_split({"x": padded[[0, 4]], "n": [3, 2]}, schema=ppl_vae.data.Schema.from_json(cut.schema.to_json()))
    assert same(few.fields, again.fields)
    with pytest.raises(UserError, match=r"has 7 rows, and the largest one in training had 5"):
        as_split([np.zeros((7, 2))], schema=listed.schema)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda s, p: [*s, np.zeros((0, 2))], {}, r"sequence 10 \(from 0\) has no steps: leave it out"),
        (lambda s, p: [*s, np.zeros((2, 3))], {}, r"steps of field 'x' expect one shape, got \(2,\) and \(3,\)"),
        (lambda s, p: {"x": s, "u": [v[:1] for v in s]}, {}, r"sequence 0 \(from 0\) has 3 steps in 'x' and 1 in 'u'"),
        (lambda s, p: {"x": s, "u": [1, 2]}, {}, r"'u' expects one value for each of 10 sequences, got 2"),
        (lambda s, p: {"x": s, "sequence": range(10)}, {}, r"'sequence' has the name of the column"),
        (lambda s, p: p, {"lengths": "n"}, r"names a field of a dict of arrays, got ndarray"),
        (lambda s, p: {"x": p}, {"lengths": "n"}, r"unknown field 'n'"),
        (lambda s, p: {"x": p, "n": [6] * 10}, {"lengths": "n"}, r"up to 6 steps, and no field has so many"),
        (lambda s, p: {"x": p, "n": [2.5] * 10}, {"lengths": "n"}, r"'n' expects a whole number of steps"),
        (lambda s, p: {"x": p, "n": [1, 2]}, {"lengths": "n"}, r"'x' has 10 rows, and 'n' has 2"),
        (lambda s, p: {"x": p, "n": [5, 4] * 5}, {"lengths": "n"}, r"row 1 has 4 steps"),
        (lambda s, p: {"x": p, "n": [1, *LENGTHS[1:]]}, {"lengths": "n"}, r"row 0 has 1 steps\), where padding is one"),
        (lambda s, p: {"x": p, "u": p[:, [0, 1, 2, 3, 4, 4]], "n": LENGTHS}, {"lengths": "n"}, r"'x' 5 and 'u' 6"),
        (lambda s, p: {"x": p, "n": LENGTHS}, {"lengths": "n", "group": "n"}, r"leave one of them out"),
    ],
)
def test_what_is_no_sequences_is_one_line(steps, padded, change, options, said):
    with pytest.raises(UserError, match=said) as error:
        ppl_vae.load(change(steps, padded), **options)
    assert "\n" not in str(error.value)


MODEL = """
import pyro, pyro.distributions as dist
import torch

def model(x):
    there = ~torch.isnan(x)
    with pyro.plate("series", len(x)):
        z = pyro.sample("z_0", dist.Normal(0.0, 1.0))
        pyro.sample("x_0", dist.Normal(z, 0.5).mask(there[:, 0]), obs=x[:, 0].nan_to_num())
        for t in pyro.markov(range(1, x.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Normal(0.8 * z, 0.6))
            pyro.sample(f"x_{t}", dist.Normal(z, 0.5).mask(there[:, t]), obs=x[:, t].nan_to_num())
"""


def test_series_of_a_file_are_trained_on_and_foretold_by_the_command_line(tmp_path, capsys):
    random = np.random.default_rng(0)
    z = random.normal(size=40)
    x = np.zeros((40, 8))
    for t in range(8):
        x[:, t] = z + 0.5 * random.normal(size=40)
        z = 0.8 * z + 0.6 * random.normal(size=40)
    count = random.integers(6, 9, size=40)
    count[0] = 8
    x[np.arange(8) >= count[:, None]] = 0.0
    np.savez(tmp_path / "series.npz", x=x.astype("float32"), n=count)
    (tmp_path / "chain.py").write_text(MODEL)
    run, model = tmp_path / "run", str(tmp_path / "chain.py") + ":model"
    words = ["fit", model, "--guide", "full_rank", "--data", str(tmp_path / "series.npz"), "--lengths", "n"]
    quick = ["--epochs", "3", "--evaluate-particles", "5", "--no-report", "--missing", "allow", "--out", str(run)]
    assert main([*words, *quick]) == 0, capsys.readouterr().err
    capsys.readouterr()
    asked = ["predict", str(run), "--model", model, "--field", "x", "--draws", "50", "--json"]
    assert main([*asked, "--horizon", "2", "--held-out"]) == 0, capsys.readouterr().err
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert 0 < scores["CRPS"] < 1
    assert -3 < scores["log predictive density (nats)"] < 0
    table = pd.read_csv(run / "predictions.csv")
    assert [c for c in table.columns if "mean" in c] == ["x_mean_0", "x_mean_1"]
    assert main(["predict", str(run), "--model", model, "--field", "x", "--held-out"]) == 2
    assert "give horizon=" in capsys.readouterr().err
