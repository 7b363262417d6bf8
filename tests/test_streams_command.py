"""Streams on the command line: fit a folder of Parquet, evaluate it by parts, go on where it was stopped."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from ppl_vae.cli import main


@pytest.mark.slow
def test_a_folder_is_fitted_and_evaluated_by_parts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    rng = np.random.default_rng(0)
    for part in range(2):
        z = rng.normal(size=(60, 1))
        table = pd.DataFrame(z + 0.5 * rng.normal(size=(60, 3)), columns=list("abc"))
        table.to_parquet(f"rows/{part}.parquet", row_group_size=20)
    options = ["--epochs", "1", "--hidden", "8", "--latent-dim", "1", "--compile", "off", "--evaluate-particles", "5"]
    assert main(["fit", "--data", "rows", "--no-report", "--out", "run", *options]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["source"]["options"]["stream"] is True
    asked = ["evaluate", "run", "--parts", "parts", "--particles", "5", "--json"]
    capsys.readouterr()
    assert main(asked) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["means"]["rows"] == 24
    assert main(asked) == 0  # all parts are there
    assert json.loads(capsys.readouterr().out) == first
    assert main([*asked[:-1], "--data", "rows/*.parquet"]) == 2
    assert "is of another call" in capsys.readouterr().err
    assert main(["evaluate", "run", "--data", "rows/*.parquet", "--parts", "all", "--particles", "5"]) == 0
    assert "120 rows of *.parquet" in capsys.readouterr().out
    holes = pd.read_parquet("rows/0.parquet")
    holes.loc[3, "b"] = np.nan
    holes.to_parquet("holes.parquet")
    filled = ["impute", "run", "--data", "holes.parquet", "--parts", "filled", "--particles", "20", "--workers", "2"]
    assert main(filled) == 0, capsys.readouterr().err
    assert "60 rows of holes.parquet written to filled" in capsys.readouterr().out
    table = pd.read_parquet("filled")
    assert not table.isna().any(axis=None)
    pd.testing.assert_frame_equal(table[list("abc")].drop(index=3), holes.drop(index=3), rtol=1e-5, check_dtype=False)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate", "run", "--workers", "2"], "name its folder"),
        (["evaluate", "run", "--parts", "p", "--gap"], "leave one out"),
        (["impute", "run", "--workers", "2"], "name its folder"),
        (["impute", "run", "--parts", "p", "--check"], "leave --check"),
        (["fit", "--data", "nothing/*.parquet"], "found nothing at"),
        (["fit", "--data", "t.csv", "--stream"], "convert it"),
    ],
)
def test_what_cannot_be_streamed_is_one_line(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n2,3\n")
    assert main(words) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv"]
