"""Draws that are moved from a guide to the posterior, against closed forms and quadrature; and coordinates apart."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.gaussian import XH, hierarchy
from cases.problem import F64, t
from test_joint import COVARIANCE, DATA, MEAN, marginal, narrow, regression

import ppl_vae
from ppl_vae.arviz import _joint_draws
from ppl_vae.checks.analysis import analyse
from ppl_vae.data import as_one_unit
from ppl_vae.evaluation import tempering
from ppl_vae.evaluation.apart import apart
from ppl_vae.evaluation.bridge import Bridge
from ppl_vae.evaluation.elsewhere import elsewhere
from ppl_vae.evaluation.tempering import moved_draws
from ppl_vae.programs.program import Pair


def moved(model, guide, data, draws=800, chains=200, seed=0):
    pair, batch = Pair(model, guide), as_one_unit(data).batch()
    torch.manual_seed(seed)
    with torch.no_grad():
        return moved_draws(pair, analyse(pair, batch), batch, draws, 10, chains)


def test_a_narrow_guide_in_the_wrong_place_is_moved_to_the_closed_form():
    values, moves = moved(regression, narrow, DATA)
    sd = COVARIANCE.diagonal().sqrt()
    draws = values["b"].reshape(-1, 2)
    error = 4 * sd / moves.ess(draws[:, 0]) ** 0.5
    assert ((draws.mean(0) - MEAN).abs() < error).all()
    torch.testing.assert_close(torch.cov(draws.T) / sd.outer(sd), COVARIANCE / sd.outer(sd), rtol=0, atol=0.2)
    assert moves.believed
    assert abs(moves.log_evidence - float(marginal())) < 4 * moves.log_evidence_se + 0.1


def funnel(y=None):
    log_scale = pyro.sample("log_scale", dist.Normal(t(0.0), 1.5))
    with pyro.plate("data", len(y)):
        effect = pyro.sample("effect", dist.Normal(0.0, log_scale.exp()))
        pyro.sample("y", dist.Normal(effect, 1.0), obs=y)


def narrow_funnel(y=None):
    pyro.sample("log_scale", dist.Normal(t(0.5), 0.3))
    with pyro.plate("data", len(y)):
        pyro.sample("effect", dist.Normal(y / 2, 0.7))


SEEN = t([0.3, -1.2, 0.8, 1.9, -0.4])


def funnel_by_quadrature():
    """Mean and deviation of log_scale, the effects integrated out."""
    grid = torch.linspace(-9, 6, 6001, dtype=F64)
    spread = (1 + (2 * grid).exp()).sqrt()
    log_p = dist.Normal(0.0, 1.5).log_prob(grid) + dist.Normal(0.0, spread[:, None]).log_prob(SEEN).sum(1)
    chances = log_p.softmax(0)
    mean = float((chances * grid).sum())
    return mean, float((chances * (grid - mean).square()).sum() ** 0.5), float(log_p.logsumexp(0)) + math.log(0.0025)


def test_both_ends_of_a_funnel_are_reached():
    values, moves = moved(funnel, narrow_funnel, {"y": SEEN}, draws=1600)
    mean, sd, evidence = funnel_by_quadrature()
    draws = values["log_scale"].flatten()
    assert moves.believed
    assert abs(float(draws.mean()) - mean) < 4 * sd / moves.ess(draws) ** 0.5
    assert abs(float(draws.std()) / sd - 1) < 0.15
    assert abs(moves.log_evidence - evidence) < 4 * moves.log_evidence_se + 0.1


def test_effects_apart_from_their_scale_have_the_same_density():
    pair, batch = Pair(funnel, narrow_funnel), as_one_unit({"y": SEEN}).batch()
    bridge = Bridge(pair, analyse(pair, batch), batch, "guide")
    u = bridge.drawn(batch, 7)
    other = apart(bridge, batch, u)
    e = bridge.exchanged(batch, u, other)
    scale = u[..., :1].exp()
    torch.testing.assert_close(e[..., 1:], u[..., 1:] / scale)
    torch.testing.assert_close(other.exchanged(batch, e, bridge), u)
    for there, here in zip(other.densities(batch, e, 1), bridge.densities(batch, u, 1), strict=True):
        torch.testing.assert_close(there, here + len(SEEN) * scale.log()[..., 0])  # log |du / de|


def test_effects_that_are_logs_of_normals_are_set_apart_too():
    def model(y=None):
        scale = pyro.sample("scale", dist.HalfNormal(t(1.0)))
        with pyro.plate("data", len(y)):
            effect = pyro.sample("effect", dist.LogNormal(0.3, scale))
            pyro.sample("y", dist.Normal(effect, 1.0), obs=y)

    def guide(y=None):
        pyro.sample("scale", dist.LogNormal(t(0.0), 0.3))
        with pyro.plate("data", len(y)):
            pyro.sample("effect", dist.LogNormal(t(0.0), 0.5).expand([len(y)]))

    pair, batch = Pair(model, guide), as_one_unit({"y": SEEN}).batch()
    bridge = Bridge(pair, analyse(pair, batch), batch, "guide")
    u = bridge.drawn(batch, 3)
    other = apart(bridge, batch, u)
    e = bridge.exchanged(batch, u, other)
    torch.testing.assert_close(e[..., 1:], (u[..., 1:] - 0.3) / u[..., :1].exp())
    difference = other.densities(batch, e, 1)[1] - bridge.densities(batch, u, 1)[1]
    torch.testing.assert_close(difference, len(SEEN) * u[..., 0])


def test_latents_without_a_scale_of_their_own_stay_as_they_are():
    pair, batch = Pair(regression, narrow), as_one_unit(DATA).batch()
    bridge = Bridge(pair, analyse(pair, batch), batch, "guide")
    assert apart(bridge, batch, bridge.drawn(batch, 5)) is None


def test_chains_for_which_a_program_fails_are_no_numbers_and_the_others_are_right():
    def model(y=None):
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        if bool((z > 1.5).any()):
            raise ValueError("no such z")
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def guide(y=None):
        pyro.sample("z", dist.Normal(t(-2.0), 0.5))

    values, moves = moved(model, guide, {"y": t(0.0)})
    half = dist.Normal(0.0, 0.5**0.5)  # the posterior, cut off at 1.5
    grid = torch.linspace(-6, 1.5, 4001, dtype=F64)
    chances = half.log_prob(grid).softmax(0)
    mean = float((chances * grid).sum())
    sd = float((chances * (grid - mean).square()).sum() ** 0.5)
    draws = values["z"].flatten()
    assert 1 < float(draws.max()) <= 1.5
    assert abs(float(draws.mean()) - mean) < 4 * sd / moves.ess(draws) ** 0.5


def test_draws_of_too_few_rounds_are_not_believed(monkeypatch):
    def slow(y=None):  # a posterior that is ten times wider than where chains begin
        pyro.sample("z", dist.StudentT(t(1.0), 0.0, 1.0))

    def guide(y=None):
        pyro.sample("z", dist.Normal(t(0.0), 0.01))

    monkeypatch.setattr(tempering, "SETTLING", (1,))
    _, moves = moved(slow, guide, {"y": t(0.0)})
    assert not moves.believed
    found = moves.finding("k-hat is 2")
    assert found.site == "z"
    assert "not to be believed" in found.problem


def test_islands_that_do_not_agree_are_not_believed():
    _, moves = moved(regression, narrow, DATA, draws=400)
    apart_from = torch.zeros(2, dtype=F64) + 1.2
    one = tempering.Moves(**{**vars(moves), "rhat": apart_from})
    assert not one.believed
    assert "do not agree on b" in one.finding("k-hat is 2").problem


def far_hierarchy(x=None):
    mean = pyro.sample("mean", dist.Normal(XH.mean() - 3, 0.05))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.2 * mean + 0.8 * x.nan_to_num(), 0.5))


def test_the_posterior_of_a_poor_guide_is_that_of_the_closed_form():
    found = ppl_vae.posterior(hierarchy, far_hierarchy, {"x": XH}, draws=2000)
    n = len(XH)
    variance = 1 / (1 / 4 + n / 1.25)
    centre = variance * XH.sum() / 1.25
    assert found.khat > 0.7
    assert found.moves is not None
    assert found.moves.believed
    assert abs(float(found["mean"].mean() - centre)) < 0.1 * variance**0.5
    assert abs(float(found["mean"].std()) / variance**0.5 - 1) < 0.1
    torch.testing.assert_close(found["z"].mean(0), 0.2 * centre + 0.8 * XH, rtol=0, atol=0.06)
    both = torch.cov(torch.stack([found["mean"], found["z"].mean(1)]))
    assert abs(float(both[0, 1] / both[0, 0]) - 0.2) < 0.06  # jointly
    line = found.summary().loc["mean"]
    assert abs(line["mean"] - float(centre)) < 0.1 * variance**0.5
    assert line["ess"] > 1000
    # rows given the draws, for leave-one-out and predictions
    expected = dist.Normal(found["mean"][:, None], 1.25**0.5).log_prob(XH)
    assert (found.log_likelihood["x"] - expected).abs().mean() < 0.1  # 8 draws of each row's own latent
    new = ppl_vae.impute(hierarchy, far_hierarchy, {"x": t([math.nan])}, posterior=found, particles=40_000)
    assert abs(float(new.mean["x"][0]) - float(centre)) < 0.2


def test_a_unit_without_rows_is_moved_too():
    found = ppl_vae.posterior(regression, narrow, DATA, rows=None)
    sd = COVARIANCE.diagonal().sqrt()
    assert found.moves is not None
    assert ((found["b"].mean(0) - MEAN).abs() < 0.15 * sd).all()
    assert (found["b"].std(0) / sd - 1).abs().max() < 0.12


def test_draws_of_the_guide_and_weights_alone_are_left_as_asked_for():
    for how in ("psis", None):
        assert ppl_vae.posterior(regression, narrow, DATA, resample=how).moves is None


def alone(a=None, y=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(2, dtype=F64), 2.0).to_event(1))
    with pyro.plate("data", len(a)):
        pyro.sample("y", dist.Normal(a @ b, 0.7), obs=y)


def test_a_program_without_room_for_particles_is_mapped_over_chains():
    values, moves = moved(alone, narrow, DATA)
    sd, draws = COVARIANCE.diagonal().sqrt(), values["b"].reshape(-1, 2)
    assert ((draws.mean(0) - MEAN).abs() < 4 * sd / moves.ess(draws[:, 0]) ** 0.5).all()
    assert (draws.std(0) / sd - 1).abs().max() < 0.12
    assert moves.believed


def by_group(group=None, y=None):
    tau = pyro.sample("tau", dist.HalfNormal(t(5.0)))
    with pyro.plate("groups", 3):
        effect = pyro.sample("effect", dist.Normal(t(0.0), tau))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(effect[group], 1.0), obs=y)


def of_groups(group=None, y=None):
    pyro.sample("tau", dist.LogNormal(t(0.0), 0.3))
    with pyro.plate("groups", 3):
        pyro.sample("effect", dist.Normal(t(0.5), 0.5))


def test_a_mapped_bridge_has_the_densities_and_gradients_of_single_runs_in_both_coordinates():
    data = {"group": torch.tensor([0, 0, 1, 2]), "y": t([0.5, 1.0, -0.3, 2.0])}
    pair, batch = Pair(by_group, of_groups), as_one_unit(data).batch()
    structure = analyse(pair, batch)
    assert not structure.broadcasts
    mapped = tempering._near_guide(Bridge(pair, structure, batch, "prior"), batch, 40)
    single = Bridge(pair, structure, batch, "prior").from_normal(mapped.normal.loc, mapped.normal.scale_tril)
    others = [apart(bridge, batch, mapped.drawn(batch, 3)) for bridge in (mapped, single)]
    u = mapped.drawn(batch, 5)
    for one, other in ((mapped, single), tuple(others)):
        for mine, theirs in zip(one(batch, u, t(0.3), 1), other(batch, u, t(0.3), 1), strict=True):
            torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(mapped(batch, u, t(0.3), 1)[0], mapped.normal.log_prob(u))
    away = mapped.exchanged(batch, u, others[0])
    torch.testing.assert_close(others[0].exchanged(batch, away, mapped), u)
    # the same density in other coordinates, by |du / de| of three effects
    start, target, _ = others[0](batch, away, t(0.3), 1)
    log_tau = mapped.values(batch, u)["tau"].reshape(5, 1).log()
    torch.testing.assert_close(start, mapped.normal.log_prob(u) + 3 * log_tau)
    torch.testing.assert_close(target, mapped(batch, u, t(0.3), 1)[1] + 3 * log_tau)


def test_a_program_that_looks_at_values_is_said_to_be_not_believed():
    def looking(a=None, y=None):
        b = pyro.sample("b", dist.Normal(torch.zeros(2, dtype=F64), 2.0).to_event(1))
        with pyro.plate("data", len(a)):
            pyro.sample("y", dist.Normal(a @ b, 0.7 if float(b.sum()) > -1e9 else 0.8), obs=y)

    found = ppl_vae.posterior(looking, narrow, DATA, draws=50, particles=100)
    assert found.moves is None
    assert "not to be believed" in found.findings[0].problem


def even(y=None):
    m = pyro.sample("m", dist.Normal(t(0.0), 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m**2, 1.0), obs=y)


def one_sided(y=None):
    pyro.sample("m", dist.Normal(t(1.99), 0.11))


def test_a_part_of_the_posterior_that_the_guide_never_draws_is_found_from_the_prior():
    found = ppl_vae.posterior(even, one_sided, {"y": t([3.5, 4.2, 4.6, 3.9, 3.8])})
    assert found.khat < 0.5  # of the guide, which sees one sign alone
    assert found.moves.start == "prior"
    assert "part of the posterior that no draw reached, where m is about -2" in found.findings[0].problem
    assert not found.moves.believed  # no chain goes from one to the other
    assert 0.1 < float((found["m"] < 0).double().mean()) < 0.9
    torch.testing.assert_close(found["m"].abs().mean(), t(1.99), rtol=0, atol=0.05)


def test_where_the_other_part_cannot_be_moved_to_it_is_said(monkeypatch):
    def refused(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(_joint_draws, "moved_draws", refused)
    found = ppl_vae.posterior(even, one_sided, {"y": t([3.5, 4.2, 4.6, 3.9, 3.8])})
    assert found.moves is None
    assert "means and deviations are those of one part" in found.findings[-1].problem
    assert ppl_vae.posterior(even, one_sided, {"y": t([3.5, 4.2, 4.6, 3.9, 3.8])}, resample="psis").findings == ()


def test_a_posterior_of_one_part_has_none_elsewhere():
    pair, batch = Pair(regression, narrow), as_one_unit(DATA).batch()
    draws = {"b": dist.MultivariateNormal(MEAN, COVARIANCE).sample((2000,))}
    logs, mass = torch.zeros(2000, dtype=F64), float(marginal())
    structure = analyse(pair, batch)
    assert elsewhere(pair, structure, batch, 30, draws, logs, mass) is None
    away = {"b": draws["b"] + 40 * COVARIANCE.diagonal().sqrt()}
    there = elsewhere(pair, structure, batch, 30, away, logs, mass)
    assert there.site == "b"
    assert 0.02 < there.mass < 50  # the evidence of these chains is not exact
    assert elsewhere(pair, structure, batch, 30, away, logs, mass + 20) is None  # chains that have lost their way


@pytest.mark.slow
def test_eight_schools_from_draws_that_miss_the_neck_are_those_of_quadrature():
    y, sigma = t([28.0, 8, -3, 7, -1, 1, 18, 12]), t([15.0, 10, 16, 11, 9, 11, 10, 18])

    def model(sigma, y=None):
        mu = pyro.sample("mu", dist.Normal(t(0.0), 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(t(5.0)))
        with pyro.plate("data", len(sigma)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    def guide(sigma, y=None):
        pyro.sample("mu", dist.Normal(t(5.0), 1.0))
        pyro.sample("tau", dist.LogNormal(t(2.0), 0.3))
        with pyro.plate("data", len(sigma)):
            pyro.sample("theta", dist.Normal(t(6.0), 4.0).expand([len(sigma)]))

    found = ppl_vae.posterior(model, guide, {"y": y, "sigma": sigma}, draws=4000)
    log_tau, mu = torch.linspace(-7, 6, 1301, dtype=F64), torch.linspace(-25, 30, 1101, dtype=F64)
    tau = log_tau.exp()
    logs = dist.Normal(0.0, 5.0).log_prob(mu) + (dist.HalfCauchy(5.0).log_prob(tau) + log_tau)[:, None]
    for one, error in zip(y, sigma, strict=True):
        logs = logs + dist.Normal(mu, (tau**2 + error**2).sqrt()[:, None]).log_prob(one)
    chances = logs.flatten().softmax(0).reshape(logs.shape)
    for name, grid, marginal_of in (("mu", mu, chances.sum(0)), ("tau", log_tau, chances.sum(1))):
        mean = float((marginal_of * grid).sum())
        sd = float((marginal_of * (grid - mean).square()).sum() ** 0.5)
        draws = found[name] if name == "mu" else found[name].log()
        assert abs(float(draws.mean()) - mean) < 0.15 * sd
        assert abs(float(draws.std()) / sd - 1) < 0.1
