"""Model criticism: tests keep their level and have power, and agree with closed forms and with other libraries."""

import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import (
    OFFSET,
    PROBLEMS,
    SIGMA,
    XH,
    W,
    hierarchy,
    hierarchy_guide,
    linear_gaussian,
    linear_gaussian_exact,
    linear_gaussian_holes,
    linear_gaussian_off,
    t,
)
from scipy import stats
from sklearn.linear_model import LogisticRegression

import ppl_vae
from ppl_vae.diagnostics import (
    classifier_two_sample,
    loo_pit,
    mmd,
    predictive_check,
    sliced_wasserstein,
    two_sample,
)
from ppl_vae.diagnostics._common.features import matrices
from ppl_vae.diagnostics._criticism.cdf import at_most
from ppl_vae.diagnostics._criticism.leave_one_out import LooPIT
from ppl_vae.diagnostics._criticism.predictive_checks import PredictiveCheck
from ppl_vae.diagnostics._criticism.uniformity import uniformity
from ppl_vae.errors import NoDensity, ProgramError, UserError
from ppl_vae.guides import MeanField, Point
from ppl_vae.likelihoods.discretised import LogisticLevels
from ppl_vae.models import CVAE, M2, VAE, AutoEncoder
from ppl_vae.plots.drawing import to_png_bytes

F64 = torch.float64
NORMAL = dist.Normal(t(0.0), t(1.0))


