"""Calibration: exact posteriors pass at the level of the tests, wrong ones are rejected and named."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import (
    CENTRES,
    COUNTS,
    COVARIANCE,
    F64,
    GUIDES,
    OFFSET,
    PROGRAMS,
    SIGMA,
    TRANSITION,
    WEIGHTS,
    X_HOLES,
    XM,
    XR,
    YM,
    W,
    X,
    beta_binomial,
    beta_binomial_exact,
    chain,
    fields_of,
    gamma_poisson,
    gamma_poisson_exact,
    linear_gaussian,
    linear_gaussian_exact,
    mixture,
    nothing,
    posterior_mean,
    repeated,
    styled,
    t,
)
from scipy import stats

import ppl_vae
from ppl_vae import UserError
from ppl_vae.diagnostics import calibration
from ppl_vae.diagnostics._calibration.quantities import DENSITY, DISTANCE
from ppl_vae.diagnostics._calibration.ranking import JOINT
from ppl_vae.diagnostics._calibration.ranks import ecdf_band, hommel, rank_tests, simes
from ppl_vae.diagnostics._calibration.reliability import reliability
from ppl_vae.errors import NoDensity
from ppl_vae.guides import MeanField, Point
from ppl_vae.models import M2, VAE, AutoEncoder
from ppl_vae.programs import toy

DEVIATION = COVARIANCE.diagonal().sqrt()


def normal_guide(scale=1.0, shift=0.0):
    """The posterior of the linear-Gaussian model, wrong in scale or moved by `shift` deviations."""

    def guide(x=None):
        with pyro.plate("data", len(x)):
            loc = posterior_mean(x) + shift * DEVIATION
            pyro.sample("z", dist.MultivariateNormal(loc, scale**2 * COVARIANCE))

    return guide


def rejected(found):
    return {test.latent for test in found.rejected}


# -- tests of ranks and of classes, without a model --------------------------------------------------------------


def plausible(rejections, repetitions, level):
    """Whether so many rejections are no surprise at this level, to either side."""
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], repetitions, level)
    return low <= rejections <= high


@pytest.mark.parametrize("runs", [300, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("simulations", "draws"), [(300, 19), (300, 99), (60, 9)])
def test_each_test_of_ranks_has_its_level(simulations, draws, runs):
    generator = np.random.default_rng(1)
    p = np.array([rank_tests(generator.integers(0, draws + 1, simulations), draws)[:3] for _ in range(runs)])
    for column in p.T:
        assert plausible((column < 0.05).sum(), runs, 0.05)
        assert plausible((column < 0.01).sum(), runs, 0.01)


def test_the_band_holds_whole_curves_as_often_as_it_says():
    generator, band = np.random.default_rng(2), ecdf_band(200, 19, level=0.9)
    ranks = generator.integers(0, 20, (3000, 200))
    curve = (ranks[:, :, None] < np.arange(1, 20)).mean(1) - band.z
    inside = ((curve > band.low - 1e-9) & (curve < band.high + 1e-9)).all(1).mean()
    assert abs(inside - 0.9) < 4 * np.sqrt(0.09 / 3000) + 0.01  # the statistic is discrete


def test_symmetric_ranks_that_are_too_spread_are_not_called_shifted():
    generator = np.random.default_rng(3)
    shifted = [
        rank_tests(stats.binom.rvs(99, generator.beta(0.3, 0.3, 300), random_state=generator), 99) for _ in range(400)
    ]
    assert plausible(sum(found.symmetric < 0.05 for found in shifted), 400, 0.05)
    assert all(found.spread < 1e-3 and found.width < 0.9 for found in shifted)


def test_a_test_is_rejected_where_simes_rejects_every_set_that_has_it():
    generator = np.random.default_rng(0)
    for n in (1, 2, 3, 6):
        p = generator.uniform(size=n) ** 2
        closed = np.zeros(n)
        for size in range(1, n + 1):
            for chosen in itertools.combinations(range(n), size):
                closed[[*chosen]] = np.maximum(closed[[*chosen]], simes(p[[*chosen]]))
        assert hommel(p) == pytest.approx(closed)
        assert simes(p) <= hommel(p).min() + 1e-12


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_tests_together_keep_their_level_also_where_they_depend_on_each_other(rho):
    generator = np.random.default_rng(1)
    common = generator.normal(size=(4000, 1))
    scores = rho**0.5 * common + (1 - rho) ** 0.5 * generator.normal(size=(4000, 15))
    p = 2 * stats.norm.sf(np.abs(scores))
    rejects = sum(simes(row) < 0.05 for row in p)
    assert plausible(rejects, 4000, 0.05) if rho == 0 else rejects < 0.05 * 4000


def test_several_weak_tests_reject_together_and_are_named():
    """None of them for itself: the k smallest with p_(k) <= 0.05 k / n are told."""
    p = [0.008, 0.009, 0.0095, 0.5, 0.9, 0.7]
    corrected = hommel(np.array(p))
    found = calibration(toy.model, toy.posterior, torch.zeros(10), simulations=40)
    weak = replace(
        found,
        tests=tuple(
            found.tests[0]._replace(latent="z", name="spread", p=v, corrected=c)
            for v, c in zip(p, corrected, strict=True)
        ),
    )
    assert weak.p_value == pytest.approx(0.019)
    assert not weak.calibrated
    assert [t.p for t in weak.rejected] == p[:3]
    assert weak.verdict.startswith("Not calibrated: z ")


def test_probabilities_of_classes_are_tested_exactly_where_they_are_extreme():
    """Rows of which the model is nearly sure: few errors, so that no normal approximation would do."""
    generator = np.random.default_rng(4)
    p = []
    for seed in range(120):
        probs = generator.dirichlet(np.full(3, 0.03), 100)
        probs = (probs + 1e-4) / (probs + 1e-4).sum(1, keepdims=True)
        labels = (generator.random((100, 1)) > probs.cumsum(1)).sum(1)
        found = reliability("y", probs, labels, replicates=199, seed=seed)
        p.append((found.p_confidence, found.p_frequency))
    for column in np.array(p).T:
        assert (column < 0.05).sum() <= stats.binom.ppf(1 - 1e-4, 120, 0.05)
        assert (column < 0.5).sum() >= stats.binom.ppf(1e-4, 120, 0.3)  # the test is not empty


def test_reliability_is_that_of_scikit_learn():
    from sklearn.calibration import calibration_curve

    generator = np.random.default_rng(5)
    p = generator.random(2000)
    truth = p**0.5 / (p**0.5 + (1 - p) ** 0.5)  # log-odds are twice as large as they should be
    labels = (generator.random(2000) < truth).astype(int)
    found = reliability("y", np.stack([1 - p, p], 1), labels, replicates=99)
    top, right = np.maximum(p, 1 - p), labels == (p > 0.5)
    frequency, confidence = calibration_curve(right, top, n_bins=10)
    seen = found.counts > 0
    assert found.frequency[seen] == pytest.approx(frequency)
    assert found.confidence[seen] == pytest.approx(confidence)
    error = (found.counts[seen] * abs(frequency - confidence)).sum() / 2000
    assert found.ece == pytest.approx(error)
    assert found.ece > 2 * found.ece_expected
    assert found.p_confidence < 0.05
    error = (truth * (1 - truth) * np.log(p / (1 - p)) ** 2).sum() ** -0.5
    assert abs(1 / found.sharpness - 0.5) < 4 * error


# -- exact posteriors ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_exact_posterior_passes_in_95_of_100_runs():
    runs = [
        calibration(linear_gaussian, linear_gaussian_exact, {"x": X}, simulations=120, draws=19, seed=seed)
        for seed in range(200)
    ]
    failures = sum(not found.calibrated for found in runs)
    assert failures <= stats.binom.ppf(0.999, 200, 0.05)
    smallest = np.array([min(test.p for test in found.tests) for found in runs])
    assert (smallest < 0.3).mean() > 0.5  # of nine tests; a test that never came near would have no power
    coverage = torch.stack([found.coverage[:2] for found in runs])
    gap = (coverage.mean(0) - t([0.5, 0.8, 0.9, 0.95])).abs()
    assert bool((gap < 4 * runs[0].coverage_se[:2] / 200**0.5).all())


def mixture_posterior(sharpness=1.0):
    def guide(x=None):
        joint = WEIGHTS.log() + dist.Normal(CENTRES, 0.8).log_prob(x.unsqueeze(-1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Categorical(logits=sharpness * joint))

    return guide


def styled_posterior(x=None):
    with pyro.plate("data", len(x)):
        joint = WEIGHTS.log() + dist.Normal(CENTRES, 1.36**0.5).log_prob(x.unsqueeze(-1))
        y = pyro.sample("y", dist.Categorical(logits=joint))
        pyro.sample("z", dist.Normal((x - CENTRES[y]) / 1.36, (0.36 / 1.36) ** 0.5))


def chain_posterior(x=None):
    a, b = torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")
    prior = t([0.4, 0.6]).log()[a] + TRANSITION[a, b].log()
    joint = prior + dist.Normal(CENTRES[b] + 0.5 * a, 1.0).log_prob(x.reshape(-1, 1, 1))  # [row, a, b]
    with pyro.plate("data", len(x)):
        first = pyro.sample("a", dist.Categorical(logits=joint.logsumexp(-1)))
        pyro.sample("b", dist.Categorical(logits=joint[torch.arange(len(x)), first]))


def posterior_with_holes(x=None):
    seen = ~torch.isnan(x)
    weighted = W * seen.unsqueeze(-2)
    covariance = torch.linalg.inv(torch.eye(2, dtype=F64) + weighted @ W.T / SIGMA**2)
    mean = covariance @ (weighted @ (x.nan_to_num() - OFFSET).unsqueeze(-1)) / SIGMA**2
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(mean.squeeze(-1), covariance))


def conditioned(x=None, c=None):
    """p(z | c) and p(x | z, c) depend on a condition; x is observed as two columns of one field."""
    with pyro.plate("data", len(c)):
        z = pyro.sample("z", dist.Normal(c, 1.0))
        pyro.sample("left", dist.Normal(z, 1.0), obs=x[..., 0])
        pyro.sample("right", dist.Normal(z + 2 * c, 1.0), obs=x[..., 1])


def conditioned_posterior(x=None, c=None):
    with pyro.plate("data", len(c)):
        pyro.sample("z", dist.Normal((c + x[..., 0] + x[..., 1] - 2 * c) / 3, 3**-0.5))


def turned(x=None):
    """Rows at the second dim from the right, fields observed as a transposed view."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        with pyro.plate("measurement", 3, dim=-2):
            pyro.sample("x", dist.Normal(z, 0.5), obs=x.T)


