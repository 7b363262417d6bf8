"""What the report and the command line say of labels and clusters."""

import json

import pytest
import torch

import ppl_vae
from ppl_vae.cli import main
from ppl_vae.errors import UserError
from ppl_vae.guides import MeanField
from ppl_vae.models import GMVAE, M1M2, M2
from ppl_vae.plots._heatmaps import heatmap
from ppl_vae.prediction import label_scores
from ppl_vae.reporting import write_report


def report(model, data, tmp_path, **settings):
    result = ppl_vae.fit(model, MeanField(model, hidden=(8,)), data, epochs=1, **settings)
    run = ppl_vae.open_run(result.save(tmp_path / "run"))
    page = write_report(run, data).read_text(encoding="utf-8")
    return page, {f.stem for f in (run.path / "figures").glob("*.png")}


SMALL = {M2: {"latent_dim": 2}, M1M2: {"latent_dims": (2, 2)}}


@pytest.mark.parametrize("make", [M2, pytest.param(M1M2, marks=pytest.mark.slow)])
def test_a_label_is_scored_shown_and_styled(make, tmp_path):
    data = ppl_vae.load("digits", labels=30)
    page, figures = report(make(data, hidden=(8,), **SMALL[make]), data, tmp_path, label_weight=20, label_share=0.5)
    assert {"y-confusion", "y-exemplars", "y-samples"} <= figures
    assert ("y-styles" in figures) == (make is M2)  # in M1M2 the label acts through the features, which are kept
    assert "Of the 447 test rows whose true label is known" in page
    assert "What y stands for" in page
    assert "label weight 20, labels in 0.5 of the rows of a batch" in page


def test_clusters_of_a_table_are_told_by_their_columns(tmp_path):
    x = torch.randn(60, 3, generator=torch.manual_seed(0))
    data = ppl_vae.load(x)
    page, figures = report(GMVAE(data, clusters=2, latent_dim=2, hidden=(8,)), data, tmp_path)
    assert "cluster-means" in figures
    assert "cluster-confusion" not in figures  # nobody knows the truth of a cluster
    assert "What cluster stands for" in page


def test_a_heat_map_says_its_numbers():
    figure = heatmap([[-0.04, 1.0], [float("nan"), -2.0]], ["a", "b"], ["c", "d"], signs=True)
    assert [t.get_text() for t in figure.axes[0].texts] == ["0", "1", "\N{MINUS SIGN}2"]
    with pytest.raises(UserError, match="lines"):
        heatmap([[1.0, 2.0]], ["a", "b"], ["c", "d"])


def test_the_command_line_hides_labels_and_scores_them(tmp_path, capsys):
    out = tmp_path / "run"
    words = [
        "fit",
        "m2",
        "--labels",
        "50",
        "--label-share",
        "0.5",
        "--epochs",
        "1",
        "--hidden",
        "8",
        "--latent-dim",
        "2",
    ]
    assert main([*words, "--evaluate-particles", "2", "--out", str(out), "--no-report"]) == 0
    shown = capsys.readouterr()
    assert "label weight 20, labels in 0.5 of the rows of a batch" in shown.err  # 1,000 rows, 50 labels
    assert "label right, of 447 rows" in shown.out
    found = json.loads((out / "evaluation.json").read_text())["test"]
    run = ppl_vae.open_run(out)
    scores = label_scores(run.model, run.guide, run.data().test)
    assert found["accuracy"] == scores["accuracy"]
    assert found["labelled_rows"] == 447
    assert main(["fit", "m2", "--labels", "5000", "--epochs", "1", "--out", str(tmp_path / "no")]) == 2
    assert "asks for 500 training rows of category" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_pairs_that_say_nothing_of_a_label_are_not_scored():
    from ppl_vae.models import VAE

    data = ppl_vae.load("digits")
    model = VAE(data, latent_dim=2, hidden=(8,))
    assert label_scores(model, MeanField(model, hidden=(8,)), data.test) == {}
