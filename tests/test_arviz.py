"""What `to_arviz` returns, under whichever ArviZ is installed: 0.x or 1.x."""

import re
import warnings
from pathlib import Path

import cases
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from cases import F64, t

import ppl_vae
from ppl_vae import UserError, to_arviz
from ppl_vae.errors import NoDensity
from ppl_vae.guides import MeanField, Point
from ppl_vae.models import CVAE, GMVAE, M2, VAE

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz as az

OLD = az.__version__.startswith("0.")

# Of ArviZ and what it plots with, not of ours: deprecations, and advice about the best plot for whole numbers.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Passing a dict or None"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
    pytest.mark.filterwarnings("ignore:(?s)Variables .* look"),
    pytest.mark.filterwarnings("ignore:(?s)This plot always uses"),
]

DIGITS = ppl_vae.load("digits")
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "arviz.md"


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    model = VAE(DIGITS, latent_dim=2, hidden=(16,))
    return model, MeanField(model)


@pytest.fixture(scope="module")
def idata(vae):
    return to_arviz(*vae, DIGITS, draws=50, particles=400, rows=12)


def problem(name):
    return next(p for p in cases.PROBLEMS if p.name == name)


def dims(variable):
    return dict(variable.sizes)


def samples(variable):
    """Values [draw, ...] of all chains."""
    return variable.values.reshape(-1, *variable.shape[2:])


# -- groups, dims, coordinates ------------------------------------------------------------------------------------


def test_groups_and_shapes_of_a_vae(idata, vae):
    drawn = {"chain": 4, "draw": 50, "row": 12}
    picture = {"x_dim_0": 8, "x_dim_1": 8}
    for group in ("posterior", "prior"):
        assert dims(idata[group]["z"]) == drawn | {"z_dim": 2}
    for group in ("posterior_predictive", "prior_predictive"):
        assert dims(idata[group]["x"]) == drawn | picture
        assert set(np.unique(idata[group]["x"])) <= set(range(17))
    assert dims(idata["log_likelihood"]["log_evidence"]) == drawn
    assert list(idata["log_likelihood"].data_vars) == ["log_evidence"]
    assert dims(idata["sample_stats"]["log_weight"]) == drawn
    for name in ("khat", "ess", "log_evidence", "log_evidence_se"):
        assert dims(idata["sample_stats"][name]) == {"row": 12}
    assert np.array_equal(idata["observed_data"]["x"], DIGITS.test["x"][:12])
    assert np.array_equal(idata["constant_data"]["y"], DIGITS.test["y"][:12])
    assert list(idata["posterior"]["row"].values) == list(range(12))
    about = idata["posterior"].attrs
    assert (about["model"], about["guide"], about["split"]) == ("VAE", "MeanField", "test")
    assert (about["particles"], about["seed"], about["resampled"], about["rows_available"]) == (400, 0, 0, 447)
    assert about["inference_library_version"] == ppl_vae.__version__
    assert dict(idata.attrs)["model"] == "VAE"


def test_what_comes_back_is_arviz_s_own(idata):
    import xarray

    assert isinstance(idata, az.InferenceData if OLD else xarray.DataTree)


def test_rows_are_bounded_where_nobody_says_how_many(vae):
    rows = {"x": np.zeros((1003, 8, 8), dtype=int)}
    found = to_arviz(*vae, rows, draws=5, chains=2, particles=10, predictive=False)
    assert found["posterior"].sizes["row"] == 1000
    assert found["posterior"].attrs["rows_available"] == 1003
    assert not {"posterior_predictive", "prior_predictive"} & set(found.groups() if OLD else found.children)
    from ppl_vae.arviz._groups import NUMBERS, _fitting
    from ppl_vae.data import as_split

    wide = as_split(np.zeros((90, 10_000), dtype=np.float32))
    assert _fitting(wide, 400) == NUMBERS // (400 * 10_000) < 90


def table():
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "size": rng.normal(size=40),
            "blood pressure": rng.gamma(2, size=40),
            "km/h": rng.poisson(3, 40).astype(float),
            "kind": rng.choice(["big", "small"], 40),
            "ok": rng.random(40) > 0.5,
        },
        index=[f"patient {i}" for i in range(40)],
    )
    frame.loc["patient 1", "size"] = frame.loc["patient 2", "km/h"] = np.nan
    frame.loc["patient 3", "kind"] = None
    return frame


