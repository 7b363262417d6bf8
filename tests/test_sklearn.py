"""The scikit-learn face: the conventions, the numbers behind them, and that it works where scikit-learn is used."""

import copy
import dataclasses
import pickle
import random
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits, make_moons
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import ppl_vae
from ppl_vae.bounds import IWAE
from ppl_vae.guides import IAF, FullRank
from ppl_vae.likelihoods import Columns, Normal, Poisson
from ppl_vae.priors import Mixture
from ppl_vae.sklearn import (
    GMVAEClusterer,
    SemiSupervisedVAEClassifier,
    VAEImputer,
    VAEOutlierDetector,
    VAERegressor,
    VAETransformer,
)
from ppl_vae.sklearn._base import VAEEstimator
from ppl_vae.training.settings import SETTINGS, Settings

SMALL = {"latent_dim": 2, "hidden": (8,), "device": "cpu", "random_state": 0}
QUICK = {**SMALL, "epochs": 2}

# the conventions ------------------------------------------------------------------------------------------------------

EACH_ITS_OWN = (
    "score_samples is a Monte Carlo estimate whose draws are of their own for every row, so that errors average out in "
    "the mean over rows; in another order or subset a row has other draws, and its value agrees within its standard "
    "error, which is tested below. transform and all else are the same to the last digits."
)
EXCEPTIONS = {
    "VAETransformer": {
        "check_methods_sample_order_invariance": EACH_ITS_OWN,
        "check_methods_subset_invariance": EACH_ITS_OWN,
    },
    "VAEOutlierDetector": {
        "check_methods_sample_order_invariance": EACH_ITS_OWN,
        "check_methods_subset_invariance": EACH_ITS_OWN,
    },
    "VAERegressor": {
        "check_methods_sample_order_invariance": EACH_ITS_OWN,
        "check_methods_subset_invariance": EACH_ITS_OWN,
    },
    "VAEImputer": {},
    "GMVAEClusterer": {},
    "SemiSupervisedVAEClassifier": {
        "check_classifiers_classes": "its last part takes -1 and 1 for two classes, but -1 marks rows without a label; "
        "scikit-learn excuses its own semi-supervised classifiers by their names. Its other parts are tested below.",
    },
}


conventions = partial(
    parametrize_with_checks,
    expected_failed_checks=lambda estimator: EXCEPTIONS[type(estimator).__name__],
    xfail_strict=True,
)


@conventions([VAETransformer(epochs=2, score_particles=10, **SMALL)])
def test_the_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow  # what they share with the transformer is tested above, what is their own below
@conventions(
    [
        SemiSupervisedVAEClassifier(epochs=15, lr=0.03, **SMALL),
        VAEImputer(epochs=2, particles=20, **SMALL),
        VAERegressor(epochs=40, lr=0.03, particles=50, **SMALL),
        VAEOutlierDetector(epochs=2, score_particles=10, **SMALL),
        GMVAEClusterer(epochs=30, lr=0.02, **SMALL),
    ]
)
def test_the_conventions_of_scikit_learn_for_every_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", [VAETransformer, SemiSupervisedVAEClassifier])
def test_every_setting_of_training_is_a_parameter_with_its_default(estimator):
    for field in dataclasses.fields(Settings):
        if field.name != "seed" and not SETTINGS[field.name].of_labels:
            assert estimator().get_params()[field.name] == field.default
            assert f"{field.name}: {SETTINGS[field.name].help}" in " ".join(VAEEstimator.__doc__.split())
    assert estimator(lr=0.1, compile="off").get_params()["lr"] == 0.1
    with pytest.raises(TypeError, match="max_epochs"):
        estimator(max_epochs=3)