def gaussian_rows(n, seed, noise=1.0):
    """Rows of the linear-Gaussian problem, whose likelihood may be off by a factor."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=g, dtype=F64)
    return z @ W + OFFSET + noise * SIGMA * torch.randn(n, 4, generator=g, dtype=F64)


def most_by_chance(runs, level=0.05):
    """A test that keeps its level rejects in no more runs than this, but once in 10,000 times."""
    return stats.binom.ppf(1 - 1e-4, runs, level)


# two samples ----------------------------------------------------------------------------------------------------------


def pair_of(seed, m, n, holes):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(m, 3, generator=g), torch.randn(n, 3, generator=g)
    if holes:  # the same entries are missing in both rows of a pair
        gone = torch.rand(m, 3, generator=g) < 0.4
        a, b = a.masked_fill(gone, 0), b.masked_fill(gone, 0)
    return a, b


TESTS = {
    "mmd": lambda a, b, **o: mmd(a, b, permutations=59, **o),
    "c2st": lambda a, b, **o: classifier_two_sample(a, b, classifier=LogisticRegression(), **o),
    "sliced_wasserstein": lambda a, b, **o: sliced_wasserstein(a, b, directions=15, permutations=59, **o),
}


@pytest.mark.parametrize("runs", [40, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", TESTS)
def test_two_sample_tests_keep_their_level_and_have_power(name, paired, runs):
    n = 40
    null = [
        TESTS[name](*pair_of(r, n, n if paired else 30, paired), paired=paired, seed=r).p_value for r in range(runs)
    ]
    assert sum(p <= 0.05 for p in null) <= most_by_chance(runs)
    assert sum(p <= 0.5 for p in null) <= most_by_chance(runs, 0.5)
    found = []
    for r in range(runs // 5):
        a, b = pair_of(r, 60, 60 if paired else 50, paired)
        found.append(TESTS[name](a, b + 1.0, paired=paired, seed=r).p_value)
    assert np.mean(np.array(found) <= 0.05) >= 0.9


def test_mmd_is_the_u_statistic_of_its_definition():
    a, b = pair_of(0, 7, 5, False)

    def k(u, v):
        return math.exp(-float((u - v).square().sum()) / (2 * 1.3**2))

    within = [np.mean([k(u, v) for i, u in enumerate(x) for j, v in enumerate(x) if i != j]) for x in (a, b)]
    across = np.mean([k(u, v) for u in a for v in b])
    assert mmd(a, b, bandwidth=1.3).statistic == pytest.approx(sum(within) - 2 * across, abs=1e-6)
    apart = np.mean([k(a[i], b[j]) for i in range(5) for j in range(5) if i != j])
    within = [np.mean([k(u, v) for i, u in enumerate(x) for j, v in enumerate(x) if i != j]) for x in (a[:5], b)]
    assert mmd(a[:5], b, bandwidth=1.3, paired=True).statistic == pytest.approx(sum(within) - 2 * apart, abs=1e-6)


def test_the_wasserstein_distance_is_that_of_scipy():
    a, b = pair_of(1, 9, 6, False)
    found = sliced_wasserstein(a[:, :1], b[:, :1], directions=3)
    assert found.statistic == pytest.approx(stats.wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy()), abs=1e-6)


class Threshold:
    """A classifier that says b where the first feature is positive, by how much."""

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        p = 1 / (1 + np.exp(-x[:, :1]))
        return np.concatenate([1 - p, p], 1)


def test_the_classifier_tests_are_fishers_and_the_binomial():
    a, b = pair_of(2, 20, 20, False)
    b = b + 0.7
    both = classifier_two_sample(a, b, classifier=Threshold(), paired=True, seed=3)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))[10:]
    right = int((b[order, 0] > a[order, 0]).sum())
    assert both.statistic == right / 10
    assert both.p_value == pytest.approx(stats.binomtest(right, 10, alternative="greater").pvalue)
    single = classifier_two_sample(a, b, classifier=Threshold(), seed=3)
    g = torch.Generator().manual_seed(3)
    i, j = (torch.randperm(20, generator=g)[10:] for _ in range(2))
    table = [
        [int((b[j, 0] > 0).sum()), int((b[j, 0] <= 0).sum())],
        [int((a[i, 0] > 0).sum()), int((a[i, 0] <= 0).sum())],
    ]
    assert single.statistic == (table[0][0] + table[1][1]) / 20
    assert single.p_value == pytest.approx(stats.fisher_exact(table, alternative="greater")[1])


def test_a_right_model_passes_and_a_wrong_scale_is_found():
    rows = {"x": gaussian_rows(120, 1)}
    assert two_sample(linear_gaussian, rows, permutations=99).p_value > 0.05
    wrong = two_sample(linear_gaussian, {"x": gaussian_rows(120, 1, noise=2.0)}, permutations=99)
    assert wrong.p_value < 0.05
    assert "Samples can be told" in wrong.verdict
    assert to_png_bytes(wrong.figure())


def test_samples_with_the_holes_of_their_rows_keep_the_level():
    runs, rejected = 40, 0
    for r in range(runs):
        x = gaussian_rows(40, r)
        x[torch.rand(x.shape, generator=torch.Generator().manual_seed(r)) < 0.3] = torch.nan
        found = two_sample(linear_gaussian, {"x": x}, ("mmd", "sliced_wasserstein"), permutations=59, seed=r)
        assert found.missing
        rejected += found.p_value <= 0.05
    assert rejected <= most_by_chance(runs)


def mixed_table(n=60):
    g = np.random.default_rng(0)
    age, grade = g.normal(40, 10, n), g.choice(["a", "b", "c"], n)
    age[:5] = np.nan
    return pd.DataFrame({"age": age, "grade": grade, "visits": g.poisson(2, n).astype(float)})


def test_tables_of_mixed_columns_with_holes_become_one_matrix():
    data = ppl_vae.load(mixed_table(), missing="allow")
    model = VAE(data, latent_dim=2, hidden=(8,))
    found = two_sample(model, data, permutations=19)
    assert (found.fields, found.features) == (("age", "grade", "visits"), 1 + 1 + 3 + 1)  # with an indicator for age
    a, b = matrices(tuple(data.schema), data.train.batch(), data.test.batch(), like=0)
    assert torch.isfinite(torch.cat([a, b])).all()
    assert a.shape[1] == b.shape[1] == 6
    holes = torch.isnan(data.train["age"])
    torch.testing.assert_close(a[~holes, 0].std(correction=0), torch.tensor(1.0))
    assert torch.equal(a[:, 1], holes.float())


def test_conditions_of_samples_are_those_of_their_rows():
    data = ppl_vae.load("digits")
    model = CVAE(data, given="y", latent_dim=2, hidden=(8,))
    assert two_sample(model, data, "mmd", samples=60, permutations=39).fields == ("x",)
    few = ppl_vae.load("digits", labels=50)  # labels of test rows are hidden: there is nothing to compare them with
    assert two_sample(M2(few, latent_dim=2, hidden=(8,)), few, "mmd", samples=60, permutations=19).fields == ("x",)


def test_two_samples_are_refused_by_name():
    with pytest.raises(UserError, match="mean is shared by all rows"):
        two_sample(hierarchy, {"x": XH})
    with pytest.raises(UserError, match="unknown test 'mmmd': did you mean 'mmd'"):
        two_sample(linear_gaussian, {"x": gaussian_rows(9, 0)}, "mmmd")
    with pytest.raises(UserError, match="expected 4 rows or more"):
        two_sample(linear_gaussian, {"x": gaussian_rows(3, 0)})
    with pytest.raises(UserError, match="one width"):
        mmd(torch.zeros(5, 2), torch.zeros(5, 3))
    with pytest.raises(UserError, match="finite"):
        sliced_wasserstein(torch.full((5, 2), torch.nan), torch.zeros(5, 2))
    model = AutoEncoder(ppl_vae.load("digits"), latent_dim=2, hidden=(8,))
    with pytest.raises(NoDensity, match="improper"):
        two_sample(model, model.data)
    with pytest.raises(NoDensity, match="point"):
        predictive_check(model, Point(model), model.data, kind="posterior")


# predictive checks ----------------------------------------------------------------------------------------------------


def test_p_values_count_the_data_among_the_replicas_and_ties_in_both_tails():
    made = torch.arange(1.0, 10.0, dtype=F64).unsqueeze(1).repeat(1, 3)
    found = PredictiveCheck(("a", "b", "c"), t([10.0, 5.0, 1.0]), made, "prior", 4)
    assert found.p_values.tolist() == pytest.approx([2 / 10, 1.0, 4 / 10])
    one = PredictiveCheck(("a",), t([10.0]), made[:, :1], "prior", 4)
    assert one.p_value == pytest.approx(2 / 10)  # 1 is as far from the mean, 5.5, as 10
    every = np.concatenate([[[10.0, 5.0, 1.0]], made.numpy()])
    off = np.abs(every - every.mean(0)) / every.std(0)
    assert found.adjusted.tolist() == pytest.approx([np.mean(off.max(1) >= o - 1e-9) for o in off[0]])


def means_and_spreads():
    return {"mean": torch.mean, "sd": torch.std, "largest": torch.max}


def test_checks_against_new_rows_keep_their_level():
    runs, each, together = 20, np.zeros(3), 0
    for r in range(runs):
        rows = {"x": gaussian_rows(20, r)}
        found = predictive_check(linear_gaussian, linear_gaussian_off, rows, means_and_spreads(), draws=39, seed=r)
        each += (found.p_values <= 0.05).numpy()
        together += found.p_value <= 0.05
    assert max(*each, together) <= most_by_chance(runs)


def test_checks_against_replicas_of_the_same_rows_are_conservative():
    p = []
    for r in range(40):
        rows = {"x": gaussian_rows(20, r)}
        found = predictive_check(
            linear_gaussian, linear_gaussian_exact, rows, {"mean": torch.mean}, draws=39, kind="posterior", seed=r
        )
        p.append(float(found.p_values[0]))
    assert np.mean(np.array(p) <= 0.3) < 0.3 - 2 * math.sqrt(0.3 * 0.7 / 40)  # a uniform p would be there in 30 %


@pytest.mark.parametrize("kind", [pytest.param("prior", marks=pytest.mark.slow), "posterior"])
def test_checks_find_a_wrong_scale_and_say_where(kind):
    rows = {"x": gaussian_rows(200, 3, noise=2.0)}
    found = predictive_check(linear_gaussian, linear_gaussian_exact, rows, draws=99, kind=kind)
    assert found.p_value <= 0.05
    assert " sd is " in found.verdict
    off = {name for name, p in zip(found.names, found.adjusted, strict=True) if p <= 0.05}
    assert {f"x_{j} sd" for j in range(4)} & off
    assert not {f"x_{j} mean" for j in range(4)} & off
    assert to_png_bytes(found.figure())


def test_replicas_have_the_moments_of_the_model():
    """From the prior N(b, W'W + s^2); from the exact posterior, those of p(x_rep | x_i), averaged over rows."""
    x = gaussian_rows(50, 5)
    rows = {"x": x}
    statistics = {"first": lambda v: v[:, 0].mean(), "product": lambda v: (v[:, 0] * v[:, 3]).mean()}
    prior = predictive_check(linear_gaussian, linear_gaussian_exact, rows, statistics, draws=400)
    covariance = W.T @ W + SIGMA**2 * torch.eye(4, dtype=F64)
    exact = t([OFFSET[0], covariance[0, 3] + OFFSET[0] * OFFSET[3]])
    error = prior.replicated.std(0) / 20
    assert ((prior.replicated.mean(0) - exact).abs() < 4 * error).all()
    precision = torch.eye(2, dtype=F64) + W @ W.T / SIGMA**2
    mean = (x - OFFSET) @ W.T @ torch.linalg.inv(precision) / SIGMA**2
    at, spread = mean @ W + OFFSET, W.T @ torch.linalg.inv(precision) @ W
    exact = torch.stack([at[:, 0].mean(), (at[:, 0] * at[:, 3]).mean() + spread[0, 3]])
    posterior = predictive_check(linear_gaussian, linear_gaussian_exact, rows, statistics, draws=400, kind="posterior")
    error = posterior.replicated.std(0) / 20
    assert ((posterior.replicated.mean(0) - exact).abs() < 4 * error).all()


def test_usual_statistics_go_by_the_kinds_of_the_fields():
    data = ppl_vae.load(mixed_table(), missing="allow")
    model = VAE(data, latent_dim=2, hidden=(8,))
    found = predictive_check(model, MeanField(model, hidden=(8,)), data, draws=9, kind="posterior")
    assert {"age mean", "age skewness", "grade share of b", "visits share of zeros", "age, visits correlation"} <= {
        *found.names
    }
    assert not {"grade mean", "age share of zeros"} & {*found.names}
    digits = ppl_vae.load("digits")
    picture = VAE(digits, latent_dim=2, hidden=(8,))
    found = predictive_check(picture, MeanField(picture, hidden=(8,)), digits.test.rows(slice(0, 50)), draws=9)
    x = digits.test["x"][:50].double()
    values = dict(zip(found.names, found.observed.tolist(), strict=True))
    assert values["x pixel mean"] == pytest.approx(float(x.mean()))
    assert values["x ink sd"] == pytest.approx(float(x.sum((1, 2)).std()), rel=1e-5)
    assert values["x share of zeros"] == pytest.approx(float((x == 0).double().mean()))
    sides = [(x[:, :, 1:], x[:, :, :-1]), (x[:, 1:], x[:, :-1])]
    a, b = (torch.cat([pair[k].flatten() for pair in sides]).numpy() for k in (0, 1))
    assert values["x neighbour correlation"] == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_checks_are_refused_by_name():
    rows = {"x": gaussian_rows(9, 0)}
    for arguments, words in (
        ({"kind": "both"}, "unknown kind of replicas 'both'"),
        ({"draws": 1}, "draws must be"),
        ({"statistics": {"a": lambda v: v}}, "statistic 'a' expects one finite number, got shape"),
        ({"statistics": {"a": lambda v: v.mean() / 0 * 0}}, "statistic 'a' expects one finite number, got nan"),
        ({"statistics": {"a": lambda v: v @ v}}, "statistic 'a' fails on the rows"),
        ({"statistics": {"z": {"a": torch.mean}}}, "unknown field that the model makes 'z'"),
    ):
        with pytest.raises(UserError, match=words):
            predictive_check(linear_gaussian, linear_gaussian_off, rows, **arguments)
    with pytest.raises(UserError, match="mean is shared by all rows"):
        predictive_check(hierarchy, hierarchy_guide, {"x": XH})


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_every_kind_of_program_is_criticised(problem):
    state = torch.get_rng_state()
    rows = problem.tiled(4)
    for kind in ("prior", "posterior"):
        found = predictive_check(problem.model, problem.guide, rows, draws=5, kind=kind)
        assert torch.isfinite(found.replicated).all()
        again = predictive_check(problem.model, problem.guide, rows, draws=5, kind=kind)
        assert torch.equal(found.replicated, again.replicated)
    pit = loo_pit(problem.model, problem.guide, rows, particles=50)
    assert torch.equal(pit.u.isnan(), rows["x"].isnan())
    assert two_sample(problem.model, rows, "mmd", permutations=9).rows == len(rows["x"])
    assert torch.equal(torch.get_rng_state(), state)


# LOO-PIT --------------------------------------------------------------------------------------------------------------

PRECISION = torch.linalg.inv(W.T @ W + SIGMA**2 * torch.eye(4, dtype=F64))


def exact_pit(x):
    """x_j given the others is normal with precision P_jj around x_j - (P (x - b))_j / P_jj."""
    return NORMAL.cdf((x - OFFSET) @ PRECISION / PRECISION.diagonal().sqrt())


@pytest.mark.parametrize("guide", [linear_gaussian_exact, linear_gaussian_off])
def test_entries_left_out_have_the_closed_form_whatever_the_guide(guide):
    x = gaussian_rows(8, 2)
    runs = torch.stack([loo_pit(linear_gaussian, guide, {"x": x}, particles=1000, seed=s).u for s in range(12)])
    error = runs.std(0) / math.sqrt(12)
    assert ((runs.mean(0) - exact_pit(x)).abs() < 4 * error + 2e-3).all()  # smoothed weights have a little bias


def test_missing_entries_are_left_out_too():
    x = gaussian_rows(6, 4)
    x[::2, 1] = torch.nan
    found = loo_pit(linear_gaussian, linear_gaussian_holes, {"x": x}, particles=4000)
    seen = [0, 2, 3]
    part = torch.linalg.inv((W.T @ W + SIGMA**2 * torch.eye(4, dtype=F64))[seen][:, seen])
    exact = NORMAL.cdf((x[0, seen] - OFFSET[seen]) @ part / part.diagonal().sqrt())
    assert torch.equal(found.u.isnan(), x.isnan())
    assert ((found.u[0, seen] - exact).abs() < 0.04).all()


@pytest.mark.parametrize("runs", [5, pytest.param(25, marks=pytest.mark.slow)])
def test_the_right_model_is_uniform_in_repeated_runs_and_a_wrong_scale_is_not(runs):
    rejected = 0
    for r in range(runs):
        rows = {"x": gaussian_rows(60, 100 + r)}
        rejected += loo_pit(linear_gaussian, linear_gaussian_exact, rows, particles=150, seed=r).p_value <= 0.05
    assert rejected <= most_by_chance(runs)
    for noise, shape in ((1.3, "too narrow"), (0.75, "too wide")):
        rows = {"x": gaussian_rows(200, 7, noise=noise)}
        found = loo_pit(linear_gaussian, linear_gaussian_exact, rows, particles=400)
        assert (found.p_value <= 0.01, found.shape) == (True, shape)
        assert shape in found.verdict
        assert not found.verdict.startswith("Not to be believed")
    assert to_png_bytes(found.figure())
    assert set(found.by_entry) == {"0", "1", "2", "3"}


def test_no_more_rows_are_taken_than_asked_for_and_no_outliers():
    x = gaussian_rows(30, 0)
    found = loo_pit(linear_gaussian, linear_gaussian_exact, {"x": x}, particles=400, rows=7)
    assert (found.u.shape, len(set(found.rows.tolist()))) == ((7, 4), 7)
    assert ((found.u - exact_pit(x[found.rows])).abs() < 0.1).all()
    data = ppl_vae.load("digits", outliers="9")
    model = VAE(data, latent_dim=2, hidden=(8,))
    checked = predictive_check(model, MeanField(model, hidden=(8,)), data, draws=3)
    assert checked.rows == two_sample(model, data, "mmd", permutations=1).rows == 402
    assert predictive_check(model, MeanField(model, hidden=(8,)), data, draws=3, rows=20).rows == 20


def test_a_guide_from_which_nothing_can_be_told_is_said():
    def narrow(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2, dtype=F64), 0.05).to_event(1))

    found = loo_pit(linear_gaussian, narrow, {"x": gaussian_rows(50, 0)}, particles=200)
    assert found.unreliable > 0.5
    assert found.verdict.startswith("Not to be believed yet")