def turned_posterior(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.sum(-1) / 3.25, (0.25 / 3.25) ** 0.5))


EXACT = {
    "linear-Gaussian": (linear_gaussian, linear_gaussian_exact, {"x": X}),
    "with holes": (linear_gaussian, posterior_with_holes, {"x": X_HOLES}),
    "Beta-Binomial": (beta_binomial, beta_binomial_exact, {"x": COUNTS}),
    "Gamma-Poisson": (gamma_poisson, gamma_poisson_exact, {"x": COUNTS}),
    "mixture": (mixture, mixture_posterior(), {"x": XM}),
    "mixture, some labels": (mixture, mixture_posterior(), {"x": XM, "y": YM}),
    "style and label": (styled, styled_posterior, {"x": XM}),
    "style, some labels": (styled, styled_posterior, {"x": XM, "y": YM}),
    "chain": (chain, chain_posterior, {"x": XM}),
    "condition": (
        conditioned,
        conditioned_posterior,
        {"x": torch.zeros(9, 2, dtype=F64), "c": torch.arange(9.0).double()},
    ),
    "turned": (turned, turned_posterior, {"x": XR}),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_posteriors_of_every_kind_pass(name):
    model, guide, data = EXACT[name]
    for seed in (0, 1):  # one of 400 passes neither
        found = calibration(model, guide, data, simulations=300, draws=39, seed=seed)
        if found.calibrated:
            break
    assert found.calibrated, found.verdict
    assert "Calibrated" in found.verdict


@pytest.mark.parametrize("name", ["mixture, some labels", "style, some labels"])
def test_a_label_that_was_observed_is_no_latent_of_its_row(name):
    model, guide, data = EXACT[name]
    found = calibration(model, guide, data, simulations=500, draws=9)
    assert found.classes["y"].rows == 200  # two of five
    known = {**data, "y": YM.clamp(min=0)}
    if model is mixture:
        with pytest.raises(UserError, match="nothing to calibrate: y is observed in all rows"):
            calibration(model, guide, known, simulations=50, draws=9)
    else:
        found = calibration(model, guide, known, simulations=50, draws=9)
        assert found.names[:2] == ("z", JOINT)
        assert not found.classes
        assert "y is observed in all rows" in found.notes[0]


# -- wrong ones ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "word"), [(0.8, "narrow"), (1.2, "wide")])
def test_a_scale_that_is_off_by_a_fifth_is_rejected(scale, word):
    for seed in range(2):
        found = calibration(linear_gaussian, normal_guide(scale), {"x": X}, seed=seed)
        assert rejected(found) >= {"z[0]", "z[1]"}
        assert f"too {word}" in found.verdict
        assert "shifted" not in found.verdict
        assert abs(found.width["z[0]"] - scale) < 0.1
        inside = found.coverage[:2] - t(found.levels)
        assert bool((inside.sign() == (1 if scale > 1 else -1)).all())


@pytest.mark.parametrize(("shift", "word"), [(0.25, "too high"), (-0.25, "too low")])
def test_a_shift_is_rejected_and_named(shift, word):
    found = calibration(linear_gaussian, normal_guide(shift=shift), {"x": X})
    assert f"z[0] and z[1] shifted, {word} by about" in found.verdict.replace("z[1] and z[0]", "z[0] and z[1]")
    assert abs(found.shift["z[0]"] + shift) < 0.12
    assert "narrow" not in found.verdict


def test_an_overconfident_classifier_is_rejected():
    found = calibration(mixture, mixture_posterior(1.5), {"x": XM}, draws=19)
    assert "y overconfident, log-odds about 1." in found.verdict
    assert abs(found.classes["y"].sharpness - 1.5) < 0.25
    unsure = calibration(mixture, mixture_posterior(0.6), {"x": XM}, draws=19)
    assert "y too unsure" in unsure.verdict


def test_wrong_shares_of_classes_are_rejected():
    def guide(x=None):
        joint = WEIGHTS.flip(0).log() + dist.Normal(CENTRES, 0.8).log_prob(x.unsqueeze(-1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Categorical(logits=joint))

    found = calibration(mixture, guide, {"x": XM}, draws=19)
    assert found.classes["y"].p_frequency < 1e-3
    assert not found.calibrated


CLOSE = torch.linalg.inv(torch.eye(2, dtype=F64) + t([[4.0, 3.6], [3.6, 4.0]]))  # correlation -0.72


def twin(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        pyro.sample("x", dist.MultivariateNormal(z, precision_matrix=t([[4.0, 3.6], [3.6, 4.0]])), obs=x)


def twin_guide(kind):
    precision = torch.linalg.inv(CLOSE)

    def guide(x=None):
        mean = (x @ t([[4.0, 3.6], [3.6, 4.0]])) @ CLOSE
        with pyro.plate("data", len(x)):
            if kind == "exact":
                pyro.sample("z", dist.MultivariateNormal(mean, CLOSE))
            else:
                scale = precision.diagonal().rsqrt() if kind == "best" else CLOSE.diagonal().sqrt()
                pyro.sample("z", dist.Normal(mean, scale).to_event(1))

    return guide


def test_independence_where_the_posterior_has_none_is_flagged():
    rows = {"x": torch.zeros(4, 2, dtype=F64)}
    assert calibration(twin, twin_guide("exact"), rows).calibrated
    best = calibration(twin, twin_guide("best"), rows)  # what the ELBO prefers: too narrow in every entry
    assert rejected(best) >= {"z[0]", "z[1]"}
    assert "too narrow" in best.verdict
    margins = calibration(twin, twin_guide("margins"), rows)  # right in every entry, wrong together
    assert rejected(margins) >= {JOINT, DENSITY}
    assert not rejected(margins) & {"z[0]", "z[1]"}
    assert "not all together" in margins.verdict


# -- every kind of latent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PROGRAMS.keys() - {"shared by all rows", "items"}))
def test_latents_of_every_kind_are_ranked(name):
    model, fields = PROGRAMS[name], fields_of(PROGRAMS[name])
    found = calibration(model, MeanField(model, fields, hidden=(4,)), fields, simulations=20, draws=9)
    assert JOINT in found.names
    assert len(found.names) + len(found.classes) > 1
    assert bool(((found.ranks >= 0) & (found.ranks <= 9)).all())
    assert json.loads(json.dumps(found.summary()))["simulations"] == 20


def test_names_say_which_entry():
    def names(name):
        fields = fields_of(PROGRAMS[name])
        guide = MeanField(PROGRAMS[name], fields, hidden=(4,))
        found = calibration(PROGRAMS[name], guide, fields, simulations=20, draws=9)
        return (*(n for n in found.names if n not in found.quantities), *found.classes)

    assert names("real") == ("z",)
    assert names("matrix") == tuple(f"z[{i}, {j}]" for i in range(2) for j in range(3))
    assert names("flags within rows") == ("z", "flag[0]", "flag[1]", "flag[2]")
    assert len(names("correlations")) == 5  # the entries above the diagonal, and the first, are constants


@pytest.mark.parametrize("name", ["Planar", "IAF", "FullRank"])
def test_no_inverse_is_needed(name):
    model, fields = PROGRAMS["two layers"], fields_of(PROGRAMS["two layers"])
    found = calibration(model, GUIDES[name](model, fields, hidden=(4,)), fields, simulations=20, draws=9)
    assert found.names[:4] == ("top[0]", "top[1]", "z", JOINT)


# -- as a user meets it --------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_ranks_and_nothing_else_changes():
    data = ppl_vae.load("digits", labels=50)
    model = M2(data, latent_dim=2, hidden=(8,))
    guide = MeanField(model, hidden=(8,)).train()
    state = torch.get_rng_state()
    first, again, other = (calibration(model, guide, data, simulations=40, draws=9, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.ranks, again.ranks)
    assert not torch.equal(first.ranks, other.ranks)
    assert torch.equal(state, torch.get_rng_state())
    assert guide.training
    assert [*first.classes] == ["y"]
    axes = first.figure().axes
    assert [ax.get_title("left") for ax in axes] == [
        "ranks of latents",
        "ranks of functions of all latents",
        "coverage",
        "classes",
    ]
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in axes)


def test_memory_of_a_pass_changes_nothing_but_the_draws(monkeypatch):
    monkeypatch.setattr(ppl_vae.evaluation.passes, "FLOATS_AT_ONCE", 3000)  # many passes, over rows and over draws
    assert calibration(linear_gaussian, linear_gaussian_exact, {"x": X}, simulations=200, draws=19).calibrated
    narrow = calibration(linear_gaussian, normal_guide(0.6), {"x": X}, simulations=200, draws=19)
    assert "too narrow" in narrow.verdict


def computed(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x.sum(-1) / 2)


def computed_guide(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.sum(-1) / 4, 1.0))


@pytest.mark.parametrize(
    ("model", "guide", "data", "words"),
    [
        (computed, computed_guide, X, "site 'x' observes values that are no field"),
        (mixture, nothing, XM, "nothing to calibrate"),
    ],
    ids=["computed", "no latents"],
)
def test_what_cannot_be_calibrated_is_refused(model, guide, data, words):
    with pytest.raises(UserError, match=words):
        calibration(model, guide, data)


@pytest.mark.parametrize("wrong", [{"simulations": 5}, {"draws": 2}, {"draws": 1.5}])
def test_counts_are_checked(wrong):
    with pytest.raises(UserError, match="must be a whole number"):
        calibration(linear_gaussian, linear_gaussian_exact, X, **wrong)


def test_points_are_refused():
    data = ppl_vae.load("digits")
    with pytest.raises(NoDensity, match="is a point"):
        calibration(*(lambda m: (m, Point(m)))(AutoEncoder(data, latent_dim=2)), data)
    model = VAE(data, latent_dim=2)
    with pytest.raises(NoDensity, match="is a point"):
        calibration(model, Point(model), data)


def repeated_guide_flags(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.7 * x.mean(-1), 0.6))


def test_a_latent_of_the_model_alone_is_summed_out_and_named():
    found = calibration(repeated, repeated_guide_flags, XR, simulations=50, draws=9)
    assert found.notes == ("flag is summed out in the model and is no part of the guide",)
    assert bool(torch.isfinite(found.coverage).all())


# -- quantities of all latents -------------------------------------------------------------------------------------


def test_a_guide_that_is_the_prior_is_right_in_every_entry_and_found_out_by_points_that_know_the_row():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2, dtype=F64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2, dtype=F64), 1.0).to_event(1))

    found = calibration(model, prior, {"x": torch.zeros(4, 2, dtype=F64)})
    assert rejected(found) == {JOINT, DISTANCE}
    assert "not all together" in found.verdict


