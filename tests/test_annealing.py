"""Annealed importance sampling and bidirectional Monte Carlo on problems with known evidence."""

from __future__ import annotations

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import (
    COUNTS,
    F64,
    PROBLEMS,
    PROGRAMS,
    X,
    fields_of,
    gamma_poisson,
    gaussian_evidence,
    gaussian_evidence_holes,
    labelled_evidence,
    linear_gaussian,
    linear_gaussian_off,
)
from cases.gaussian import XH, hierarchy, hierarchy_evidence, hierarchy_guide

from ppl_vae.checks.analysis import analyse
from ppl_vae.diagnostics import annealed_evidence, bidirectional
from ppl_vae.diagnostics._evidence.ladder import rungs
from ppl_vae.errors import UserError
from ppl_vae.evaluation import chunks
from ppl_vae.evaluation.bridge import Bridge
from ppl_vae.guides import FullRank, MeanField, Planar
from ppl_vae.programs.execution import run
from ppl_vae.programs.program import Pair
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.reduction import reduced

PROBLEM = {p.name: p for p in PROBLEMS}
MOVING = (
    "linear-Gaussian",
    "linear-Gaussian with holes",
    "style, some labels",
    "style, label collapsed",
    "repeated measurements",
    "Beta-Binomial",
)
QUICK = {"temperatures": 8, "steps": 3, "compile": "off"}


@pytest.mark.parametrize(  # each problem from one of the starts; the other one is a slow test
    ("name", "start"),
    [
        pytest.param(name, start, marks=() if (i + j) % 2 else pytest.mark.slow)
        for i, name in enumerate(MOVING)
        for j, start in enumerate(("guide", "prior"))
    ],
)
def test_both_starts_find_the_evidence(name, start):
    problem = PROBLEM[name]
    found = annealed_evidence(problem.model, problem.guide, problem.batch, chains=200, start=start, **QUICK)
    assert (found.log_evidence_se < 0.2).all()
    assert ((found.log_evidence - problem.log_evidence).abs() < 4 * found.log_evidence_se).all()
    assert float(found.acceptance.min()) > 0.4
    assert float(found.acceptance.max()) < 0.9


@pytest.mark.parametrize("name", ["mixture, some labels", "chain, classifiers", "mixture, collapsed"])
def test_without_continuous_latents_the_sum_is_exact(name):
    problem = PROBLEM[name]
    found = annealed_evidence(problem.model, problem.guide, problem.batch, **QUICK)
    torch.testing.assert_close(found.log_evidence, problem.log_evidence)
    assert (found.log_evidence_se < 1e-6).all()
    assert "all rows" in found.verdict


def test_transitions_make_the_estimate_better_than_the_start_alone():
    few, many = (
        annealed_evidence(
            linear_gaussian, linear_gaussian_off, X, chains=200, start="prior", **(QUICK | {"temperatures": t})
        )
        for t in (1, 16)
    )
    assert (many.ess > 2 * few.ess).all()
    assert (many.log_evidence_se < few.log_evidence_se).all()


@pytest.mark.parametrize(
    "name", ["vector", "positive vector", "simplex", "correlations", "two layers", "alike measurements", "interval"]
)
def test_the_two_ends_differ_by_the_log_weight(name):
    model = PROGRAMS[name]
    batch = {n: v.double() for n, v in fields_of(model).items()}
    torch.set_default_dtype(F64)
    try:
        guide = FullRank(model, batch, hidden=(4,))
        pair = Pair(model, guide)
        structure = analyse(pair, batch)
        bridge = Bridge(pair, structure, batch, "guide")
        drawn = run(pair, structure, batch, 3)
        parts = reduced(Factors(drawn))
        u = bridge._packed(drawn.model.nodes, 3, batch)
        start, target, gradient = bridge(batch, u, torch.ones(()), 1)
    finally:
        torch.set_default_dtype(torch.float32)
    expected = parts.log_likelihood + parts.log_prior - parts.log_guide
    torch.testing.assert_close(target - start, expected.detach(), rtol=1e-6, atol=1e-6)
    assert gradient.shape == u.shape
    step = 1e-5 * torch.randn_like(u)
    torch.set_default_dtype(F64)
    try:
        ends = [bridge(batch, u + sign * step, torch.ones(()), 1)[1] for sign in (1, -1)]
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close((ends[0] - ends[1]) / 2, (gradient * step).sum(-1), rtol=1e-3, atol=1e-8)