@pytest.fixture(scope="module")
def columns():
    torch.manual_seed(0)
    model = VAE(ppl_vae.load(table(), missing="allow"), latent_dim=2, hidden=(8,))
    return to_arviz(model, MeanField(model), table(), draws=20, particles=100, rows=10)


def test_a_table_keeps_its_names_its_rows_and_its_holes(columns):
    observed = columns["observed_data"]
    assert set(observed.data_vars) == {"size", "blood pressure", "km_h", "kind", "ok"}
    assert list(observed["row"].values) == list(table().index[:10])
    assert np.isnan(observed["size"].values).nonzero()[0].tolist() == [1]
    assert np.isnan(observed["km_h"].values).nonzero()[0].tolist() == [2]
    assert np.isnan(observed["kind"].values).nonzero()[0].tolist() == [3]
    assert np.allclose(observed["size"].values, table()["size"][:10], equal_nan=True)
    for group in (observed, columns["posterior_predictive"], columns["prior_predictive"]):
        assert list(group["kind"].attrs["categories"]) == ["big", "small"]
        assert [group[n].dtype.kind for n in ("size", "kind", "km_h", "ok")] == ["f", "f", "f", "i"]
    assert not np.isnan(columns["posterior_predictive"]["size"]).any()  # missing entries are predicted
    assert "constant_data" not in (columns.groups() if OLD else columns.children)


def test_columns_of_a_matrix_are_coordinates():
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(30, 3)), columns=["a", "b", "c"])
    model = VAE(ppl_vae.load(frame), latent_dim=2, hidden=(8,))
    found = to_arviz(model, MeanField(model), frame, draws=5, particles=20)
    assert list(found["observed_data"]["x_dim"].values) == ["a", "b", "c"]
    assert np.allclose(found["posterior_predictive"]["x"].sel(x_dim="b").shape, (4, 5, 30))


def test_inner_plates_are_dims_after_the_rows():
    p = problem("repeated measurements")
    found = to_arviz(p.model, p.guide, p.batch, draws=10, particles=50)
    assert dims(found["posterior"]["flag"]) == {"chain": 4, "draw": 10, "row": 4, "measurement": 3}
    assert np.array_equal(found["observed_data"]["x"], cases.XR)
    assert dims(found["prior_predictive"]["x"])["measurement"] == 3


# -- discrete latents ---------------------------------------------------------------------------------------------


def test_clusters_are_codes_with_probabilities():
    torch.manual_seed(0)
    model = GMVAE(DIGITS, clusters=3, latent_dim=2, hidden=(8,))
    found = to_arviz(model, MeanField(model), DIGITS, draws=10, particles=60, rows=5)
    codes, share = found["posterior"]["cluster"], found["sample_stats"]["cluster_probability"]
    assert dims(codes) == {"chain": 4, "draw": 10, "row": 5}
    assert codes.dtype.kind == "i"
    assert dims(share) == {"row": 5, "cluster_level": 3}
    assert np.allclose(share.sum("cluster_level"), 1)


def test_probabilities_of_a_latent_category_are_the_exact_responsibilities():
    p = problem("mixture, classifier")
    found = to_arviz(p.model, p.guide, p.batch, draws=500, particles=2000)
    joint = cases.WEIGHTS.log() + dist.Normal(cases.CENTRES, 0.8).log_prob(cases.XM.unsqueeze(-1))
    exact = joint.softmax(-1).numpy()
    for share, count in (
        (found["sample_stats"]["y_probability"].values, 2000),
        (np.stack([(samples(found["posterior"]["y"]) == c).mean(0) for c in range(3)], -1), 2000),
    ):
        assert (np.abs(share - exact) <= 4 * np.sqrt(exact * (1 - exact) / count) + 1e-3).all()