def test_a_quantity_of_ones_own_is_ranked():
    rows = {"x": torch.zeros(4, 2, dtype=F64)}
    radius = {"difference": lambda z, x: (z["z"][..., 0] - z["z"][..., 1]).abs()}
    assert calibration(twin, twin_guide("exact"), rows, quantities=radius).calibrated
    margins = calibration(twin, twin_guide("margins"), rows, quantities=radius)
    assert "difference" in rejected(margins)


def test_regions_of_highest_density_hold_as_many_truths_as_they_say():
    rows = {"x": torch.zeros(4, 2, dtype=F64)}
    exact = calibration(twin, twin_guide("exact"), rows, simulations=2000)
    levels = torch.tensor(exact.levels, dtype=F64)
    assert ((exact.regions - levels).abs() < 4 * (levels * (1 - levels) / 2000).sqrt()).all()
    narrow = calibration(twin, twin_guide("best"), rows)
    assert (narrow.regions < levels - 0.05).all()


@pytest.mark.parametrize("wrong", [3, {"a": 1}, {1: len}, {"sum": lambda z, x: z["z"].sum()}])
def test_quantities_that_are_none_are_refused(wrong):
    with pytest.raises(UserError, match=r"quantit"):
        calibration(twin, twin_guide("exact"), {"x": torch.zeros(4, 2, dtype=F64)}, simulations=30, quantities=wrong)


def test_the_log_gamma_statistic_is_that_of_its_paper():
    """log gamma = log 2 min_z min(F(R_z), 1 - F(R_z - 1)), Modrak et al. 2023, less its 5 % point."""
    from scipy.stats import binom

    from ppl_vae.diagnostics._calibration.ranks import _null, rank_tests

    for seed in range(20):
        ranks = np.random.default_rng(seed).binomial(19, np.random.default_rng(seed).uniform(0.2, 0.8, 200))
        ranks = ranks if seed % 2 else np.random.default_rng(seed).integers(0, 20, 200)
        found = rank_tests(ranks, 19)
        z = np.arange(1, 20) / 20
        below = np.array([(ranks < i).sum() for i in range(1, 20)])
        gamma = 2 * min(binom.cdf(below, 200, z).min(), binom.sf(below - 1, 200, z).min())
        assert found.log_gamma == pytest.approx(np.log(gamma / np.quantile(_null(200, 19), 0.05)))
        assert (found.log_gamma < 0) == (found.uniform < 0.05)