def test_uniformity_keeps_its_level_when_entries_of_a_row_go_together():
    runs, rejected = 300, 0
    for r in range(runs):
        g = torch.Generator().manual_seed(r)
        z = math.sqrt(0.8) * torch.randn(60, 1, generator=g) + math.sqrt(0.2) * torch.randn(60, 6, generator=g)
        u = dist.Normal(0.0, 1.0).cdf(z)
        u[torch.rand(u.shape, generator=g) < 0.2] = torch.nan
        rejected += uniformity(u, draws=199, seed=r).p_value <= 0.05
    assert rejected <= most_by_chance(runs)
    assert rejected >= stats.binom.ppf(1e-4, runs, 0.05)
    pooled = stats.kstest(u[~u.isnan()].numpy(), "uniform").pvalue  # that pools entries is wrong here
    assert pooled < uniformity(u).p_value


def test_coverage_is_the_share_inside_central_intervals():
    u = torch.linspace(0.005, 0.995, 100, dtype=F64).reshape(-1, 1)
    found = LooPIT("x", u, 0 * u, 0 * u + 100, particles=100)
    assert found.coverage(0.9)[0] == pytest.approx(0.9)
    assert found.coverage(0.9)[1] == pytest.approx(math.sqrt(0.9 * 0.1 / 100), rel=1e-6)