def test_powers_go_from_one_end_to_the_other():
    powers = rungs(10)
    assert float(powers[0]) == 0
    assert float(powers[-1]) == 1
    assert (powers.diff() > 0).all()
    torch.testing.assert_close(powers + powers.flip(0), torch.ones(11, dtype=F64))


def test_good_and_broken_acceptance_are_told_apart():
    problem = PROBLEM["linear-Gaussian"]

    def told(**options):
        return annealed_evidence(problem.model, problem.guide, problem.batch, **QUICK, **options)

    good, broken, tiny = told(), told(step_size=30.0), told(step_size=1e-4)
    assert 0.5 < float(good.acceptance.mean()) < 0.85
    assert "Not to be trusted" not in good.verdict
    assert float(broken.acceptance.mean()) < 0.1
    assert "Not to be trusted: only" in broken.verdict
    assert "smaller step_size" in broken.verdict
    assert float(tiny.acceptance.mean()) > 0.97
    assert "larger step_size" in tiny.verdict


def test_chains_that_disagree_are_named():
    problem = PROBLEM["linear-Gaussian"]
    found = annealed_evidence(problem.model, problem.guide, problem.batch, chains=2, **(QUICK | {"temperatures": 1}))
    assert found.uncertain.any()
    assert "double the temperatures" in found.verdict
    assert "single chain" in annealed_evidence(problem.model, problem.guide, problem.batch, chains=1, **QUICK).verdict


def decoder(x=None):
    weights = torch.tensor([[1.0, 0.5, -0.3], [0.1, -0.8, 0.6]])
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal((z @ weights).tanh(), 0.5).to_event(1), obs=x)


def test_a_captured_density_has_the_eager_numbers(monkeypatch):
    monkeypatch.setattr(chunks, "compiled", lambda graph, inputs: graph)
    rows = torch.randn(5, 3)
    guide = MeanField(decoder, rows, hidden=(4,))
    few = {"temperatures": 3, "steps": 2}
    found = [annealed_evidence(decoder, guide, rows, **few, compile=mode) for mode in ("off", "on")]
    assert torch.equal(found[0].log_weights, found[1].log_weights)
    assert torch.equal(found[0].acceptance, found[1].acceptance)


@pytest.mark.slow
def test_a_compiled_density_has_the_eager_numbers():
    rows = torch.randn(5, 3)
    guide = MeanField(decoder, rows, hidden=(4,))
    found = [annealed_evidence(decoder, guide, rows, **(QUICK | {"compile": mode})) for mode in ("off", "on")]
    torch.testing.assert_close(found[0].log_weights, found[1].log_weights, rtol=1e-3, atol=1e-3)


def test_what_the_rows_alone_decide_is_computed_once(monkeypatch):
    monkeypatch.setattr(chunks, "compiled", lambda graph, inputs: graph)
    rows = torch.randn(5, 3)
    guide = MeanField(decoder, rows, hidden=(4,))
    pair = Pair(decoder, guide)
    batch = {"x": rows}
    bridge = Bridge(pair, analyse(pair, batch), batch, "guide", "on")
    with torch.no_grad():
        u = bridge.drawn(batch, 2)
        bridge(batch, u, torch.ones(()), 1)
    (runs,) = bridge._run.by_shape.values()
    multiplied = [sum("mm" in str(n.target) for n in part.module.graph.nodes) for part in (runs.once, runs.each)]
    assert multiplied[0] >= 2  # the encoder's layer and head
    assert multiplied[1] == 2  # the decoder, forwards and backwards


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_generators_alone():
    rows, few = torch.randn(3, 3), {"temperatures": 2, "steps": 1, "compile": "off"}
    guide = MeanField(decoder, rows, hidden=(4,)).train()
    before = torch.get_rng_state()
    found = [annealed_evidence(decoder, guide, rows, chains=2, seed=s, **few).log_weights for s in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert guide.training


def test_rows_in_several_passes_are_all_there():
    problem = PROBLEM["Beta-Binomial"]
    rows = {"x": COUNTS.repeat(3)}
    found = annealed_evidence(
        problem.model, problem.guide, rows, chains=8, floats_at_once=3000, **(QUICK | {"temperatures": 4})
    )
    assert found.log_weights.shape == (8, 12)
    exact = problem.log_evidence.repeat(3)
    assert ((found.log_evidence - exact).abs() < 4 * found.log_evidence_se + 0.02).all()


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_a_model_that_needs_a_plate_of_its_own_shape_runs_chain_by_chain(start):
    def stubborn(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
            mean = z.reshape(len(x), 1).expand(len(x), 2)  # lets no dim be added on the left
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x.mean(-1), 0.8))

    rows = torch.tensor([[0.5, 1.0], [-1.0, 0.3]], dtype=F64)
    found = annealed_evidence(stubborn, guide, rows, chains=4, start=start, **(QUICK | {"temperatures": 4, "steps": 2}))
    covariance = torch.ones(2, 2, dtype=F64) + torch.eye(2, dtype=F64)
    exact = dist.MultivariateNormal(torch.zeros(2, dtype=F64), covariance).log_prob(rows)
    assert ((found.log_evidence - exact).abs() < 4 * found.log_evidence_se + 0.01).all()