def test_labels_that_are_there_stay_and_others_are_drawn():
    torch.manual_seed(0)
    data = ppl_vae.load("digits", labels=100)
    model = M2(data, latent_dim=2, hidden=(8,))
    y = DIGITS.test["y"][:6].clone()
    y[::2] = -1
    found = to_arviz(model, MeanField(model), {"x": DIGITS.test["x"][:6], "y": y}, draws=10, particles=60)
    assert (samples(found["posterior"]["y"])[:, 1::2] == y[1::2].numpy()).all()
    assert np.isnan(found["observed_data"]["y"].values).tolist() == [True, False] * 3
    share = found["sample_stats"]["y_probability"]
    assert np.allclose(share.values[range(1, 6, 2), y[1::2]], 1)
    assert (share.values[::2].max(-1) < 1).all()


# -- the numbers --------------------------------------------------------------------------------------------------

LINEAR = problem("linear-Gaussian")


def test_draws_of_the_guide_reweighted_or_resampled_are_the_posterior():
    exact = cases.posterior_mean(cases.X).numpy()
    variance = cases.COVARIANCE.diagonal().numpy()
    options = {"draws": 500, "predictive": False}
    raw = to_arviz(LINEAR.model, LINEAR.guide, LINEAR.batch, **options)
    chosen = to_arviz(LINEAR.model, LINEAR.guide, LINEAR.batch, **options, particles=10_000, resample=True)
    z, log_w = samples(raw["posterior"]["z"]), samples(raw["sample_stats"]["log_weight"])
    guide = 0.8 * exact + 0.1
    assert (np.abs(z.mean(0) - guide) <= 4 * cases.SCALES.numpy() / 2000**0.5).all()
    w = np.exp(log_w - log_w.max(0))
    w /= w.sum(0)
    mean = np.einsum("dr,drl->rl", w, z)
    se = np.sqrt(np.einsum("dr,drl->rl", w**2, (z - mean) ** 2))
    assert (np.abs(mean - exact) <= 4 * se).all()
    z = samples(chosen["posterior"]["z"])
    count = 1 / (1 / 2000 + 1 / chosen["sample_stats"]["ess"].values[:, None])
    assert (np.abs(z.mean(0) - exact) <= 4 * np.sqrt(variance / count)).all()
    assert (np.abs(z.var(0) / variance - 1) <= 4 * np.sqrt(2 / count)).all()
    assert (np.abs(guide - exact) > 4 * np.sqrt(variance / count)).any()  # so that the test can fail
    particle = chosen["sample_stats"]["particle"]
    assert (int(particle.min()) >= 0, int(particle.max()) < 10_000) == (True, True)
    assert "log_weight" not in chosen["sample_stats"]


@pytest.mark.parametrize("p", cases.PROBLEMS, ids=str)
def test_log_likelihood_is_the_log_evidence_of_each_row(p):
    found = to_arviz(p.model, p.guide, p.batch, draws=20, particles=2000, predictive=False)
    stats = found["sample_stats"]
    draws = samples(found["log_likelihood"]["log_evidence"])
    average = scipy.special.logsumexp(draws, axis=0) - np.log(len(draws))
    se = np.maximum(stats["log_evidence_se"].values, 1e-6)
    assert (np.abs(average - stats["log_evidence"].values) <= 4 * se / np.sqrt(len(draws)) + se**2).all()
    assert (np.abs(stats["log_evidence"].values - p.log_evidence.numpy()) <= 4 * se + 1e-6).all()
    again = ppl_vae.evaluate(p.model, p.guide, p.batch, particles=2000)
    off = float(again.log_evidence.sum()) - float(stats["log_evidence"].sum())
    assert abs(off) <= 4 * np.sqrt(2 * (se**2).sum()) + 1e-6
    assert np.isfinite(stats["ess"]).all()
    assert np.isfinite(stats["khat"]).all()


def test_loo_is_the_sum_of_log_p_and_its_p_the_monte_carlo_variance(vae):
    found = to_arviz(*vae, DIGITS, particles=500, rows=30, predictive=False)
    stats = found["sample_stats"]
    elpd = az.loo(found, pointwise=True)
    total, p_loo, each = (elpd.elpd_loo, elpd.p_loo, elpd.loo_i) if OLD else (elpd.elpd, elpd.p, elpd.elpd_i)
    variance = float((stats["log_evidence_se"] ** 2).sum())
    assert abs(total - float(stats["log_evidence"].sum())) <= 4 * np.sqrt(variance / 400) + 2 * variance
    assert 0.7 <= p_loo / variance <= 1.4
    spread = stats["log_evidence"].values.std() * np.sqrt(30)
    assert abs(elpd.se / spread - 1) < 0.02
    assert np.allclose(each, stats["log_evidence"], atol=float(stats["log_evidence_se"].max()))


