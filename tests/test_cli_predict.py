"""`ppl-vae predict`, from training to a file of predictions."""

from __future__ import annotations

import csv
import json

import pytest
from sklearn.datasets import load_diabetes, load_iris

import ppl_vae
from ppl_vae.cli import main

QUICK = ("--hidden", "8", "--latent-dim", "2", "--evaluate-particles", "5", "--no-report", "--missing", "allow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs on tables, a response of numbers and one of categories."""
    place = tmp_path_factory.mktemp("predict")
    numbers = load_diabetes(as_frame=True).frame
    numbers.to_csv(place / "numbers.csv", index=False)
    flowers = load_iris(as_frame=True).frame
    flowers["target"] = [("setosa", "versicolor", "virginica")[i] for i in flowers["target"]]
    flowers.to_csv(place / "flowers.csv", index=False)
    flowers.drop(columns="target").to_csv(place / "new.csv", index=False)
    for model, file, more in (
        ("regression", "numbers.csv", ("--kind", "y=real", "--epochs", "10", "--lr", "0.02")),
        ("information_bottleneck", "flowers.csv", ("--beta", "0.01", "--epochs", "15", "--lr", "0.04")),
    ):
        assert (
            main(
                [
                    "fit",
                    model,
                    "--data",
                    str(place / file),
                    "--label",
                    "target",
                    "--out",
                    str(place / model),
                    *more,
                    *QUICK,
                ]
            )
            == 0
        )
    return place


def test_numbers_come_with_their_deviation(folder, capsys):
    run = folder / "regression"
    assert main(["predict", str(run), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    test = ppl_vae.open_run(run).data().test
    assert scores["root mean squared error"] < float(test["y"].std())
    rows = list(csv.DictReader((run / "predictions.csv").read_text().splitlines()))
    assert len(rows) == len(test)
    assert all(float(r["y_low"]) < float(r["y_mean"]) < float(r["y_high"]) and float(r["y_sd"]) > 0 for r in rows)


def test_categories_come_with_their_probabilities_also_for_rows_without_a_label(folder, capsys):
    run = folder / "information_bottleneck"
    assert main(["predict", str(run)]) == 0
    said = capsys.readouterr().out
    assert float(said.split("accuracy: ")[1].split()[0]) > 0.8
    assert (
        main(["predict", str(run), "--data", str(folder / "new.csv"), "--out", str(folder / "new-predictions.csv")])
        == 0
    )
    assert "accuracy" not in capsys.readouterr().out
    rows = list(csv.DictReader((folder / "new-predictions.csv").read_text().splitlines()))
    assert len(rows) == 150
    assert [rows[i]["y"] for i in (0, 149)] == ["setosa", "virginica"]
    assert abs(sum(float(v) for n, v in rows[0].items() if n.startswith("p(")) - 1) < 1e-5


def test_what_cannot_be_predicted_is_one_line(folder, capsys):
    run = str(folder / "regression")
    for words, said in (
        (["--field", "x"], "encoder sees field 'x'"),
        (["--field", "colour"], "unknown field or discrete latent 'colour'"),
        (["--draws", "0"], "--draws must be"),
        (["--data", str(folder / "flowers.csv"), "--out", str(folder / "a.csv")], "unknown column"),
    ):
        capsys.readouterr()
        assert main(["predict", run, *words]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert main(["fit", "--kind", "y", "--out", str(folder / "b")]) == 2
    assert "--kind expects NAME=KIND" in capsys.readouterr().err