@pytest.mark.parametrize("change", [lambda rows: rows[::-1], lambda rows: rows[:7]], ids=["order", "subset"])
def test_only_the_draws_of_the_log_density_depend_on_the_other_rows(change):
    X = factors(40)[0]
    vae = VAETransformer(**QUICK).fit(X)
    assert np.allclose(vae.transform(change(X)), change(vae.transform(X)), rtol=1e-10)
    both = [ppl_vae.evaluate(vae.model_, vae.guide_, torch.tensor(rows.copy()), 1000) for rows in (X, change(X))]
    error = np.hypot(change(both[0].log_evidence_se.numpy()), both[1].log_evidence_se.numpy())
    assert (np.abs(change(vae.score_samples(X)) - vae.score_samples(change(X))) < 4.5 * error).all()


LABELS = {
    "strings": np.array(["one", "two", "three"]),
    "objects": np.array(["one", "two", "three"], dtype=object),
    "numbers": np.array([7, 1, 4]),
    "floats": np.array([0.0, 1.0, 2.0]),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("classes", [2, 3])
def test_labels_of_any_type_come_back(kind, classes):
    X, codes = blobs(classes)
    y = LABELS[kind][codes]
    found = SemiSupervisedVAEClassifier(epochs=15, lr=0.03, **SMALL).fit(X, y)
    assert found.classes_.tolist() == sorted(set(y.tolist()))
    assert found.classes_.dtype == y.dtype
    assert found.predict(X).tolist() == y.tolist()
    assert (found.classes_[found.predict_proba(X).argmax(1)] == found.predict(X)).all()


def blobs(classes=2, rows=30):
    codes = np.arange(rows) % classes
    centres = np.array([[-4.0, 0.0], [4.0, 0.0], [0.0, 6.0]])
    return centres[codes] + 0.3 * np.random.RandomState(0).randn(rows, 2), codes


MARKS = {
    "-1": (np.array([0, 1] * 15), -1),
    "-1.0": (np.array([0.0, 1.0] * 15), -1),
    "NaN": (np.array([0.0, 1.0] * 15), np.nan),
    "None among strings": (np.array(["u", "v"] * 15, dtype=object), None),
    "NaN among strings": (np.array(["u", "v"] * 15, dtype=object), np.nan),
    "-1 among strings": (np.array(["u", "v"] * 15, dtype=object), -1),
}


@pytest.mark.parametrize("name", MARKS)
def test_rows_without_a_label_are_marked_as_in_scikit_learn(name):
    y, mark = MARKS[name]
    some = y.copy()
    some[6:] = mark
    X = blobs()[0]
    found = SemiSupervisedVAEClassifier(epochs=20, lr=0.05, **SMALL).fit(X, some)
    assert found.classes_.tolist() == sorted(set(y.tolist()))
    assert found.predict(X).tolist() == y.tolist()


def test_labels_in_a_series_may_be_missing():
    X, codes = blobs()
    y = pd.Series(codes).map({0: "u", 1: "v"}).where(np.arange(30) < 8)
    found = SemiSupervisedVAEClassifier(epochs=40, lr=0.03, **SMALL).fit(pd.DataFrame(X, columns=["a", "b"]), y)
    assert found.classes_.tolist() == ["u", "v"]


# the numbers ----------------------------------------------------------------------------------------------------------


def factors(rows, columns=5, seed=0):
    """Rows of two factors and noise of its own for each column."""
    generator = np.random.RandomState(seed)
    loadings = np.random.RandomState(99).randn(2, columns)
    noise = np.linspace(0.3, 0.8, columns)
    return generator.randn(rows, 2) @ loadings + noise * generator.randn(rows, columns) + 3.0, loadings, noise


LINEAR = {"latent_dim": 2, "hidden": (), "guide": "full_rank", "validation_fraction": 0, "random_state": 0}


@pytest.fixture(scope="module")
def linear():
    """Without hidden layers a VAE with a normal likelihood is factor analysis."""
    vae = VAETransformer(epochs=80, lr=0.02, batch_size=100, device="cpu", score_particles=2000, **LINEAR)
    return vae.fit(factors(500)[0])


def moments(vae):
    """Mean and covariance of p(x) of a linear decoder."""
    likelihood, last = vae.model_.likelihood, vae.model_.decoder.last
    unit = likelihood.unit.detach().numpy()
    loadings = unit[:, None] * last.weight.detach().numpy()
    mean = likelihood.shift.numpy() + unit * last.bias.detach().numpy()
    noise = likelihood(torch.zeros(5)).stddev.detach().numpy()
    return mean, loadings @ loadings.T + np.diag(noise**2)


def test_the_log_density_is_the_closed_form(linear):
    X = factors(40, seed=1)[0]
    exact = multivariate_normal(*moments(linear)).logpdf(X)
    error = ppl_vae.evaluate(linear.model_, linear.guide_, torch.tensor(X), 2000).log_evidence_se.numpy()
    assert error.max() < 0.05
    assert (np.abs(linear.score_samples(X) - exact) < 4.5 * error).all()  # 40 rows
    assert abs(linear.score(X) - exact.mean()) < 4 * np.sqrt((error**2).sum()) / len(X)


def test_a_missing_entry_is_summed_out_of_the_log_density():
    X = factors(300)[0]
    X[np.random.RandomState(1).rand(*X.shape) < 0.2] = np.nan
    vae = VAETransformer(epochs=40, lr=0.02, batch_size=100, device="cpu", score_particles=4000, **LINEAR).fit(X)
    rows, (mean, covariance) = X[:40], moments(vae)
    seen = ~np.isnan(rows)
    exact = [
        multivariate_normal(mean[s], covariance[np.ix_(s, s)]).logpdf(x[s]) for x, s in zip(rows, seen, strict=True)
    ]
    error = ppl_vae.evaluate(vae.model_, vae.guide_, torch.tensor(rows), 4000).log_evidence_se.numpy()
    assert error.max() < 0.1
    assert (np.abs(vae.score_samples(rows) - exact) < 4.5 * error).all()
    assert np.isfinite(vae.transform(rows)).all()


def test_a_linear_vae_is_factor_analysis(linear):
    train, test = factors(500)[0], factors(400, seed=2)[0]
    analysis = FactorAnalysis(2).fit(train)
    assert linear.score(train) < analysis.score(train) + 1e-3  # the maximum of the likelihood
    assert linear.score(train) > analysis.score(train) - 0.05
    assert linear.score(test) > analysis.score(test) - 0.05
    covariance = moments(linear)[1]
    assert np.allclose(covariance, analysis.get_covariance(), atol=0.1 * covariance.diagonal().max())


def test_latents_go_back_to_rows_near_where_they_came_from(linear):
    X = factors(400, seed=3)[0]
    back = linear.inverse_transform(linear.transform(X))
    mean, covariance = moments(linear)
    noise = linear.model_.likelihood(torch.zeros(5)).variance.detach().numpy()
    exact = mean + (X - mean) @ np.linalg.solve(covariance, covariance - np.diag(noise))  # E[x | E[z | x]]
    assert ((back - exact).var(0) < 0.02 * covariance.diagonal()).all()
    assert (X - back).var(0).sum() < X.var(0).sum() / 5


def test_samples_have_the_moments_of_the_model(linear):
    drawn = linear.sample(20_000, random_state=0)
    mean, covariance = moments(linear)
    assert (np.abs(drawn.mean(0) - mean) < 4 * np.sqrt(covariance.diagonal() / len(drawn))).all()
    # the variance of a product of normals, Isserlis
    spread = np.sqrt((np.outer(covariance.diagonal(), covariance.diagonal()) + covariance**2) / len(drawn))
    assert (np.abs(np.cov(drawn.T) - covariance) < 4.5 * spread).all()  # 15 numbers


def test_numbers_far_from_zero_lose_nothing():
    X = factors(100)[0]
    near, far = (VAETransformer(**QUICK).fit(x) for x in (X, X + 1e8))
    assert np.allclose(near.transform(X), far.transform(X + 1e8), atol=1e-6)
    assert np.allclose(near.score_samples(X), far.score_samples(X + 1e8), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_computations_are_in_the_type_of_the_rows(dtype):
    X = factors(30)[0].astype(dtype)
    vae = VAETransformer(**QUICK).fit(X)
    assert {str(p.dtype) for p in vae.model_.parameters()} == {f"torch.{dtype}"}
    for found in (vae.transform(X), vae.inverse_transform(vae.transform(X)), vae.score_samples(X), vae.sample(2)):
        assert found.dtype == dtype


def test_probabilities_are_those_of_predict():
    X, codes = blobs(3)
    found = SemiSupervisedVAEClassifier(**QUICK).fit(X, codes)
    probs = ppl_vae.predict(found.model_, found.guide_, torch.tensor(X), "y").probs
    assert np.allclose(found.predict_proba(X), probs.numpy())


# where scikit-learn is used -------------------------------------------------------------------------------------------


def test_in_a_pipeline():
    X, y = blobs(2, 60)
    vae = VAETransformer(epochs=30, lr=0.02, batch_size=10, validation_fraction=0, **SMALL)
    pipeline = make_pipeline(StandardScaler(), vae, LogisticRegression()).fit(X, y)
    assert pipeline.score(X, y) == 1
    assert pipeline[:-1].get_feature_names_out().tolist() == ["vaetransformer0", "vaetransformer1"]
    assert np.isfinite(pipeline[:-1].score(X))


def test_a_grid_search_finds_the_number_of_latents():
    X = factors(240)[0]
    vae = VAETransformer(lr=0.05, epochs=15, score_particles=np.int64(50), **LINEAR)
    search = GridSearchCV(vae, {"latent_dim": np.array([1, 2])}, cv=2).fit(X)
    assert search.best_params_ == {"latent_dim": 2}
    assert search.best_estimator_.transform(X).shape == (240, 2)


def test_a_grid_search_over_the_parts_of_a_pipeline():
    X, y = blobs(2, 40)
    pipeline = make_pipeline(StandardScaler(), SemiSupervisedVAEClassifier(**{**SMALL, "lr": 0.05}))
    name = "semisupervisedvaeclassifier__"
    grid = {name + "guide": ["mean_field", FullRank], name + "prior": [None, "label_conditional"]}
    search = GridSearchCV(pipeline.set_params(**{name + "epochs": np.int64(8)}), grid, cv=2).fit(X, y)
    assert search.best_score_ > 0.9
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.slow
def test_a_grid_search_in_several_processes():
    X = factors(60)[0]
    one, two = (
        GridSearchCV(VAETransformer(**QUICK), {"latent_dim": [1, 2]}, cv=2, n_jobs=n).fit(X).cv_results_
        for n in (None, 2)
    )
    assert np.allclose(one["mean_test_score"], two["mean_test_score"])


def test_pandas_in_and_out():
    table = pd.DataFrame(factors(30)[0], columns=list("abcde"), index=np.arange(100, 130))
    vae = VAETransformer(**QUICK).set_output(transform="pandas")
    found = vae.fit_transform(table)
    assert found.columns.tolist() == ["vaetransformer0", "vaetransformer1"]
    assert found.index.tolist() == table.index.tolist()
    assert vae.feature_names_in_.tolist() == list("abcde")
    with pytest.raises(ValueError, match="feature names should match"):
        vae.transform(table[list("abced")])


@pytest.fixture(scope="module")
def people():
    generator = np.random.RandomState(0)
    size = generator.randn(120)
    table = pd.DataFrame(
        {
            "weight": np.exp(4 + 0.1 * size),
            "visits": generator.negative_binomial(1, 0.3, 120),
            "smoker": generator.rand(120) < 0.5,
            "town": np.where(size > 0, "north", "south").astype(object),
        }
    )
    table.loc[:9, "town"] = None
    table.loc[5:20, "weight"] = np.nan
    return table


def test_a_table_of_several_types(people):
    vae = VAETransformer(epochs=5, **SMALL).fit(people)
    assert repr(vae.model_.likelihood) == (
        "Columns(weight: LogNormal, visits: NegativeBinomial, smoker: Bernoulli, town: Categorical)"
    )
    Z = vae.transform(people)
    assert Z.shape == (120, 2)
    assert np.isfinite(vae.score_samples(people)).all()
    for made in (vae.inverse_transform(Z), vae.sample(120, random_state=0)):
        assert made.columns.tolist() == people.columns.tolist()
        assert set(made["town"]) <= {"north", "south"}
        assert (made["weight"] > 0).all()
    assert set(vae.sample(50, random_state=0)["smoker"]) == {0.0, 1.0}
    with pytest.raises(ValueError, match="unknown category of field 'town' 'nort'"):
        vae.transform(people.assign(town="nort"))


def test_a_table_of_several_types_is_classified(people):
    y = people["town"].to_numpy()
    rest = people.drop(columns="town")
    found = SemiSupervisedVAEClassifier(epochs=20, lr=0.02, **SMALL).fit(rest, y)
    known = people["town"].notna() & people["weight"].notna()
    assert found.score(rest[known], y[known]) > 0.9


def test_columns_of_numbers_are_fields_of_their_own_if_asked(people):
    numbers = people[["weight", "visits"]]
    vae = VAETransformer(likelihood=Columns(visits=Poisson()), **QUICK).fit(numbers)
    assert repr(vae.model_.likelihood) == "Columns(weight: LogNormal, visits: Poisson)"
    assert vae.inverse_transform(vae.transform(numbers)).shape == (120, 2)


# parameters, chance, copies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("guide", ["iaf", IAF, IAF(), lambda model: IAF(model, hidden=(8,))]),
        ("prior", ["mixture", Mixture, Mixture()]),
        ("likelihood", ["normal", Normal, Normal(), None]),
        ("bound", ["iwae", IWAE, IWAE()]),
        ("hidden", [(8,), [8], 8, np.array([8])]),
    ],
)
def test_names_classes_and_objects_mean_the_same(name, options):
    X = factors(20)[0]
    found = [VAETransformer(**{**QUICK, name: option}).fit(X).transform(X) for option in options]
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_options_of_a_guide_are_kept():
    X = factors(20)[0]
    vae = clone(VAETransformer(**QUICK, guide=IAF(flows=1))).fit(X)
    assert vae.guide_.flows == 1
    assert vae.guide_.hidden == (8,)