def test_compare_orders_models_by_their_evidence():
    def wide(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ cases.W, 3.0).to_event(1), obs=x)

    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))

    batch = LINEAR.tiled(10)
    pairs = {"wide": (wide, prior), "true": (LINEAR.model, LINEAR.guide)}
    found = {name: to_arviz(*pair, batch, draws=50, particles=2000, predictive=False) for name, pair in pairs.items()}
    ranked = az.compare(found, **({} if OLD else {"round_to": 8}))
    assert list(ranked.index) == ["true", "wide"]
    gap = found["true"]["sample_stats"]["log_evidence"] - found["wide"]["sample_stats"]["log_evidence"]
    assert abs(abs(float(ranked.loc["wide", "elpd_diff"])) / float(gap.sum()) - 1) < 0.02
    assert abs(float(ranked.loc["wide", "dse"]) / float(gap.std() * len(gap) ** 0.5) - 1) < 0.05


def test_prior_draws_stand_under_the_conditions_of_their_row():
    def model(c, x=None):
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(c + z, 0.5), obs=x)

    def guide(c, x):
        with pyro.plate("data", len(c)):
            pyro.sample("z", dist.Normal(0.8 * (x - c), 0.2**0.5))

    c = t([-5.0, 0.0, 7.0])
    found = to_arviz(model, guide, {"c": c, "x": c + 1}, draws=500, particles=10)
    error = np.abs(samples(found["prior_predictive"]["x"]).mean(0) - c.numpy())
    assert (error <= 4 * np.sqrt(1.25 / 2000)).all()
    error = np.abs(samples(found["posterior_predictive"]["x"]).mean(0) - (c.numpy() + 0.8))
    assert (error <= 4 * np.sqrt(0.45 / 2000)).all()
    assert np.array_equal(found["constant_data"]["c"], c)
    assert float(found["sample_stats"]["log_evidence_se"].max()) < 1e-6  # the guide is exact
    assert found["posterior"].attrs["particles"] == 2000


def test_a_field_that_the_data_do_not_have_is_predicted():
    def model(x=None, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(10 * z, 1.0), obs=y)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    found = to_arviz(model, guide, {"x": t([-2.0, 2.0])}, draws=500, particles=10)
    mean = samples(found["posterior_predictive"]["y"]).mean(0)
    assert (np.abs(mean - [-10, 10]) <= 4 * np.sqrt(51 / 2000)).all()
    assert list(found["observed_data"].data_vars) == ["x"]


def test_conditions_of_a_cvae_are_constant_data():
    torch.manual_seed(0)
    model = CVAE(DIGITS, given="y", latent_dim=2, hidden=(8,))
    found = to_arviz(model, MeanField(model), DIGITS, draws=5, particles=20, rows=4)
    assert np.array_equal(found["constant_data"]["y"], DIGITS.test["y"][:4])
    assert list(found["observed_data"].data_vars) == ["x"]


# -- ArviZ's functions --------------------------------------------------------------------------------------------

PLOTS = {
    "plot_ppc": {"num_pp_samples": 5},
    "plot_ppc_dist": {"num_samples": 5},
    "plot_forest": {},
    "plot_trace": {},
    "plot_trace_dist": {},
    "plot_rank": {},
    "plot_posterior": {},
    "plot_dist": {},
    "plot_dist_comparison": {},
    "plot_prior_posterior": {},
    "plot_pair": {},
    "plot_autocorr": {},
    "plot_ess": {},
    "plot_mcse": {},
}
OF_ROWS = ("plot_ppc", "plot_ppc_dist")


@pytest.mark.parametrize("name", [n for n in PLOTS if hasattr(az, n) and not (OLD and n == "plot_dist")])
def test_plots(name, idata):
    matplotlib.use("Agg")
    shown = idata if name in OF_ROWS else idata.isel(row=[0, 1])
    assert getattr(az, name)(shown, **PLOTS[name]) is not None
    plt.close("all")