def test_discrete_values_are_randomised_to_a_uniform():
    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.full((len(x),), 3.0), 1.5))
            pyro.sample("x", dist.Poisson(z.unsqueeze(-1).expand(*z.shape, 3)).to_event(1), obs=x)

    def posterior(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(3 + x.sum(-1), 4.5))

    torch.manual_seed(1)
    z = dist.Gamma(3.0, 1.5).sample((400, 1))
    right = loo_pit(model, posterior, torch.poisson(z.expand(-1, 3)), particles=100)
    assert right.randomised
    assert right.p_value > 0.05
    wrong = loo_pit(model, posterior, torch.poisson(torch.full((400, 3), 2.0)), particles=100)
    assert wrong.p_value < 0.01


DISTRIBUTIONS = {
    "normal": (dist.Normal(0.3, 1.2), 0.7, stats.norm(0.3, 1.2)),
    "student": (dist.StudentT(3.0, 0.5, 2.0), 1.1, stats.t(3, 0.5, 2)),
    "beta": (dist.Beta(2.0, 3.0), 0.4, stats.beta(2, 3)),
    "lognormal": (dist.LogNormal(0.2, 0.5), 1.5, stats.lognorm(0.5, scale=math.exp(0.2))),
    "poisson": (dist.Poisson(4.0), 3.0, stats.poisson(4)),
    "negative binomial": (dist.NegativeBinomial(2.5, 0.4), 2.0, stats.nbinom(2.5, 0.6)),
    "binomial": (dist.Binomial(10, 0.3), 4.0, stats.binom(10, 0.3)),
    "bernoulli": (dist.Bernoulli(0.3), 1.0, stats.bernoulli(0.3)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distribution_functions_are_those_of_scipy(name):
    fn, x, other = DISTRIBUTIONS[name]
    low, high = at_most(fn, torch.tensor(x))
    assert float(high) == pytest.approx(other.cdf(x), abs=1e-5)
    assert float(low) == pytest.approx(other.cdf(x - 1) if hasattr(other.dist, "pmf") else other.cdf(x), abs=1e-5)


def test_distribution_functions_of_levels_and_of_what_has_none():
    levels = LogisticLevels(torch.zeros(1), torch.zeros(1), torch.ones(1), 16)
    low, high = at_most(levels, torch.tensor(5.0))
    mass = levels.log_prob(torch.arange(16)).exp().cumsum(0)
    torch.testing.assert_close(torch.stack([low, high]), mass[4:6])
    mean = torch.stack([at_most(dist.VonMises(torch.zeros(4000), 2.0), torch.full((4000,), 0.5))[0]]).mean()
    assert abs(float(mean) - stats.vonmises(2.0).cdf(0.5)) < 4 * 0.5 / math.sqrt(4000)


def test_pits_are_refused_by_name():
    x = gaussian_rows(20, 0).float()

    def chained(x=None, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            x = pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(x + z, 1.0), obs=y)

    def together(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.MultivariateNormal(z.unsqueeze(-1).expand(*z.shape, 4), torch.eye(4)), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    rows = {"x": x[:, 0], "y": x[:, 1]}
    with pytest.raises(ProgramError, match="site 'y' of the model depends on 'x'"):
        loo_pit(chained, guide, rows)
    assert loo_pit(chained, guide, rows, "y", particles=30).u.shape == (20,)
    with pytest.raises(UserError, match="together, as a MultivariateNormal"):
        loo_pit(together, guide, {"x": x})
    with pytest.raises(UserError, match="does not observe field 'y'"):
        loo_pit(together, guide, {"x": x, "y": x[:, 0]}, "y")
    data = ppl_vae.load(mixed_table(), missing="allow")
    model = VAE(data, latent_dim=2, hidden=(8,))
    with pytest.raises(UserError, match="'grade' has categories without an order"):
        loo_pit(model, MeanField(model, hidden=(8,)), data, "grade")
    assert loo_pit(model, MeanField(model, hidden=(8,)), data, "age", particles=30).u.shape == (12,)