def test_a_likelihood_of_counts_takes_a_matrix_of_counts():
    X = np.random.RandomState(0).poisson(3.0, (40, 3))
    vae = VAETransformer(likelihood="poisson", **QUICK).fit(X)
    assert (vae.sample(20, random_state=0) % 1 == 0).all()
    with pytest.raises(ValueError, match="kind count got the value"):
        vae.transform(X + 0.5)


def numpys_own():
    return np.random.get_state()[1].copy()  # noqa: NPY002  the one that must not change


def test_the_same_random_state_gives_the_same_and_the_global_ones_are_left_alone():
    X = factors(30)[0]
    before = torch.get_rng_state(), numpys_own(), random.getstate()
    first, again = (VAETransformer(guide="iaf", **QUICK).fit(X) for _ in range(2))
    for method in ("transform", "score_samples"):
        assert np.array_equal(getattr(first, method)(X), getattr(again, method)(X))
    assert np.array_equal(first.sample(3, random_state=1), again.sample(3, random_state=1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(numpys_own(), before[1])
    assert random.getstate() == before[2]
    other = VAETransformer(**{**QUICK, "guide": "iaf", "random_state": 1}).fit(X)
    assert not np.allclose(first.transform(X), other.transform(X))


def test_a_random_state_object_goes_on():
    X = factors(30)[0]
    state = np.random.RandomState(0)
    first, second = (VAETransformer(**{**QUICK, "random_state": state}).fit(X).transform(X) for _ in range(2))
    assert not np.allclose(first, second)


def pickled(estimator):
    return pickle.loads(pickle.dumps(estimator))  # noqa: S301  as joblib does


@pytest.mark.parametrize(
    ("guide", "copied"),
    [
        ("mean_field", copy.deepcopy),
        ("full_rank", pickled),
        ("iaf", copy.deepcopy),
        ("spline", pickled),
        *[
            pytest.param(guide, copied, marks=pytest.mark.slow)
            for guide, copied in (
                ("mean_field", pickled),
                ("full_rank", copy.deepcopy),
                ("iaf", pickled),
                ("spline", copy.deepcopy),
            )
        ],
    ],
)
def test_copies_say_the_same_and_hold_no_training_rows(copied, guide):
    X = factors(50)[0]
    vae = VAETransformer(guide=guide, **QUICK).fit(X)
    again = copied(vae)
    for method in ("transform", "score_samples"):
        assert np.array_equal(getattr(vae, method)(X), getattr(again, method)(X))
    held = [v for v in vars(vae).values() if isinstance(v, np.ndarray | torch.Tensor | pd.DataFrame)]
    assert not held
    assert X[17].tobytes() not in pickle.dumps(vae)


def test_early_stopping_sees_rows_that_training_does_not():
    X = factors(50)[0]
    with_some = VAETransformer(validation_fraction=0.2, **QUICK).fit(X)
    assert "validation" in with_some.history_[-1]
    assert "validation" not in VAETransformer(validation_fraction=0, **QUICK).fit(X).history_[-1]


@pytest.mark.gpu
def test_a_pickled_estimator_opens_where_there_is_no_gpu():
    X = factors(50)[0]
    vae = VAETransformer(**{**QUICK, "device": "cuda", "guide": "iaf", "prior": "vamp_prior"}).fit(X)
    again = pickled(vae)
    assert {p.device.type for p in vae.model_.parameters()} == {"cuda"}
    assert {p.device.type for e in (again.model_, again.guide_) for p in e.parameters()} == {"cpu"}
    Z = vae.transform(X)
    assert np.allclose(again.inverse_transform(Z), vae.inverse_transform(Z))
    assert again.score_samples(X).shape == vae.score_samples(X).shape == (50,)
    assert vae.sample(3).shape == (3, 5)


# errors ---------------------------------------------------------------------------------------------------------------

X_FEW = factors(20)[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guide": "meen_field"}, "did you mean 'mean_field'"),
        ({"likelihood": "bernoulli"}, "kind binary got the value"),
        ({"likelihood": Columns()}, "pass a DataFrame"),
        ({"prior": "label_conditional"}, "needs the argument 'labels'"),
        ({"bound": "cubo"}, "upper bound"),
        ({"validation_fraction": 1.0}, "validation_fraction must be at least 0 and less than 1"),
        ({"latent_dim": 0}, "latent_dim must be a whole number of at least 1"),
        ({"epochs": 0}, "epochs must be a whole number"),
    ],
)
def test_what_is_wrong_with_a_transformer_is_said(options, words):
    with pytest.raises(ValueError, match=words):
        VAETransformer(**{**QUICK, **options}).fit(X_FEW)


def test_what_is_wrong_with_rows_is_said():
    vae = VAETransformer(**QUICK)
    with pytest.raises(NotFittedError):
        vae.sample()
    vae.fit(X_FEW)
    with pytest.raises(ValueError, match="never seen a missing entry"):
        vae.transform(np.where(X_FEW > 3, np.nan, X_FEW))
    with pytest.raises(ValueError, match="Z has 3 columns, but the model has latent_dim=2"):
        vae.inverse_transform(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="n_samples must be a whole number"):
        vae.sample(0)
    with pytest.raises(ValueError, match="infinity"):
        vae.transform(np.where(X_FEW > 3, np.inf, X_FEW))


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([1] * 20, "at least two classes, got 1 class"),
        ([-1, 1] * 10, "at least two classes, got 1 class"),
        ([-1] * 20, "at least two classes, got 0 class"),
        (np.array(["a", "b", -1, "b"] * 5), "dtype object"),
        (np.linspace(0, 1, 20), "Unknown label type: continuous"),
        ([0, 1], "inconsistent numbers of samples"),
    ],
)
def test_what_is_wrong_with_labels_is_said(y, words):
    with pytest.raises(ValueError, match=words):
        SemiSupervisedVAEClassifier(**QUICK).fit(X_FEW, y)


