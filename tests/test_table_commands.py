"""A spreadsheet as Europe writes it through the commands: semicolons, decimal commas, dates, timestamps, holes."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_vae
from ppl_vae.cli import main

ROWS = 60


@pytest.fixture
def sheet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    trait = draw.normal(size=ROWS)
    lines = [
        f"{trait[i]:.3f};{20 + i % 7};{1.7e9 + i:.0f};2024-01-{i % 28 + 1:02d};{'rb'[int(trait[i] > 0)]};"
        + ("" if i % 9 == 0 else f"{np.exp(trait[i]):.2f}")
        for i in range(ROWS)
    ]
    text = "change;visits;stamp;day;colour;price\n" + "\n".join(lines).replace(".", ",") + "\n"
    (tmp_path / "sheet.csv").write_text(text, encoding="utf-8")
    return tmp_path / "sheet.csv"


FIT = "fit --data sheet.csv --missing allow --epochs 1 --latent-dim 2 --hidden 4 --evaluate-particles 3 --no-report"


def test_a_sheet_is_trained_on_drawn_from_and_completed(sheet, capsys):
    assert main([*FIT.split(), "--likelihood", "change=student_t:df=4,price=log_normal", "--out", "a"]) == 0
    told = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert ["column", "kind", "likelihood", "levels", "or", "range", "missing"] in told
    assert ["change", "real", "StudentT"] in [line[:3] for line in told]
    assert any("not finished" in " ".join(line) for line in told)
    run = ppl_vae.open_run("a")
    columns = run.model.likelihood
    chosen = {f.name: type(each).__name__ for f, each in zip(columns.fields, columns.each, strict=True)}
    assert chosen | {"change": "StudentT", "price": "LogNormal", "visits": "DiscretisedLogistic"} == chosen
    assert run.schema["day"].unit == "days since 2024-01-01"
    assert main(["sample", "a", "-n", "5", "--out", "drawn.csv"]) == 0
    drawn = ppl_vae.load("drawn.csv", test=0, validation=0)
    assert drawn.schema["day"].unit.startswith("days since")
    stamps = drawn.train["stamp"].double() + (drawn.schema["stamp"].origin or (0.0,))[0]
    assert bool(((stamps - 1.7e9).abs() < 1e4).all())
    assert main(["impute", "a", "--out", "whole.csv", "--particles", "5"]) == 0
    before, after = (p.read_text().splitlines() for p in (sheet, sheet.with_name("whole.csv")))
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):  # only the holes differ
        assert old == new or (old.endswith(";") and new.startswith(old) and "," in new[len(old) :])
    assert main(["evaluate", "a", "--data", "sheet.csv", "--missing", "allow", "--particles", "3"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--likelihood change=nrmal", "unknown likelihood 'nrmal'"),
        ("--likelihood chnge=normal", "unknown field 'chnge': did you mean 'change'"),
        ("--likelihood change=normal,change=laplace", "COLUMN=NAME with a different COLUMN each"),
        ("--decimal x", "decimal expects"),
        ("--separator ,", "sheet.csv"),
        ("--encoding klingon", "say its encoding"),
    ],
)
def test_options_of_a_table_are_refused_in_one_line(sheet, capsys, options, message):
    assert main([*FIT.split(), *options.split()]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
