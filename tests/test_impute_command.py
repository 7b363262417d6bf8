"""`ppl-vae impute`: a file with holes in, the same file without holes out."""

from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from test_cli import records, refused, said

from ppl_vae.cli import main

HOLES = {"size": 1, "kind": 2, "visits": 3, "ok": 4, "flag": 5, "species": 6}


def table(rows=40):
    """Cells as people spell them; each column of HOLES has one hole."""
    cells = []
    for i, s in enumerate(np.random.default_rng(0).uniform(1, 2, rows)):
        word = "big" if s > 1.5 else "small"
        row = {"id": f"{i:03d}", "size": f"{s:.2f}0", "kind": word, "visits": str(round(3 * s))}
        row |= {"ok": "yes" if s > 1.4 else "no", "flag": "true" if s > 1.3 else "false", "species": "ab"[i % 2]}
        cells.append({name: "" if HOLES.get(name) == i else cell for name, cell in row.items()})
    return pandas.DataFrame(cells)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run of a mixed table with holes, one of numbers without holes, and one of an array."""
    folder = tmp_path_factory.mktemp("impute")
    table().to_csv(folder / "t.csv", index=False)
    numbers = np.random.default_rng(0).normal(size=(40, 3))
    pandas.DataFrame(numbers, columns=["a", "b", "c"]).to_csv(folder / "whole.csv", index=False)
    np.save(folder / "x.npy", numbers)
    small = ["--epochs", "2", "--evaluate-particles", "5", "--no-report", "--latent-dim", "2", "--hidden", "8"]
    columns = "size,kind,visits,ok,flag"
    mixed = ["--columns", columns, "--label", "species", "--missing", "allow"]
    for name, file, more in (("mixed", "t.csv", mixed), ("whole", "whole.csv", []), ("array", "x.npy", [])):
        assert main(["fit", "--data", str(folder / file), *more, *small, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return place


def test_only_holes_of_the_model_s_columns_are_filled(here, capsys):
    out = said(capsys, "impute", here / "mixed", "--data", here / "t.csv", "--out", "f.csv", "--draws", 3)
    assert out.startswith("5 missing entries of 5 rows imputed (effective particles: median ")
    before, after, many = records(here / "t.csv"), records("f.csv"), records("f-draws.csv")
    assert list(after[0]) == list(before[0])
    assert list(many[0]) == ["draw", *before[0]]
    assert [row["draw"] for row in many] == [str(d) for d in range(3) for _ in before]
    for rows in (after, *(many[40 * d : 40 * (d + 1)] for d in range(3))):
        for i, (old, new) in enumerate(zip(before, rows, strict=True)):
            for name, cell in old.items():
                if HOLES.get(name) != i or name == "species":
                    assert new[name] == cell, name
        assert 0.5 < float(rows[1]["size"]) < 4
        assert rows[2]["kind"] in ("big", "small")
        assert rows[3]["visits"].isdigit()
        assert rows[4]["ok"] in ("yes", "no")
        assert rows[5]["flag"] in ("true", "false")
        assert rows[6]["species"] == ""


def test_the_command_does_what_the_function_does(here, capsys):
    import ppl_vae

    said(capsys, "impute", here / "mixed", "--data", here / "t.csv", "--out", "f.csv", "--particles", 50, "--seed", 3)
    run = ppl_vae.open_run(here / "mixed")
    frame = pandas.read_csv(here / "t.csv").drop(columns="species")
    found = ppl_vae.impute(run.model, run.guide, frame, particles=50, draws=1, seed=3).frame()
    written = pandas.read_csv("f.csv")
    assert float(written.loc[1, "size"]) == found.loc[1, "size"]
    assert [written.loc[i, n] for n, i in list(HOLES.items())[1:5]] == [
        found.loc[i, n] for n, i in list(HOLES.items())[1:5]
    ]


def test_without_data_the_run_s_own_file_is_filled(here, capsys):
    assert str(here / "mixed" / "imputed.csv") in said(capsys, "impute", here / "mixed", "--particles", 5)
    assert len(records(here / "mixed" / "imputed.csv")) == 40
    (here / "mixed" / "imputed.csv").unlink()


def test_rows_with_holes_for_a_run_of_rows_without(here, capsys):
    rows = records(here / "whole.csv")[:4]
    rows[1]["b"] = "NA"
    pandas.DataFrame(rows)[["c", "a", "b"]].to_csv("new.csv", index=False)
    said(capsys, "impute", here / "whole", "--data", "new.csv", "--out", "f.csv")
    filled = records("f.csv")
    assert float(filled[1].pop("b"))
    rows[1].pop("b")
    assert filled == rows


def test_a_file_without_holes_is_written_all_the_same(here, capsys):
    assert said(capsys, "impute", here / "whole", "--out", "f.csv").startswith(
        "no missing entries in whole.csv; written"
    )
    assert records("f.csv") == records(here / "whole.csv")


def test_parquet_and_arrays(here, capsys):
    frame = pandas.read_csv(here / "t.csv").drop(columns="species")
    frame.to_parquet("t.parquet")
    said(capsys, "impute", here / "mixed", "--data", "t.parquet", "--out", "f.parquet")
    filled = pandas.read_parquet("f.parquet")
    assert filled.where(frame.notna(), frame).astype(object).equals(frame.astype(object))
    assert not filled.isna().any().any()
    x = np.load(here / "x.npy")[:5]
    x[2, 1] = np.nan
    np.save("x.npy", x)
    said(capsys, "impute", here / "array", "--data", "x.npy", "--out", "f.npz", "--draws", 2)
    arrays = np.load("f.npz")
    assert arrays["x_draws"].shape == (2, 5, 3)
    seen = ~np.isnan(x)
    torch.testing.assert_close(arrays["x"][seen], x[seen].astype("float32"), rtol=0, atol=0)
    assert np.isfinite(arrays["x"]).all()


def test_a_column_that_the_table_does_not_have_is_imputed(here, capsys):
    table = pandas.read_csv(here / "t.csv")
    table.drop(columns="kind").to_csv("less.csv", index=False)
    assert main(["impute", str(here / "mixed"), "--data", "less.csv", "--particles", "20", "--out", "more.csv"]) == 0
    found = pandas.read_csv("more.csv")
    assert [*found.columns] == [*table.columns.drop("kind"), "kind"]
    assert set(found["kind"]) <= set(table["kind"].dropna())


def test_what_is_refused(here, capsys):
    run, good = here / "mixed", here / "t.csv"
    pandas.read_csv(good).rename(columns={"kind": "kinds"}).to_csv("less.csv", index=False)
    pandas.read_csv(good, dtype=str).assign(kind="huge").to_csv("other.csv", index=False)
    pandas.read_csv(good, dtype=str).assign(draw=1).to_csv("draw.csv", index=False)
    Path("there.csv").write_text("a\n1\n")
    for words, said_so in (
        (["--data", "less.csv"], "expected field 'kind', got 'kinds'"),
        (["--data", "other.csv"], "huge"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--data", good, "--out", "there.csv"], "there.csv exists already"),
        (["--data", good, "--out", "f.txt"], "ending"),
        (["--data", good, "--out", "f.npz"], "ending"),
        (["--data", good, "--draws", "-1"], "--draws"),
        (["--data", good, "--particles", "0"], "--particles"),
        (["--data", "draw.csv", "--draws", "2"], "column 'draw'"),
        (["--data", here / "x.npy", "--out", "f.npz"], "unknown field 'x'"),
    ):
        target = [] if "--out" in words else ["--out", "f.csv"]
        assert said_so in refused(capsys, "impute", run, *words, *target), words
    assert "no run folder" in refused(capsys, "impute", "nothing", "--data", good)
