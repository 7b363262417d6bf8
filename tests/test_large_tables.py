"""Large tables of numbers are read by pieces: the same data set as by the usual reader, in less memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae.data import load
from ppl_vae.data._large import from_large
from ppl_vae.errors import UserError

ROWS = 300


def tables():
    g = np.random.default_rng(0)
    real = pd.DataFrame(g.normal(size=(ROWS, 3)), columns=list("abc"))
    mixed = real.assign(k=g.integers(0, 9, ROWS), one=g.integers(0, 2, ROWS), f=g.normal(size=ROWS).astype("f4"))
    return {
        "real": (real, {}),
        "whole": (pd.DataFrame(g.integers(0, 300, (ROWS, 2)), columns=list("ab")), {}),
        "mixed": (mixed, {}),
        "holes": (real.mask(g.random(real.shape) < 0.1), {"missing": "allow"}),
        "columns": (mixed, {"columns": ["k", "a"], "seed": 3}),
        "fields": (mixed, {"fields": {"x": ["a", "k"], "one": "one"}, "test": 50, "validation": 0}),
        "kinds": (mixed, {"kinds": {"k": "real"}}),
        "late": (real.assign(b=np.r_[np.arange(ROWS - 1), 0.5]), {}),
    }


TABLES = tables()


@pytest.fixture
def by_pieces(monkeypatch):
    monkeypatch.setattr("ppl_vae.data._large.FIRST", 100)
    monkeypatch.setattr("ppl_vae.data._large.STEP", 64)
    monkeypatch.setattr("ppl_vae.data._large.LOOKED_AT", 70)


@pytest.mark.parametrize("form", ["frame", "parquet", "array", "npy"])
@pytest.mark.parametrize("name", TABLES)
def test_the_same_data_set_comes_of_pieces(tmp_path, by_pieces, monkeypatch, name, form):
    frame, options = TABLES[name]
    if form in ("array", "npy") and {*options} & {"columns", "fields", "kinds"}:
        pytest.skip("an array has no columns")
    source = frame if form == "frame" else frame.to_numpy()
    if form == "parquet":
        frame.to_parquet(source := tmp_path / "t.parquet", row_group_size=90)
    elif form == "npy":
        np.save(source := tmp_path / "t.npy", np.ascontiguousarray(frame.to_numpy()))
    seen = []
    for module in ("ppl_vae.data", "ppl_vae.data.files"):
        monkeypatch.setattr(f"{module}.from_large", lambda *given: seen.append(from_large(*given)) or seen[-1])
    pieces = load(source, **options)
    assert seen[0] is not None
    for module in ("ppl_vae.data", "ppl_vae.data.files"):
        monkeypatch.setattr(f"{module}.from_large", lambda *given: None)
    usual = load(source, **options)
    assert pieces.schema == usual.schema
    assert pieces.source == usual.source
    for split in ("train", "validation", "test"):
        ours, theirs = getattr(pieces, split), getattr(usual, split)
        assert (ours is None) == (theirs is None)
        for field in pieces.schema if ours is not None else ():
            assert ours[field.name].dtype == theirs[field.name].dtype
            assert torch.equal(ours[field.name].nan_to_num(-9), theirs[field.name].nan_to_num(-9))


def test_what_is_no_plain_number_is_read_as_a_whole(by_pieces, tmp_path):
    frame = TABLES["real"][0]
    for column in (["u"] * ROWS, 1.7e9 + np.arange(ROWS), pd.Timestamp("2024-01-01") + pd.to_timedelta(range(ROWS))):
        other = frame.assign(other=column)
        other.to_parquet(tmp_path / "t.parquet")
        assert load(other).schema == load(tmp_path / "t.parquet").schema


def test_a_hole_is_refused_by_its_row(by_pieces, tmp_path):
    frame = TABLES["real"][0].copy()
    frame.loc[277, "b"] = np.nan
    frame.to_parquet(tmp_path / "t.parquet")
    for source in (frame, tmp_path / "t.parquet"):
        with pytest.raises(UserError, match=r"missing entry \(NaN\) at row 277 \(from 0\), column 'b'"):
            load(source)


PEAK = """
import resource, sys
import numpy as np, pandas, pyarrow.parquet, torch
from ppl_vae.data import load
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load({"x": np.random.default_rng(0).normal(size=(50, 3))})
source = sys.argv[1]
if source == "frame":
    source = pandas.DataFrame(np.random.default_rng(0).normal(size=(1_000_000, 20)))
    source.columns = [f"c{i}" for i in range(20)]
before = peak()
data = load(source)
print((peak() - before) / sum(s["x"].nbytes for s in (data.train, data.validation, data.test)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "npy", "frame"])
def test_loading_takes_at_most_two_and_a_half_times_what_is_made(tmp_path, form):
    x = np.random.default_rng(0).normal(size=(1_000_000, 20))
    source = form if form == "frame" else str(tmp_path / f"t.{form}")
    if form == "npy":
        np.save(source, x.astype("f4"))
    elif form == "parquet":
        pd.DataFrame(x, columns=[f"c{i}" for i in range(20)]).to_parquet(source)
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PEAK), source], check=True, capture_output=True, text=True
    )
    assert float(ended.stdout) < 2.5