@pytest.mark.parametrize("name", ["plot_ppc", "plot_ppc_dist"])
def test_predictive_checks_of_columns_with_holes(name, columns):
    if not hasattr(az, name):
        pytest.skip("of the other ArviZ")
    matplotlib.use("Agg")
    for group in ("posterior", "prior") if OLD else ("posterior_predictive", "prior_predictive"):
        getattr(az, name)(columns, group=group, **PLOTS[name])
    plt.close("all")


def test_khat_of_loo_is_that_of_the_noise_and_can_be_plotted(idata):
    matplotlib.use("Agg")
    elpd = az.loo(idata, pointwise=True)
    assert (elpd.pareto_k.values < 0.7).all()
    az.plot_khat(elpd)
    plt.close("all")


def test_summaries_and_diagnostics(idata):
    rows = idata.isel(row=[0, 1])
    summary = az.summary(rows)
    assert list(summary.index) == ["z[0, 0]", "z[0, 1]", "z[1, 0]", "z[1, 1]"]
    rhat = summary["r_hat"].astype(float)
    assert (rhat < 1.06).all()  # draws are independent
    assert np.abs(summary["mean"].astype(float) - samples(rows["posterior"]["z"]).mean(0).ravel()).max() < 0.02
    for name in ("rhat", "ess", "mcse", "hdi"):
        found = getattr(az, name)(rows)
        values = np.asarray(found.get("posterior", found)["z"])
        assert np.isfinite(values).all(), name
    assert dims(az.extract(idata, keep_dataset=True)["z"]) == {"row": 12, "z_dim": 2, "sample": 200}


def scalar(scale):
    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(x):
        precision = 1 + 1 / scale**2
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / scale**2 / precision, precision**-0.5))

    return model, guide


def pit(found, group):
    """The share of draws below the observation."""
    if OLD:
        drawn = samples(found[group]["x"]).T
        equal = np.full(drawn.shape, -np.log(drawn.shape[1]))
        return az.loo_pit(y=found["observed_data"]["x"].values, y_hat=drawn, log_weights=equal)
    return (samples(found[group]["x"]) <= found["observed_data"]["x"].values).mean(0)


def test_loo_pit_is_of_the_prior_predictive_and_uniform_for_the_true_model():
    x = 1.25**0.5 * torch.randn(300, dtype=F64, generator=torch.manual_seed(1))
    found = to_arviz(*scalar(0.5), x, draws=200, particles=10)
    assert scipy.stats.kstest(pit(found, "prior_predictive"), "uniform").pvalue > 0.001
    assert scipy.stats.kstest(pit(found, "posterior_predictive"), "uniform").pvalue < 1e-4  # it has seen the row
    found = to_arviz(*scalar(3.0), x, draws=200, particles=10)
    assert scipy.stats.kstest(pit(found, "prior_predictive"), "uniform").pvalue < 1e-4
    matplotlib.use("Agg")
    if OLD:
        drawn = samples(found["prior_predictive"]["x"]).T
        equal = np.full(drawn.shape, -np.log(drawn.shape[1]))
        az.plot_loo_pit(y=found["observed_data"]["x"].values, y_hat=drawn, log_weights=equal)
    else:
        az.plot_ppc_pit(found, group="prior_predictive")
    plt.close("all")


def test_khat_is_arviz_s_own():
    """ArviZ 0.x fits log weights, arviz-stats log ratios of the opposite sign (tests/test_khat.py has more)."""
    p = problem("Gamma-Poisson")
    found = to_arviz(p.model, p.guide, p.batch, draws=225, particles=100, predictive=False)  # 3 sqrt(900) is whole
    weights = found["sample_stats"]["log_weight"]
    if OLD:
        shape = az.psislw(samples(weights).T.copy())[1]
    else:
        shape = (-weights).azstats.psislw(dim=["chain", "draw"])[1].values
    assert np.abs(shape - found["sample_stats"]["khat"].values).max() <= 1e-6


