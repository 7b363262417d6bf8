"""`ppl-vae diagnose`: verdicts, numbers, figures, and their place in the report; rows of large k-hat in it."""

import json
from types import SimpleNamespace

import numpy
import pytest
import torch

import ppl_vae
from ppl_vae.cli import main
from ppl_vae.cli.diagnose import NAMES
from ppl_vae.evaluation import Evaluation
from ppl_vae.guides import MeanField, Point
from ppl_vae.models import VAE, AutoEncoder
from ppl_vae.reporting import write_report
from ppl_vae.reporting._trust import trusted_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnose") / "run"
    data = ppl_vae.load("digits")
    torch.manual_seed(0)
    model = VAE(data, latent_dim=3, hidden=(32,))
    ppl_vae.fit(model, MeanField(model, hidden=(32,)), data, epochs=3).save(folder)
    return folder


def test_a_run_is_diagnosed_and_its_report_repeats_it(run, capsys):
    assert main(["diagnose", str(run), "--rows", "60", "--only", "collapse,two-sample"]) == 0
    said = capsys.readouterr().out
    found = json.loads((run / "diagnostics.json").read_text())
    assert set(found) == {"collapse", "two-sample"}
    for kind, answer in found.items():
        assert answer["verdict"] in said
        assert answer["summary"]
        assert answer["rows"] == "60 rows: test"
        assert (run / "figures" / f"diagnosis-{kind}.png").is_file()
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Diagnosis: collapse" in page
    assert "Diagnosis: two sample" in page


