"""The mixture of normals against scikit-learn's: the same numbers for the same parameters, and EM's optimum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import F64
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as Reference

import ppl_vae
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.errors import UserError
from ppl_vae.guides import MeanField
from ppl_vae.models import GaussianMixture
from ppl_vae.schedules import Cosine

NAMES = {"full": "full", "diagonal": "diag"}
IRIS = load_iris().data


def reference(kind, seed=0):
    return Reference(3, covariance_type=NAMES[kind], random_state=seed, reg_covar=1e-4).fit(IRIS)


def iris(dtype=F64, **options):
    return ppl_vae.load(torch.tensor(IRIS, dtype=dtype), **{"test": 0, "validation": 0} | options)


by_kind = pytest.mark.parametrize("kind", ["full", "diagonal"])


@by_kind
def test_with_parameters_of_scikit_learn_the_evidence_is_its_log_likelihood(kind):
    theirs = reference(kind)
    model = GaussianMixture(iris(), components=3, covariance=kind)
    model.assign(theirs.weights_, theirs.means_, theirs.covariances_)
    guide = MeanField(model, hidden=(4,)).double()
    x = torch.tensor(IRIS)
    exact = torch.from_numpy(theirs.score_samples(IRIS))
    found = ppl_vae.evaluate(model, guide, {"x": x}, particles=2)
    assert torch.allclose(found.log_evidence, exact, atol=1e-6)
    assert torch.allclose(model.log_prob(x), exact, atol=1e-6)
    assert torch.allclose(model.responsibilities(x), torch.from_numpy(theirs.predict_proba(IRIS)), atol=1e-6)
    weights = ppl_vae.log_weights(model, guide, {"x": x})
    assert torch.allclose(IWAE(1).reduce(weights), exact, atol=1e-6)  # whatever the classifier says
    gap = exact - found.elbo
    q = ppl_vae.predict(model, guide, {"x": x}, "cluster", draws=1).probs
    kl = (q * (q.log() - model.responsibilities(x).log())).sum(-1)
    assert torch.allclose(gap, kl, atol=1e-6)


@pytest.mark.parametrize("kind", ["diagonal", pytest.param("full", marks=pytest.mark.slow)])
def test_training_reaches_the_optimum_of_em_and_the_guide_its_responsibilities(kind):
    theirs = reference(kind)
    data = iris(torch.float32)
    model = GaussianMixture(data, components=3, covariance=kind)
    start = Reference(
        3, covariance_type=NAMES[kind], means_init=model.means.detach().numpy(), reg_covar=1e-4, random_state=0
    ).fit(IRIS)
    guide = MeanField(model, hidden=(32,))
    ppl_vae.fit(model, guide, data, ELBO(), epochs=260, lr=Cosine(0.03, 260), batch_size=50)
    with torch.no_grad():
        ours, exact = float(model.log_prob(data.train["x"]).mean()), model.responsibilities(data.train["x"])
    assert abs(ours - max(theirs.score(IRIS), start.score(IRIS))) < 0.01
    assert (ppl_vae.predict(model, guide, data.train, "cluster", draws=1).probs - exact).abs().mean() < 0.01


@by_kind
def test_missing_entries_are_marginalised(kind):
    theirs = reference(kind)
    x = torch.tensor(IRIS)
    x[::3, 1] = torch.nan
    x[1::3, [0, 2]] = torch.nan
    model = GaussianMixture(ppl_vae.load(x, missing="allow", test=0, validation=0), components=3, covariance=kind)
    model.assign(theirs.weights_, theirs.means_, theirs.covariances_)
    rows = []
    for row in x.numpy():
        seen = ~np.isnan(row)
        part = Reference(3, covariance_type=NAMES[kind])
        part.weights_, part.means_ = theirs.weights_, theirs.means_[:, seen]
        if kind == "full":
            part.covariances_ = theirs.covariances_[:, seen][:, :, seen]
            part.precisions_cholesky_ = np.stack([np.linalg.inv(np.linalg.cholesky(c)).T for c in part.covariances_])
        else:
            part.covariances_ = theirs.covariances_[:, seen]
            part.precisions_cholesky_ = 1 / np.sqrt(part.covariances_)
        rows.append(part.score_samples(row[seen][None])[0])
    found = ppl_vae.evaluate(model, MeanField(model, hidden=(4,)).double(), {"x": x}, particles=2)
    assert torch.allclose(found.log_evidence, torch.tensor(rows), atol=1e-6)
    assert torch.allclose(model.log_prob(x), torch.tensor(rows), atol=1e-6)
    assert ppl_vae.check(model, MeanField(model, hidden=(4,)).double(), {"x": x}) == []


@by_kind
def test_it_draws_what_it_says(kind):
    theirs = reference(kind)
    model = GaussianMixture(iris(), components=3, covariance=kind)
    model.assign(theirs.weights_, theirs.means_, theirs.covariances_)
    with torch.no_grad():
        x = model(n=4000)
        log_p, expected = model.log_prob(x), torch.from_numpy(theirs.sample(4000)[0])
    exact = torch.from_numpy(theirs.score_samples(expected.numpy()))
    error = ((log_p.var() + exact.var()) / 4000).sqrt()
    assert (log_p.mean() - exact.mean()).abs() < 4 * error
    error = (x.var(0) / 4000).sqrt()
    assert ((x.mean(0) - torch.from_numpy(theirs.weights_ @ theirs.means_)).abs() < 4 * error).all()


def test_pictures_of_many_entries_work_with_full_covariances():
    x = torch.rand(60, 784)
    model = GaussianMixture(ppl_vae.load(x, test=0, validation=0), components=2)
    guide = MeanField(model, hidden=(4,))
    assert math.isfinite(ppl_vae.fit(model, guide, {"x": x}, epochs=1).history[-1]["train"])


def test_clusters_that_are_empty_or_degenerate_stay_finite():
    x = torch.cat([torch.zeros(50, 2), torch.ones(50, 2)])  # two points
    for kind in ("full", "diagonal"):
        model = GaussianMixture(ppl_vae.load({"x": x}, kinds={"x": "real"}), components=3, covariance=kind)
        assert math.isfinite(ppl_vae.fit(model, MeanField(model, hidden=(4,)), {"x": x}, epochs=3).best.bound)
        assert (model.log_prob(x) > 0).all()


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (torch.randn(9, 2, 2), {}, "full covariances are of vectors"),
        (torch.randn(9, 2), {"components": 0}, "components must be"),
        (torch.randn(9, 2), {"components": 30}, "more than the"),
        (torch.randn(9, 2), {"covariance": "tied"}, "unknown value of covariance"),
        ({"a": torch.randn(9)}, {}, "models field 'x'"),
    ],
)
def test_what_it_cannot_model_is_refused(rows, options, words):
    with pytest.raises(UserError, match=words):
        GaussianMixture(ppl_vae.load(rows), **options)
    with pytest.raises(UserError, match="use GMVAE"):
        GaussianMixture(ppl_vae.load("digits"))


def test_it_is_rebuilt_from_its_run_folder(tmp_path):
    data = iris(torch.float32)
    model = GaussianMixture(data, components=3)
    result = ppl_vae.fit(model, MeanField(model, hidden=(4,)), data, epochs=1)
    again = ppl_vae.open_run(result.save(tmp_path / "run")).model
    assert torch.equal(model.log_prob(data.train["x"]), again.log_prob(data.train["x"]))