def test_netcdf_gives_back_what_was_written(columns, tmp_path):
    columns.to_netcdf(str(tmp_path / "a.nc"))
    back = az.from_netcdf(str(tmp_path / "a.nc"))
    assert set(back.groups() if OLD else back.children) == set(columns.groups() if OLD else columns.children)
    for group in columns.groups() if OLD else columns.children:
        assert back[group].attrs["particles"] == 100
        for name, variable in columns[group].data_vars.items():
            assert np.array_equal(back[group][name], variable, equal_nan=True), name
            assert back[group][name].dims == variable.dims
    assert list(back["observed_data"]["kind"].attrs["categories"]) == ["big", "small"]
    assert list(back["posterior"]["row"].values) == list(table().index[:10])
    back.close()


# -- the engine's rules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resample", [False, True])
def test_seeds_and_passes(resample):
    p = problem("style and label")
    options = {"draws": 10, "particles": 200, "resample": resample}
    before = torch.get_rng_state()
    one = to_arviz(p.model, p.guide, p.batch, **options)
    assert torch.equal(before, torch.get_rng_state())
    two = to_arviz(p.model, p.guide, p.batch, **options)
    other = to_arviz(p.model, p.guide, p.batch, seed=1, **options)
    small = to_arviz(p.model, p.guide, p.batch, floats_at_once=3000, **options)
    for group in ("posterior", "posterior_predictive", "log_likelihood"):
        for name, variable in one[group].data_vars.items():
            assert np.array_equal(variable, two[group][name])
            assert not np.array_equal(variable, other[group][name])
            assert small[group][name].shape == variable.shape
    off = small["sample_stats"]["log_evidence"] - p.log_evidence.numpy()
    assert (np.abs(off) <= 4 * small["sample_stats"]["log_evidence_se"] + 1e-6).all()


def test_programs_that_do_not_let_particles_run_together():
    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(z.reshape(len(x)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    found = to_arviz(model, guide, t([0.0, 1.0]), draws=3, chains=2, particles=6)
    assert dims(found["posterior_predictive"]["x"]) == {"chain": 2, "draw": 3, "row": 2}
    exact = dist.Normal(0.0, 2**0.5).log_prob(torch.tensor([0.0, 1.0]))
    assert np.allclose(found["sample_stats"]["log_evidence"], exact, atol=1e-5)


def test_networks_are_put_back_and_the_store_left_alone(vae):
    model, guide = vae
    model.train()
    to_arviz(model, guide, DIGITS, draws=2, particles=5, rows=2)
    assert model.training
    assert not list(pyro.get_param_store().keys())


@pytest.mark.parametrize("name", ["draws", "chains", "particles", "rows"])
@pytest.mark.parametrize("value", [0, 1.5])
def test_counts_are_refused(name, value, vae):
    with pytest.raises(UserError, match=f"{name} must be a whole number of at least 1"):
        to_arviz(*vae, DIGITS, **{name: value})


def test_what_has_no_draws_of_each_row_is_refused_by_name(vae):
    with pytest.raises(NoDensity, match="'z' is a point"):
        to_arviz(vae[0], Point(vae[0]), DIGITS)

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("row", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("row", dist.Normal(t(0.0), 1.0))

    with pytest.raises(UserError, match="'row' is the name of a dim"):
        to_arviz(model, guide, cases.XH, draws=2, particles=4)


def test_rows_without_weights_are_told_by_their_number():
    def blind(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[..., :2], 1.0).to_event(1))

    x = cases.X.repeat(4, 1)
    x[7, 0] = torch.nan
    with pytest.raises(UserError, match="row 7 has no weights"):
        to_arviz(LINEAR.model, blind, x, draws=2, particles=10, floats_at_once=300)


# -- the document -------------------------------------------------------------------------------------------------


def test_the_document_runs():
    matplotlib.use("Agg")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert len(blocks) == 5
    space = {"__name__": "document"}
    for block in blocks:
        for long, short in (
            (r"epochs=\d+", "epochs=2"),
            (r"rows=\d+", "rows=12"),
            (r"particles=\d+", "particles=400"),
            (r"table\.test\)", "table.test, rows=20, particles=100)"),
        ):
            block = re.sub(long, short, block)
        exec(compile(block, str(DOCUMENT), "exec"), space)
    plt.close("all")
    assert 0 <= int(space["doubtful"].sum()) <= 12