def test_a_label_weight_is_a_number_or_auto():
    with pytest.raises(ValueError, match="label_weight must be a number or 'auto'"):
        SemiSupervisedVAEClassifier(label_weight="much", **QUICK).fit(*blobs())


def test_a_label_share_is_for_rows_of_which_some_have_no_label():
    x, y = blobs()
    classifier = SemiSupervisedVAEClassifier(label_share=0.5, **QUICK)
    assert classifier.fit(x, y).score(x, y) == SemiSupervisedVAEClassifier(**QUICK).fit(x, y).score(x, y)
    few = np.where(np.arange(len(y)) % 5 == 0, y, -1)
    assert len(classifier.fit(x, few).predict(x)) == len(x)
    with pytest.raises(ValueError, match="label_share must be between 0 and 1"):
        SemiSupervisedVAEClassifier(label_share=2.0, **QUICK).fit(x, few)


# learning from few labels ---------------------------------------------------------------------------------------------


def few_labels(y, each, seed):
    kept = np.concatenate(
        [np.random.RandomState(seed).choice(np.flatnonzero(y == c), each, replace=False) for c in np.unique(y)]
    )
    some = np.full_like(y, -1)
    some[kept] = y[kept]
    return some


@pytest.mark.slow
def test_rows_without_labels_help():
    """Two moons, six labels: those alone do not say where the gap is."""
    gained = []
    for seed in range(3):
        X, y = make_moons(800, noise=0.08, random_state=seed)
        some = few_labels(y[:600], 3, seed)
        vae = SemiSupervisedVAEClassifier(2, hidden=(64,), epochs=120, lr=3e-3, random_state=seed, device="cpu")
        alone = LogisticRegression().fit(X[:600][some >= 0], some[some >= 0])
        gained.append(vae.fit(X[:600], some).score(X[600:], y[600:]) - alone.score(X[600:], y[600:]))
    assert np.mean(gained) > 0.05
    assert min(gained) > 0