def sized(x=None, w=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
        pyro.sample("w", dist.LogNormal(z, 1.0), obs=w)
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def sized_guide(x=None, w=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.4 * x, 0.8))
        pyro.sample("w", dist.LogNormal(0.9 * z, 1.1))


@pytest.mark.parametrize("start", ["guide", pytest.param("prior", marks=pytest.mark.slow)])
def test_a_size_that_is_latent_in_some_rows_only(start):
    x, w = torch.tensor([0.3, -1.0, 1.5]).double(), torch.tensor([2.0, torch.nan, 0.4]).double()
    few = {"chains": 8, "temperatures": 3, "steps": 2, "compile": "off"}  # such a pair runs chain by chain
    found = annealed_evidence(sized, sized_guide, {"x": x, "w": w}, start=start, **few)
    size = w.nan_to_num(1.0).log()
    covariance = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    joint = dist.MultivariateNormal(torch.zeros(2, dtype=F64), covariance).log_prob(torch.stack([x, size], -1))
    exact = torch.where(w.isnan(), dist.Normal(0.0, 2**0.5).log_prob(x), joint - size)
    assert ((found.log_evidence - exact).abs() < 4 * found.log_evidence_se).all()
    assert float(found.acceptance.min()) > 0.3


# -- both directions ---------------------------------------------------------------------------------------------

EXACT = {
    "linear-Gaussian": lambda rows: gaussian_evidence(rows["x"]),
    "linear-Gaussian with holes": lambda rows: gaussian_evidence_holes(rows["x"]),
    "style, some labels": lambda rows: labelled_evidence(rows["x"], rows["y"], 1.36**0.5),
    "Gamma-Poisson": lambda rows: dist.GammaPoisson(torch.tensor(3.0).double(), torch.tensor(1.5).double()).log_prob(
        rows["x"]
    ),
}


def standard_error(values):
    return float(values.std() / len(values) ** 0.5)


@pytest.mark.parametrize("name", EXACT)
def test_bounds_from_both_sides_hold_the_evidence(name):
    problem = PROBLEM[name]
    found = bidirectional(
        problem.model, problem.guide, problem.batch, rows=100, chains=4, **(QUICK | {"temperatures": 4})
    )
    exact = EXACT[name](found.rows)
    low, high = found.lower - exact, found.upper - exact
    assert float(low.mean()) < 4 * standard_error(low)
    assert float(high.mean()) > -4 * standard_error(high)
    assert abs(float(low.mean())) < 0.4
    assert abs(float(high.mean())) < 0.4
    assert float(exact.std()) > 0.1


def test_more_temperatures_bring_the_bounds_together():
    found = [
        bidirectional(
            linear_gaussian,
            linear_gaussian_off,
            X,
            rows=150,
            chains=2,
            start="prior",
            **(QUICK | {"temperatures": t}),
        )
        for t in (2, 20)
    ]
    assert found[0].gap_mean > 4 * found[0].gap_se
    for side in ("lower", "upper"):
        apart = [(getattr(f, side) - gaussian_evidence(f.rows["x"])).mean().abs() for f in found]
        assert apart[1] < apart[0] / 3
    assert found[1].gap_mean < found[0].gap_mean / 3
    assert "is certain to" in found[1].verdict