@pytest.mark.slow
def test_answers_are_kept_beside_each_other_and_json_is_one_object(run, capsys):
    assert main(["diagnose", str(run), "--rows", "60", "--only", "calibration", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == "test"
    assert set(found["diagnostics"]) == {"calibration"}
    assert "calibration" in json.loads((run / "diagnostics.json").read_text())


def test_what_has_no_meaning_for_a_pair_is_said_and_the_rest_goes_on(tmp_path, capsys):
    data = ppl_vae.load("digits")
    model = AutoEncoder(data, latent_dim=1, hidden=(8,))
    ppl_vae.fit(model, Point(model, hidden=(8,)), data, epochs=1).save(tmp_path / "ae")
    assert main(["diagnose", str(tmp_path / "ae"), "--only", "calibration"]) == 0
    assert "does not apply" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--only", "kalibration"], "did you mean 'calibration'"),
        (["--rows", "1"], "--rows"),
        (["--split", "tset"], "did you mean 'test'"),
    ],
)
def test_bad_words_are_one_line_and_write_nothing(run, words, expected, capsys):
    before = sorted(run.rglob("*"))
    assert main(["diagnose", str(run), *words]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert sorted(run.rglob("*")) == before


def test_a_damaged_file_is_one_line(run, tmp_path, capsys):
    (run / "diagnostics.json").write_text("{")
    assert main(["report", str(run)]) == 2
    assert "diagnostics.json is damaged" in capsys.readouterr().err
    (run / "diagnostics.json").unlink()


def test_every_name_is_a_function_of_the_package():
    assert set(NAMES) == {
        "collapse",
        "calibration",
        "local-calibration",
        "predictive-check",
        "two-sample",
        "loo-pit",
        "bdmc",
        "joint-posterior",
    }


def test_the_report_says_where_no_row_is_above_the_limit():
    one = torch.ones(30)
    found = Evaluation(-95 * one, -92 * one, 0.1 * one, 0.1 * one, 20 * one, 3 * one, 92 * one, particles=1000)
    album, drawn = SimpleNamespace(add=lambda name, *_: drawn.append(name)), []
    (section,) = trusted_rows(SimpleNamespace(numbers=range(30)), found, album)
    assert "No row is above the limit" in section.text
    assert section.table is None
    assert drawn == ["khat"]


def test_the_report_names_and_draws_the_rows_of_large_khat(run):
    opened = ppl_vae.open_run(run)
    data = opened.data()
    rows = len(data.test)
    khat = torch.full((rows,), 0.1)
    khat[:3] = torch.tensor([0.9, 2.5, 1.1])
    one = torch.ones(rows)
    found = Evaluation(-95 * one, -92 * one, 0.1 * one, khat, 20 * one, 3 * one, 92 * one, particles=1000)
    page = write_report(opened, data, found.summary(), found).read_text()
    figures = run / "figures"
    assert (figures / "khat.png").is_file()
    assert "3 of 447 rows (0.7 %) are above the limit" in page
    named = [page.index(f"test row {i} (class") for i in (1, 2, 0)]  # worst first
    assert named == sorted(named)
    assert (figures / "khat-rows.png").is_file()


def test_evaluate_writes_every_row_and_the_report_reads_it(run, capsys):
    assert main(["evaluate", str(run), "--particles", "40"]) == 0
    assert "k-hat above" in capsys.readouterr().out
    lines = (run / "evaluation-test.csv").read_text().splitlines()
    assert lines[0].startswith("row,elbo,log_evidence,log_evidence_se,ess,khat")
    assert len(lines) == 448
    assert main(["report", str(run)]) == 0
    assert "Where to believe the guide" in (run / "report.html").read_text()


def test_rows_of_a_run_are_certified_and_the_report_repeats_it(run, capsys):
    assert main(["certify", str(run), "--rows", "12", "--validate", "0"]) == 0
    said = capsys.readouterr().out
    answer = json.loads((run / "diagnostics.json").read_text())["certified-evidence"]
    assert answer["verdict"] in said
    lines = (run / "certified.csv").read_text().splitlines()
    assert lines[0] == "row,log_evidence,log_evidence_se,khat,method,certified,cost"
    assert len(lines) == 13
    assert (run / "figures" / "diagnosis-certified-evidence.png").is_file()
    assert main(["certify", str(run), "--rows", "12", "--validate", "0"]) == 0  # all rows are there
    assert capsys.readouterr().out.split("\n")[-3:] == said.split("\n")[-3:]
    assert main(["certify", str(run), "--rows", "3", "--validate", "0", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["certified"]["rows"] == 3
    assert "begins anew" in told.err
    assert main(["report", str(run)]) == 0
    assert "Diagnosis: certified evidence" in (run / "report.html").read_text()


@pytest.mark.slow
def test_evaluate_compare_and_export_take_what_was_certified(run, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("ppl_vae.diagnostics._certification.validation.DRAWS", 500)
    monkeypatch.setattr("ppl_vae.diagnostics._certification.methods.PARTS", 2)
    options = ["--data", str(tmp_path / "some.npz"), "--particles", "20"]
    numpy.savez(tmp_path / "some.npz", x=ppl_vae.load("digits").test.batch(slice(0, 5))["x"].numpy())
    assert main(["evaluate", str(run), "--certified", *options]) == 0
    told = capsys.readouterr()
    assert "5 of 5 rows certified to 0.05 nats" in told.out
    assert "5 of 5 rows are done, none left" in told.err
    file = tmp_path / "posterior.nc"
    assert main(["export", str(run), "--certified", *options, "--out", str(file)]) == 0
    told = capsys.readouterr()
    assert "25 draws in each chain" in told.err
    assert "rows are done" not in told.err  # they were there
    assert file.is_file()
    assert main(["evaluate", str(run), "--certified", "--parts", "p"]) == 2
    assert "leave one out" in capsys.readouterr().err
    assert main(["compare", str(run), "--certified", "0"]) == 2
    assert main(["compare", "--certified", "0.1", "--seeds", "1"]) == 2
    assert "--certified is for run folders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--accuracy", "0"], "--accuracy"),
        (["--seconds", "-1"], "--seconds"),
        (["--rows", "0"], "--rows"),
        (["--validate", "-1"], "--validate"),
        (["--workers", "0"], "--workers"),
        (["--split", "all"], "split"),
    ],
)
def test_certify_refuses_in_one_line(run, capsys, words, expected):
    before = sorted(p.name for p in run.iterdir())
    assert main(["certify", str(run), *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert expected in captured.err
    assert sorted(p.name for p in run.iterdir()) == before