@pytest.mark.slow
def test_rows_without_labels_help_with_digits():
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    order = np.random.RandomState(0).permutation(len(X))
    train, test = order[:1300], order[1300:]
    some = few_labels(y[train], 5, 0)
    vae = SemiSupervisedVAEClassifier(8, hidden=(128,), epochs=40, lr=2e-3, random_state=0, device="cpu")
    alone = LogisticRegression(max_iter=1000).fit(X[train][some >= 0], some[some >= 0])
    right, before = (e.predict(X[test]) == y[test] for e in (vae.fit(X[train], some), alone))
    gain = right.astype(float) - before
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))


def test_an_imputer_of_complete_rows_fills_as_well_as_a_regression():
    random = np.random.RandomState(0)
    z = random.randn(400, 1)
    X = (z @ np.array([[2.0, -1.0, 1.5]]) + 0.3 * random.randn(400, 3)).astype("float32")
    train, rows = X[:300], X[300:].copy()
    rows[:, 0] = np.nan
    filled = VAEImputer(1, hidden=(), epochs=20, random_state=0).fit(train).transform(rows)
    line = LinearRegression().fit(train[:, 1:], train[:, 0]).predict(rows[:, 1:])
    errors = [float(np.sqrt(np.square(f - X[300:, 0]).mean())) for f in (filled[:, 0], line)]
    assert errors[0] < 1.1 * errors[1]


def test_verbose_tells_of_the_training_and_nothing_else_does(capsys):
    x = np.random.default_rng(0).normal(size=(40, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        VAETransformer(1, hidden=(4,), epochs=1, random_state=0).fit(x)
        assert capsys.readouterr().err == ""
        VAETransformer(1, hidden=(4,), epochs=1, random_state=0, verbose=True).fit(x)
    assert "epoch 1/1" in capsys.readouterr().err