def test_simulated_rows_miss_what_the_data_miss():
    problem = PROBLEM["style, some labels"]
    found = bidirectional(
        problem.model, problem.guide, problem.batch, rows=7, chains=2, **(QUICK | {"temperatures": 2})
    )
    missing = (problem.batch["y"] == -1).repeat(2)[:7]
    assert torch.equal(found.rows["y"] == -1, missing)
    assert not torch.equal(found.rows["x"][:5], problem.batch["x"])
    assert json.loads(json.dumps(found.summary()))["rows"] == 7


def test_a_certificate_is_refused_with_broken_moves():
    found = bidirectional(linear_gaussian, linear_gaussian_off, X, rows=5, chains=2, step_size=30.0, **QUICK)
    assert found.verdict.startswith("No certificate: only")


def test_a_site_that_observes_no_field_is_refused():
    def scaled(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x[:, :1] / 2)

    with pytest.raises(UserError, match="that are no field of the data"):
        bidirectional(scaled, linear_gaussian_off, X, rows=2, **QUICK)


# -- refusals and words ------------------------------------------------------------------------------------------


def test_what_has_no_meaning_is_refused():
    counted = PROBLEM["count without end"]
    with pytest.raises(UserError, match="'c' is Poisson: annealing moves continuous"):
        annealed_evidence(counted.model, counted.guide, counted.batch, **QUICK)
    with pytest.raises(UserError, match="unknown start 'prio': did you mean 'prior'"):
        annealed_evidence(linear_gaussian, linear_gaussian_off, X, start="prio", **QUICK)
    with pytest.raises(UserError, match="chains must be a whole number"):
        annealed_evidence(linear_gaussian, linear_gaussian_off, X, chains=0)
    with pytest.raises(UserError, match="step_size must be positive"):
        annealed_evidence(linear_gaussian, linear_gaussian_off, X, step_size=0.0)
    with pytest.raises(UserError, match="rows must be a whole number"):
        bidirectional(linear_gaussian, linear_gaussian_off, X, rows=0)


def test_a_guide_without_inverse_starts_from_the_prior():
    rows = torch.randn(3, 3)
    guide = Planar(decoder, rows, hidden=(4,), flows=1)
    with pytest.raises(UserError, match=r"no inverse, .* use start='prior'"):
        annealed_evidence(decoder, guide, rows, **QUICK)
    assert torch.isfinite(annealed_evidence(decoder, guide, rows, start="prior", **QUICK).log_evidence).all()


def test_an_auxiliary_variable_of_the_guide_is_refused_by_name():
    def guide(x=None):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0 * x, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Gamma(2.5 + 0.1 * a.abs(), 2.2 * torch.ones_like(x)))

    with pytest.raises(UserError, match="auxiliary site 'a'"):
        annealed_evidence(gamma_poisson, guide, COUNTS, **QUICK)


def test_results_are_told_and_drawn():
    problem = PROBLEM["linear-Gaussian"]
    found = annealed_evidence(problem.model, problem.guide, problem.batch, **QUICK)
    both = bidirectional(problem.model, problem.guide, problem.batch, rows=4, chains=2, **QUICK)
    summary = json.loads(json.dumps(found.summary()))
    assert summary["log_evidence"] == pytest.approx(float(found.log_evidence.mean()))
    assert summary["temperatures"] == 8
    for figure in (found.figure(), both.figure()):
        assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
        assert "nats" in figure.axes[0].get_ylabel()


def test_a_data_set_whose_rows_share_latents_is_simulated_whole():
    options = {"chains": 16, "temperatures": 60, "steps": 3, "start": "prior"}
    found = bidirectional(hierarchy, hierarchy_guide, {"x": XH}, **options)
    assert len(found.gap) == 1
    assert len(found.rows) == len(XH)
    exact = float(hierarchy_evidence(found.rows["x"]))
    assert float(found.lower) - 4 * float(found.lower_se) < exact < float(found.upper) + 4 * float(found.upper_se)
    assert abs(found.gap_mean) < 4 * found.gap_se + 0.1
    assert "one simulated data set of 7 rows" in found.verdict
