"""Options of `ppl-vae fit` in a file, and what a run says of its own."""

import json

import numpy as np
import pandas as pd
import pytest
from test_cli import refused, said

import ppl_vae
from ppl_vae.errors import UserError

SMALL = {"latent-dim": 2, "hidden": "8", "epochs": 1, "evaluate_particles": 5, "no-report": True, "compile": "off"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    pd.DataFrame({"a": draw.normal(size=40), "b": draw.normal(size=40)}).to_csv("t.csv", index=False)
    (tmp_path / "c.json").write_text(json.dumps({"data": "t.csv", "kind": ["a=real"], **SMALL}))
    return tmp_path


@pytest.mark.slow
def test_a_file_says_the_options_and_the_command_line_wins(here, capsys):
    said(capsys, "fit", "--config", "c.json", "--latent-dim", 3, "--out", "one")
    first = json.loads((here / "one" / "run.json").read_text())
    assert first["data"]["name"] == "t.csv"
    assert first["model"]["arguments"]["latent_dim"] == 3
    assert first["options"]["kind"] == ["a=real"]
    assert "out" not in first["options"]
    said(capsys, "fit", "--config", "one/run.json", "--out", "two", "--no-report")
    second = json.loads((here / "two" / "run.json").read_text())
    assert second["options"] == first["options"]
    assert second["settings"] == first["settings"]
    assert (here / "one" / "weights.safetensors").read_bytes() == (here / "two" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is no JSON"),
        ("[1]", "must hold an object of options by name"),
        ('{"epoch": 1}', "epochs"),
        ('{"kind": "a=real"}', "kind expects a list of texts"),
        ('{"epochs": [1]}', "epochs expects a text, a number, true or false"),
        ('{"epochs": "ten"}', "Invalid value for '--epochs'"),
        ('{"sha256": {}, "schema": {}}', "says no options"),
    ],
)
def test_a_wrong_file_is_one_line(here, capsys, text, why):
    (here / "wrong.json").write_text(text)
    assert why in refused(capsys, "fit", "--config", "wrong.json")


def test_a_missing_file_is_one_line(here, capsys):
    assert "gone.json" in refused(capsys, "fit", "--config", "gone.json")


def test_help_has_a_short_word_and_shells_complete(capsys, monkeypatch):
    assert said(capsys, "fit", "-h").startswith("Usage: ppl-vae fit")
    assert said(capsys, "-h").startswith("Usage: ppl-vae")


def test_rows_and_their_label_are_two_arguments():
    x, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3
    two, pair = ppl_vae.load(x, y), ppl_vae.load((x, y))
    assert two.schema == pair.schema
    assert all(bool((two.train[n] == pair.train[n]).all()) for n in ("x", "y"))
    with pytest.raises(UserError, match="y goes with an array or a table"):
        ppl_vae.load("digits", y)


def test_a_report_needs_a_place():
    with pytest.raises(UserError, match="report expects a result of fit, a run or its folder, got int"):
        ppl_vae.report(3)
