"""Anomaly scores: a held-out class stays out of training, AUCs are scikit-learn's, failures are said."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from cases import SIGMA, XH, W, gaussian_evidence, hierarchy, hierarchy_guide, linear_gaussian, linear_gaussian_exact
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

import ppl_vae
from ppl_vae.cli import main
from ppl_vae.data import Field, Schema, Split, rebuild
from ppl_vae.diagnostics import Anomaly, anomaly
from ppl_vae.diagnostics._anomalies.anomaly import of_rows
from ppl_vae.diagnostics._anomalies.auc import auc, auc_difference
from ppl_vae.diagnostics._anomalies.baselines import independent_entries, pca_reconstruction
from ppl_vae.errors import UserError
from ppl_vae.guides import MeanField
from ppl_vae.models import M2, VAE
from ppl_vae.plots.drawing import to_png_bytes

F64 = torch.float64

# a class that is held out ---------------------------------------------------------------------------------------------


def test_the_rows_of_a_class_leave_train_and_validation_and_stay_in_test():
    full, data = ppl_vae.load("digits"), ppl_vae.load("digits", outliers="9")
    for name in ("train", "validation"):
        kept = getattr(full, name)["y"] != 9
        assert torch.equal(getattr(data, name)["x"], getattr(full, name)["x"][kept])
        assert torch.equal(getattr(data, name)["y"], getattr(full, name)["y"][kept])
        assert getattr(data, name).outliers is None
    assert torch.equal(data.test["x"], full.test["x"])
    assert torch.equal(data.test.outliers, full.test["y"] == 9)
    assert torch.equal(data.test.truth("y"), full.test["y"])
    assert bool((data.test.batch()["y"] == -1).all())  # a label would say who is an outlier
    assert data.test.batch().keys() == {"x", "y"}


def test_outliers_go_along_with_their_rows():
    test = ppl_vae.load("digits", outliers=["8", 9]).test
    assert int(test.outliers.sum()) == int((test.truth("y") >= 8).sum())
    some = test.rows(torch.tensor([5, 0, 9])).select("x").to("cpu")
    assert torch.equal(some.outliers, test.outliers[[5, 0, 9]])
    inliers = test.inliers()
    assert inliers.outliers is None
    assert torch.equal(inliers["x"], test["x"][~test.outliers])
    assert torch.equal(inliers.truth("y"), test.truth("y")[~test.outliers])
    assert ppl_vae.load("digits").test.inliers().name == "test"


def test_a_class_of_a_file_is_held_out_by_name_and_again(tmp_path):
    g = np.random.default_rng(0)
    kinds = np.array(["cat", "dog", "cow"])[g.integers(0, 3, 60)]
    pd.DataFrame({"a": g.normal(size=60), "b": g.normal(size=60), "kind": kinds}).to_csv(
        tmp_path / "t.csv", index=False
    )
    data = ppl_vae.load(tmp_path / "t.csv", label="kind", outliers="dog")
    code = data.schema["y"].names.index("dog")
    assert not bool((data.train["y"] == code).any())
    again = rebuild(json.loads(json.dumps(data.source)))
    assert torch.equal(again.test.outliers, data.test.outliers)
    assert torch.equal(again.train["x"], data.train["x"])


def test_few_labels_are_of_the_classes_that_are_left():
    data = ppl_vae.load("digits", labels=18, outliers="3")
    assert data.train["y"][data.train["y"] >= 0].bincount(minlength=10).tolist() == [2, 2, 2, 0, 2, 2, 2, 2, 2, 2]
    assert int((data.test.truth("y") == 3).sum()) == int(data.test.outliers.sum()) > 0


def test_outliers_that_cannot_be_held_out_are_refused():
    for arguments, words in (
        (("digits", "cat"), r"unknown category of the label y 'cat' .*known: 0, 1, 2"),
        (("digits", [str(k) for k in range(10)]), "leaves no train rows"),
        ((np.zeros((9, 2)), "1"), "names categories of the label y, but data set 'array' has fields x"),
        ((ppl_vae.load("digits"), "1"), "got a data set that is loaded already"),
    ):
        with pytest.raises(UserError, match=words):
            ppl_vae.load(arguments[0], outliers=arguments[1])
    x, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    with pytest.raises(UserError, match="keeps its rows in the test split"):
        ppl_vae.load({"x": x, "y": y}, test=0, outliers=1)
    with pytest.raises(UserError, match="a label y in every row"):
        ppl_vae.load({"x": x, "y": np.where(np.arange(40) < 3, -1, y)}, missing="allow", outliers=1)


# the area under the curve ---------------------------------------------------------------------------------------------


def test_the_auc_is_that_of_scikit_learn():
    g = torch.Generator().manual_seed(0)
    score, outliers = torch.randint(0, 12, (80,), generator=g).double(), torch.rand(80, generator=g) < 0.3
    assert auc(score, outliers).value == pytest.approx(roc_auc_score(outliers, score))
    assert auc(-score, outliers).value == pytest.approx(1 - roc_auc_score(outliers, score))


def test_its_standard_errors_are_the_spread_over_samples():
    """400 samples of 40 outliers and 60 inliers with two correlated scores."""
    g = torch.Generator().manual_seed(1)
    outliers = torch.arange(100) < 40
    found, apart = [], []
    for _ in range(400):
        shared = torch.randn(100, generator=g)
        one = shared + 0.5 * torch.randn(100, generator=g) + outliers
        other = shared + 0.5 * torch.randn(100, generator=g) + 0.5 * outliers
        found.append(auc(one, outliers))
        apart.append(auc_difference(one, other, outliers))
    for draws in (found, apart):
        spread = np.std([d.value for d in draws])
        assert np.mean([d.se for d in draws]) == pytest.approx(spread, rel=4 / np.sqrt(2 * 400))


def test_an_auc_needs_two_rows_of_each():
    with pytest.raises(UserError, match="got 1 and 3"):
        auc(torch.arange(4.0), torch.arange(4) == 2)


# scores ---------------------------------------------------------------------------------------------------------------


def test_the_score_is_minus_the_log_evidence():
    x = torch.randn(30, 4, generator=torch.manual_seed(0), dtype=F64) @ torch.diag(torch.ones(4, dtype=F64)) * 2
    found = anomaly(linear_gaussian, linear_gaussian_exact, {"x": x}, particles=20)
    torch.testing.assert_close(found.score, -gaussian_evidence(x))  # no error: the weights of the posterior are equal
    assert found.outliers is None
    assert found.strangest(1).item() == int(gaussian_evidence(x).argmin())
    assert "not known without rows" in found.verdict
    with pytest.raises(UserError, match="expects to know which rows are outliers"):
        _ = found.auc


def test_shifted_rows_are_found_and_simple_rows_are_not():
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 2, generator=g, dtype=F64) @ W + SIGMA * torch.randn(300, 4, generator=g, dtype=F64)
    outliers = torch.arange(300) < 60
    odd = torch.where(outliers[:, None], rows + 3, rows)
    found = anomaly(linear_gaussian, linear_gaussian_exact, {"x": odd}, outliers=outliers, particles=10)
    exact = roc_auc_score(outliers, -gaussian_evidence(odd))
    assert found.auc.value == pytest.approx(exact)
    assert found.auc.value > 0.9
    assert found.summary()["auc"] == found.auc.value
    assert to_png_bytes(found.figure())
    plain = torch.where(outliers[:, None], 0.05 * rows + torch.tensor([0.3, -0.2, 0.0, 0.5]).double(), rows)
    misled = anomaly(linear_gaussian, linear_gaussian_exact, {"x": plain}, outliers=outliers.numpy(), particles=10)
    assert misled.auc.value < 0.3
    assert "MORE probable" in misled.verdict


def test_the_verdict_says_whether_something_simpler_does_as_well():
    g = torch.Generator().manual_seed(0)
    outliers = torch.arange(200) < 50
    noise, good = torch.randn(200, generator=g), torch.randn(200, generator=g) + 2.0 * outliers
    words = {
        "better than": Anomaly(good, 0 * good, outliers, {"pca": noise}),
        "But the pca score": Anomaly(good + 3 * noise, 0 * good, outliers, {"pca": good}),
        "no better than": Anomaly(good, 0 * good, outliers, {"pca": good + 0.1 * noise}),
        "guessing": Anomaly(noise, 0 * good, outliers),
    }
    for part, found in words.items():
        assert part in found.verdict


def test_baselines_are_what_they_say():
    g = torch.Generator().manual_seed(0)
    train, rows = torch.randn(50, 6, generator=g) @ torch.randn(6, 6, generator=g), torch.randn(9, 6, generator=g)
    schema = Schema((Field("x", "real", (6,)),))
    one, other = Split(schema, "train", {"x": train}), Split(schema, "test", {"x": rows})
    mean, sd = train.mean(0), train.std(0, correction=0)
    a, b = ((v - mean) / sd for v in (train, rows))
    fitted = PCA(0.9, svd_solver="full").fit(a.numpy())
    exact = ((b.numpy() - fitted.inverse_transform(fitted.transform(b.numpy()))) ** 2).sum(1)
    torch.testing.assert_close(
        pca_reconstruction(list(schema), one, other), torch.as_tensor(exact), rtol=1e-3, atol=1e-4, check_dtype=False
    )
    exact = -torch.distributions.Normal(mean, sd).log_prob(rows).sum(1)
    torch.testing.assert_close(independent_entries(list(schema), one, other), exact)


def test_a_data_set_brings_its_baselines_and_scores_without_labels():
    data = ppl_vae.load("digits", outliers="0")
    model = VAE(data, latent_dim=2, hidden=(16,))
    guide = MeanField(model, hidden=(16,))
    found = anomaly(model, guide, data, particles=20)
    assert set(found.baselines) == {"reconstruction", "pca", "independent"}
    everything = ppl_vae.evaluate(model, guide, data, 20)
    assert torch.equal(found.score, -everything.log_evidence)
    assert torch.equal(found.baselines["reconstruction"], everything.distortion)
    assert found.auc_of("pca").value > 0.6
    assert set(anomaly(model, guide, data.test, particles=5).baselines) == {"reconstruction"}
    # a label of the test rows, which would tell, reaches no score
    few = M2(data, latent_dim=2, hidden=(16,))
    shown = ppl_vae.load("digits").test.select("x")
    of = MeanField(few, hidden=(16,))
    torch.testing.assert_close(anomaly(few, of, data, particles=5).score, anomaly(few, of, shown, particles=5).score)


def test_an_evaluation_of_some_rows_is_theirs():
    x = torch.randn(6, 4, dtype=F64)
    found = ppl_vae.evaluate(linear_gaussian, linear_gaussian_exact, {"x": x}, 8, iwae=[2])
    some = of_rows(found, torch.tensor([4, 1]))
    assert torch.equal(some.elbo, found.elbo[[4, 1]])
    assert torch.equal(some.iwae[2], found.iwae[2][[4, 1]])
    assert (some.particles, some.summary()["rows"]) == (8, 2)


def test_scores_are_refused_by_name():
    with pytest.raises(UserError, match="mean is shared by all rows"):
        anomaly(hierarchy, hierarchy_guide, {"x": XH})
    with pytest.raises(UserError, match="one truth value for each of 7 rows"):
        anomaly(linear_gaussian, linear_gaussian_exact, torch.zeros(7, 4).double(), outliers=[True, False])


# the command line -----------------------------------------------------------------------------------------------------


def test_fit_holds_a_class_out_and_evaluate_tells_the_auc(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ("--epochs", "1", "--latent-dim", "2", "--hidden", "8", "--evaluate-particles", "5", "--no-report")
    assert main(["fit", "--outliers", "9", *quick, "--out", "run"]) == 0
    out = capsys.readouterr().out
    assert "45 outliers: AUC of -log evidence" in out
    assert "of inliers alone, but for AUCs" in " ".join(out.split())
    assert main(["evaluate", "run", "--particles", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["evaluation"]
    assert (found["rows"], found["outliers"]) == (402, 45)
    run = ppl_vae.open_run("run")
    data = run.data()
    again = anomaly(run.model, run.guide, data, particles=5)
    assert found["auc"] == pytest.approx(again.auc.value, abs=1e-6)
    assert found["auc_pca_se"] == pytest.approx(again.auc_of("pca").se, abs=1e-6)
    inliers = ~data.test.outliers
    assert found["nll"] == pytest.approx(float(again.score[inliers].mean()), rel=1e-5)
    assert main(["fit", "--outliers", "cat", *quick, "--out", "other"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "unknown category of the label y 'cat'" in err
    assert not (tmp_path / "other").exists()
