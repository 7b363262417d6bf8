"""The start of the posterior of what all rows share, against closed forms and quadrature, with the defaults of fit."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import AffineTransform
from torch.distributions import constraints

import ppl_vae
from ppl_vae.autoguide.whitening import moved
from ppl_vae.checks.analysis import analyse
from ppl_vae.guides import IAF, FullRank, LowRank, MeanField, Mixture
from ppl_vae.nn.flows import Flow
from ppl_vae.programs.program import Pair
from ppl_vae.training._laplace import Density, laplace
from ppl_vae.training._replayed import Replayed
from ppl_vae.training._start_patience import Patience

F64 = torch.float64
NOISE, WIDE = 0.7, 5.0


def rows(n=200):
    """Two columns that say nearly the same, and one far from zero on another scale."""
    torch.manual_seed(1)
    z = torch.randn(n, 1)
    x = torch.cat([z + 0.3 * torch.randn(n, 1), z + 0.3 * torch.randn(n, 1), 100 + 20 * torch.randn(n, 1)], 1)
    return {"x": x, "y": x @ torch.tensor([1.0, -0.5, 0.02]) + NOISE * torch.randn(n)}


def regression(x, y=None):
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3), WIDE).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((x * beta).sum(-1), NOISE), obs=y)


def closed_form(data):
    """Mean, covariance, and log evidence in nats."""
    x, y = data["x"].double(), data["y"].double()
    covariance = torch.linalg.inv(x.T @ x / NOISE**2 + torch.eye(3, dtype=F64) / WIDE**2)
    marginal = dist.LowRankMultivariateNormal(torch.zeros(len(y), dtype=F64), WIDE * x, torch.full_like(y, NOISE**2))
    return covariance @ x.T @ y / NOISE**2, covariance, float(marginal.log_prob(y))


def test_a_regression_with_the_defaults_has_its_exact_posterior_and_evidence():
    data = rows()
    mean, covariance, evidence = closed_form(data)
    guide = FullRank(regression, data)
    result = ppl_vae.fit(regression, guide, data, epochs=3)
    assert not result.findings
    found = guide.shared["beta"]
    assert ((found.mean.double() - mean) / covariance.diagonal().sqrt()).abs().max() < 0.05
    assert (found.covariance_matrix.double() - covariance).norm() < 0.02 * covariance.norm()
    judged = ppl_vae.evaluate(regression, guide, data, particles=1000)
    assert abs(judged.log_evidence - evidence) < 4 * judged.log_evidence_se + 1e-2  # 1e-2: single precision of 200 rows
    assert judged.khat < 0.7


def test_the_density_at_a_point_and_its_curvature_are_those_of_the_model():
    data = rows(30)
    mean, covariance, _ = closed_form(data)
    pair = Pair(regression, FullRank(regression, data))
    structure = analyse(pair, data)
    torch.set_default_dtype(F64)
    try:
        batch = {n: v.double() for n, v in data.items()}
        density = Density(pair, structure, batch)
        points = torch.randn(4, 3, dtype=F64)
        by_hand = dist.Normal(0.0, WIDE).log_prob(points).sum(-1)
        by_hand = by_hand + dist.Normal(points @ batch["x"].T, NOISE).log_prob(batch["y"]).sum(-1)
        torch.testing.assert_close(density(points).detach(), by_hand)
        found = laplace(density, torch.zeros(3, dtype=F64))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found.mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.covariance, covariance, rtol=1e-5, atol=0)


def mean_alone(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, math.sqrt(2.0)), obs=x)


@pytest.mark.parametrize(
    "family", [MeanField, FullRank, LowRank, *[pytest.param(f, marks=pytest.mark.slow) for f in (IAF, Mixture)]]
)
def test_a_mean_far_from_its_prior_is_found_by_the_default_step_size(family):
    torch.manual_seed(0)
    x = 3 + math.sqrt(2.0) * torch.randn(500)
    result = ppl_vae.fit(mean_alone, family(mean_alone, {"x": x}), {"x": x}, epochs=2, batch_size=50)
    variance = 1 / (500 / 2 + 0.01)
    drawn = result.guide.shared.sample((4000,))["mu"]
    assert abs(float(drawn.mean()) - float(x.sum()) / 2 * variance) < 0.2 * variance**0.5
    assert abs(float(drawn.std()) / variance**0.5 - 1) < 0.1


def test_a_flat_prior_on_a_half_line_is_flat_there():
    """y ~ N(0, s), s flat: s^2 is inverse gamma with (n - 1) / 2, whose root has a mean in closed form."""
    y = torch.linspace(-1, 1, 12)

    def model(y):
        s = pyro.sample("s", dist.ImproperUniform(constraints.positive, (), ()))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(0.0, s), obs=y)

    guide = ppl_vae.fit(model, FullRank(model, {"y": y}), {"y": y}, epochs=2).guide
    found = ppl_vae.posterior(model, guide, {"y": y}, particles=20_000)
    half, square = (len(y) - 1) / 2, float(y.square().sum())
    mean = math.sqrt(square / 2) * math.exp(math.lgamma(half - 0.5) - math.lgamma(half))
    deviation = math.sqrt(square / 2 / (half - 1) - mean**2)
    line = found.summary().loc["s"]
    assert abs(line["mean"] - mean) < 0.02 * mean
    assert abs(line["sd"] - deviation) < 0.06 * deviation
    assert math.isnan(line["contraction"])  # of no prior variance


def test_mean_field_over_latents_that_hang_together_is_warned_of():
    data = rows()
    (finding,) = ppl_vae.fit(regression, MeanField(regression, data), data, epochs=1).findings
    assert finding.severity == "warning"
    assert "correlation -0.9" in finding.problem
    assert "FullRank" in finding.remedy
    apart = {"x": torch.linalg.qr(data["x"])[0] * 10, "y": data["y"]}
    assert not ppl_vae.fit(regression, MeanField(regression, apart), apart, epochs=1).findings


def two_hills(x):
    at = pyro.sample("at", dist.Normal(0.0, 4.0))
    hills = dist.Normal(torch.tensor([0.0, 6.0]), 0.3).log_prob(at[..., None]) + torch.tensor([0.02, 0.98]).log()
    pyro.factor("hills", hills.logsumexp(-1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)


def test_of_several_starts_the_best_bound_is_kept():
    found = {}
    for restarts in (1, 4):
        guide = FullRank(two_hills, {"x": torch.zeros(3)})
        ppl_vae.fit(two_hills, guide, {"x": torch.zeros(3)}, epochs=1, restarts=restarts)
        found[restarts] = float(guide.shared["at"].mean.detach())
    assert abs(found[1]) < 0.5
    assert abs(found[4] - 6) < 0.5


def test_a_start_is_kept_with_the_weights_and_is_made_once():
    data = rows(40)
    guide = IAF(regression, data)
    ppl_vae.fit(regression, guide, data, epochs=1)
    again = IAF(regression, data)
    again.load_state_dict(guide.state_dict())
    for each in (guide, again):
        torch.manual_seed(0)
        each.drawn_now = each.shared.sample((5,))["beta"]
    torch.testing.assert_close(again.drawn_now, guide.drawn_now)
    centre = guide.shared.centre.clone()
    ppl_vae.fit(regression, guide, data, epochs=1)
    assert torch.equal(guide.shared.centre, centre)


def test_no_start_is_searched_where_none_is_asked_for_or_the_model_learns():
    data = rows(40)

    def learning(x, y=None):
        noise = pyro.param("noise", torch.tensor(1.0), constraint=constraints.positive)
        beta = pyro.sample("beta", dist.Normal(torch.zeros(3), WIDE).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((x * beta).sum(-1), noise), obs=y)

    for model, options in ((regression, {"restarts": 0}), (learning, {})):
        guide = FullRank(model, data)
        ppl_vae.fit(model, guide, data, epochs=1, **options)
        assert not guide.shared.started


@pytest.mark.parametrize("matrix", [True, False])
def test_moved_distributions_are_those_of_the_moved_draws(matrix):
    torch.manual_seed(0)
    loc, centre = torch.randn(3), torch.randn(3)
    spread = torch.tril(torch.rand(3, 3)) + torch.eye(3) if matrix else torch.rand(3) + 0.5
    base = dist.Normal(loc, torch.tensor([0.5, 1.0, 2.0])).to_event(1)
    bases = [base, dist.MultivariateNormal(loc, scale_tril=torch.tril(torch.rand(3, 3)) + torch.eye(3))]
    bases += [Flow(base, [AffineTransform(1.0, 2.0, event_dim=1)])]
    if not matrix:
        bases += [dist.LowRankMultivariateNormal(loc, torch.rand(3, 1), torch.rand(3) + 0.1)]
    for fn in bases:
        found = moved(fn, centre, spread)
        e = fn.sample((5,))
        v = centre + (e @ spread.T if matrix else e * spread)
        stretch = spread.diagonal().log().sum() if matrix else spread.log().sum()
        torch.testing.assert_close(found.log_prob(v), fn.log_prob(e) - stretch, rtol=1e-4, atol=1e-4)


# -- eight schools --------------------------------------------------------------------------------------------

SCHOOLS = {
    "y": torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    "sigma": torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
}


def centred(sigma, y=None):
    mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("data", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def non_centred(sigma, y=None):
    mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("data", len(sigma)):
        raw = pyro.sample("raw", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * raw, sigma), obs=y)


def quadrature():
    """log p(y): mu integrated in closed form, tau on a fine grid of its angle."""
    angle = (torch.arange(20000, dtype=F64) + 0.5) / 20000
    tau = 5 * torch.tan(angle * math.pi / 2)  # equal steps of the angle have equal prior mass
    y, sigma = SCHOOLS["y"].double(), SCHOOLS["sigma"].double()
    scale = (sigma.square() + tau[:, None].square()).sqrt()
    both = dist.LowRankMultivariateNormal(torch.zeros(8, dtype=F64), torch.full((8, 1), 5.0, dtype=F64), scale.square())
    return float(both.log_prob(y).logsumexp(0)) - math.log(20000)


@pytest.mark.slow
@pytest.mark.parametrize("model", [centred, non_centred])
def test_eight_schools_have_one_evidence_or_a_warning(model):
    guide = FullRank(model, SCHOOLS)
    ppl_vae.fit(model, guide, SCHOOLS)
    judged = ppl_vae.evaluate(model, guide, SCHOOLS, particles=4000)
    assert abs(judged.log_evidence - quadrature()) < 4 * judged.log_evidence_se + 0.02 or judged.findings
    assert judged.log_evidence_se < 0.2


def test_the_search_for_a_start_follows_the_size_of_the_programs():
    few = Patience(analysed(4), 4).rounds(((200, 0.1), (300, 0.1)), far=True)
    some = Patience(analysed(60), 4).rounds(((200, 0.1), (300, 0.1)), far=True)
    none = Patience(analysed(600), 4).rounds(((200, 0.1), (300, 0.1)), far=True)
    assert few == [(200, 0.1), (300, 0.1)]
    assert 40 <= sum(steps for steps, _ in some) < 200
    assert none == []


def analysed(sites):
    """A structure of so many statements in each program."""
    around = {f"z{i}": set() for i in range(sites)}
    return SimpleNamespace(plates_of={"model": around, "guide": around}, broadcasts=True)


def test_the_clock_ends_a_search_and_it_is_said(monkeypatch):
    monkeypatch.setattr("ppl_vae.training._start_patience.SECONDS", 0.0)
    monkeypatch.setattr("ppl_vae.training._start_patience.SILENT", 0.0)
    monkeypatch.setattr("ppl_vae.training._start_bound.JUDGED", 50)
    said = []
    data = rows(20)
    found = ppl_vae.fit(regression, FullRank(regression, data), data, epochs=1, progress=said.append).findings
    assert any("ended by the clock" in f.problem for f in found)
    assert said
    assert said[0].startswith("where the posterior starts")


def walk(y):
    """A random walk whose step, noise and decay are unknown; given the first two all states may be alike."""
    step, noise = (pyro.sample(name, dist.LogNormal(0.0, 1.0)) for name in ("step", "noise"))
    decay, z = pyro.sample("decay", dist.Beta(5.0, 1.0)), torch.zeros(())
    for t in range(len(y)):
        z = pyro.sample(f"z{t}", dist.Normal(decay * z, step))
        pyro.sample(f"y{t}", dist.Normal(z, noise), obs=y[t])


@pytest.mark.slow
def test_a_series_does_not_start_where_its_states_are_all_alike():
    torch.manual_seed(0)
    torch.randn(200, 4)
    y = torch.randn(15).cumsum(0)
    bound = ppl_vae.fit(walk, MeanField(walk), {"y": y}, rows=None, epochs=1).history[-1]["train"]
    assert bound > evidence_of_walk(y) - 8


def evidence_of_walk(y, draws=20_000):
    """log p(y) in nats: exact given step, noise and decay, of which the prior is drawn."""
    step, noise = (dist.LogNormal(0.0, 1.0).sample((draws, 1, 1)) for _ in range(2))
    decay, lags = dist.Beta(5.0, 1.0).sample((draws, 1, 1)), torch.arange(len(y))
    powers = torch.where(lags[:, None] >= lags, decay ** (lags[:, None] - lags).clamp(min=0), 0.0)
    covariance = (step * powers) @ (step * powers).mT + noise**2 * torch.eye(len(y))
    logs = dist.MultivariateNormal(torch.zeros(len(y)), covariance).log_prob(y)
    return float(logs.logsumexp(0)) - math.log(draws)


def test_a_replayed_function_draws_what_it_would_and_says_so_where_it_cannot():
    layer = torch.nn.Linear(2, 1)
    plain, fast = (Replayed(layer, lambda x: [layer(x) + torch.randn(3, 1), None]) for _ in range(2))
    x = torch.ones(3, 2)
    torch.manual_seed(0)
    expected = [plain(x)[0] for _ in range(3)]
    torch.manual_seed(0)
    found = [fast(x, left=1000) for _ in range(3)]
    assert fast.graph is not None
    assert plain.graph is None
    assert all(f[1] is None and torch.equal(e, f[0]) for e, f in zip(expected, found, strict=True))
    looks = Replayed(layer, lambda x: [x * float(x.sum())])
    assert torch.equal(looks(x, left=1000)[0], 6 * x)
    assert looks.graph is None
