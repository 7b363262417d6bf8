"""`ppl-vae export`: a run in, a NetCDF file for ArviZ out."""

import sys
import warnings

import numpy as np
import pandas
import pytest
from test_cli import refused, said

import ppl_vae
from ppl_vae.cli import main

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz as az


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    rows = np.random.default_rng(0).normal(size=(60, 3))
    rows[4, 1] = np.nan
    pandas.DataFrame(rows, columns=["a", "b", "c"]).to_csv(folder / "t.csv", index=False)
    small = ["--epochs", "2", "--evaluate-particles", "5", "--no-report", "--latent-dim", "2", "--hidden", "8"]
    file = ["--data", str(folder / "t.csv"), "--missing", "allow"]
    assert main(["fit", *file, *small, "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return place


SMALL = ("--draws", 5, "--chains", 2, "--particles", 30)


def test_the_file_holds_what_to_arviz_gives(here, capsys):
    out = said(capsys, "export", here / "run", "--out", "p.nc", *SMALL)
    run = ppl_vae.open_run(here / "run")
    split = run.data().test
    assert out == f"10 draws of {len(split)} rows (test) written to p.nc\n"
    expected = ppl_vae.to_arviz(run.model, run.guide, split, draws=5, chains=2, particles=30)
    found = az.from_netcdf("p.nc")
    for group in ("posterior", "posterior_predictive", "log_likelihood", "observed_data", "sample_stats"):
        for name, variable in expected[group].data_vars.items():
            assert np.array_equal(found[group][name], variable, equal_nan=True), (group, name)
    assert list(found["observed_data"]["x_dim"].values) == ["a", "b", "c"]
    found.close()


def test_rows_of_a_file_and_fewer_groups(here, capsys):
    out = said(
        capsys, "export", here / "run", "--data", here / "t.csv", *SMALL, "--rows", 7, "--no-predictive", "--resample"
    )
    assert out == f"10 draws of 7 rows (t.csv) written to {here / 'run' / 'posterior.nc'}\n"
    found = az.from_netcdf(str(here / "run" / "posterior.nc"))
    groups = set(found.groups() if callable(found.groups) else found.children)
    assert not {"posterior_predictive", "prior_predictive"} & groups
    assert found["posterior"].attrs["resampled"] == 1
    assert np.isnan(found["observed_data"]["x"].values[4, 1])
    found.close()


def test_the_rows_that_are_left_out_are_told(here, capsys, monkeypatch):
    monkeypatch.setattr("ppl_vae.arviz._groups.ROWS", 4)
    assert "10 draws of 4 rows, the first of " in said(capsys, "export", here / "run", "--out", "p.nc", *SMALL)


def test_bad_words_are_one_line(here, capsys, monkeypatch):
    assert "ending of p.csv" in refused(capsys, "export", here / "run", "--out", "p.csv")
    assert "--draws must be a whole number of at least 1" in refused(capsys, "export", here / "run", "--draws", 0)
    assert "--rows must be a whole number of at least 1" in refused(capsys, "export", here / "run", "--rows", 0)
    assert "no run folder" in refused(capsys, "export", "nowhere")
    monkeypatch.setattr(sys.modules["ppl_vae.cli.export"], "find_spec", lambda name: None)
    line = refused(capsys, "export", here / "run", "--out", "p.nc")
    assert "pip install h5netcdf h5py" in line
