"""The gap between log evidence and ELBO taken apart, against the closed forms of the linear-Gaussian model."""

from __future__ import annotations

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, PROBLEMS, X, linear_gaussian, linear_gaussian_off, nothing, t

from ppl_vae.diagnostics import gap
from ppl_vae.errors import NoDensity, UserError
from ppl_vae.guides import MeanField

PROBLEM = {p.name: p for p in PROBLEMS}

SIGMA = 0.8
OPTIMISER = 0.005
"""Nats by which refining may end below the optimum: its last steps are noisy."""


class Linear:
    """A linear-Gaussian model, and encoders that give the best mean-field normal of every row, moved by an offset."""

    def __init__(self, w):
        self.w = w
        self.precision = torch.eye(2, dtype=F64) + w @ w.T / SIGMA**2
        self.scales = self.precision.diagonal() ** -0.5
        self.gap = 0.5 * (self.precision.diagonal().log().sum() - torch.logdet(self.precision))

    def model(self, x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.w, SIGMA).to_event(1), obs=x)

    def evidence(self, x):
        covariance = self.w.T @ self.w + SIGMA**2 * torch.eye(4, dtype=F64)
        return dist.MultivariateNormal(torch.zeros(4, dtype=F64), covariance).log_prob(x)

    def encoder(self, offset=0.0):
        def guide(x=None):
            with pyro.plate("data", len(x)):
                mean = x @ self.w.T @ torch.linalg.inv(self.precision) / SIGMA**2
                pyro.sample("z", dist.Normal(mean + offset, self.scales).to_event(1))

        return guide


MILD = Linear(t([[1.0, 0.8, -0.4, 0.2], [0.4, 1.0, 0.7, 0.5]]))
# so correlated that importance weights under independent normals have no variance: annealing is needed
STRONG = Linear(t([[1.0, 0.8, -0.4, 0.2], [0.9, 1.0, -0.3, 0.5]]))
model, encoder, evidence, FAMILY, PRECISION = MILD.model, MILD.encoder, MILD.evidence, MILD.gap, MILD.precision


def within(value, error, exact, slack=(0.0, 0.0)):
    """Whether values are within four standard errors of a number; refining may miss it to one side."""
    return bool(((value > exact - 4 * error - slack[0]) & (value < exact + 4 * error + slack[1])).all())


@pytest.mark.parametrize(("linear", "source"), [(MILD, "iwae"), (STRONG, "ais")], ids=["iwae", "ais"])
def test_the_best_linear_encoder_leaves_only_the_family_s_gap(linear, source):
    settings = {"chains": 150, "temperatures": 8, "compile": "off"} if source == "ais" else {}
    found = gap(linear.model, linear.encoder(), X, evidence=source, particles=4000, **settings)
    assert within(found.log_evidence, found.log_evidence_se, linear.evidence(X))
    assert within(found.amortization, found.amortization_se, 0.0, slack=(OPTIMISER, 0.0))
    assert within(found.approximation, found.approximation_se, linear.gap, slack=(0.0, OPTIMISER))
    assert float(linear.gap) > 10 * OPTIMISER
    assert "a richer family" in found.verdict
    assert found.evidence == source


def test_an_offset_shows_as_exactly_its_amortization_gap():
    offset = t([0.5, -0.3])
    found = gap(model, encoder(offset), X, particles=4000)
    cost = 0.5 * offset @ (PRECISION.diagonal() * offset) + PRECISION[0, 1] * offset.prod()
    assert within(found.amortization, found.amortization_se, cost, slack=(OPTIMISER, 0.0))
    assert within(found.approximation, found.approximation_se, FAMILY, slack=(0.0, OPTIMISER))
    assert within(found.elbo, found.elbo_se, evidence(X) - FAMILY - cost)
    assert found.elbo_se.max() > 2 * found.refined_elbo_se.max()


def test_errors_are_those_of_repeated_runs():
    runs = [gap(model, encoder(0.2), X[:1], particles=200, steps=3, seed=seed) for seed in range(12)]
    for name in ("elbo", "approximation", "amortization"):
        values = torch.cat([getattr(r, name) for r in runs])
        error = torch.cat([getattr(r, f"{name}_se") for r in runs]).mean()
        assert 0.4 < float(values.std() / error) < 2.2  # 12 runs: the deviation itself is known to a fifth


def test_the_parts_add_up():
    found = gap(linear_gaussian, linear_gaussian_off, X, particles=200, steps=20)
    torch.testing.assert_close(found.approximation + found.amortization, found.log_evidence - found.elbo)


def test_a_generated_guide_is_refined_through_its_heads():
    torch.manual_seed(0)
    made = MeanField(model, X.float(), hidden=(4,)).double()
    found = gap(model, made, X, particles=2000, steps=300)
    assert within(found.approximation, found.approximation_se, FAMILY, slack=(0.0, 2 * OPTIMISER))
    assert (found.amortization > 4 * found.amortization_se).all()


def test_labels_get_styles_of_their_own():
    """The family holds the posterior: a normal for every label, once offsets differ by label."""
    problem = PROBLEM["style, some labels"]
    found = gap(problem.model, problem.guide, problem.batch, particles=2000)
    assert within(found.approximation, found.approximation_se, 0.0, slack=(0.0, OPTIMISER))
    assert within(found.log_evidence, found.log_evidence_se, problem.log_evidence)
    assert (found.amortization > 4 * found.amortization_se).all()
    assert "a larger encoder" in found.verdict


@pytest.mark.parametrize("name", ["Beta-Binomial", "linear-Gaussian with holes", "repeated measurements"])
def test_every_kind_of_latent_is_refined(name):
    problem = PROBLEM[name]
    found = gap(problem.model, problem.guide, problem.batch, particles=1000, steps=100)
    assert within(found.log_evidence, found.log_evidence_se, problem.log_evidence, slack=(0.01, 0.01))
    assert (found.refined_elbo < problem.log_evidence + 4 * found.refined_elbo_se).all()
    assert float(found.amortization.mean()) > 4 * float(found.amortization_se.square().sum().sqrt() / len(found.elbo))


def test_where_nothing_is_latent_in_the_guide_there_is_no_gap():
    problem = PROBLEM["mixture, collapsed"]
    found = gap(problem.model, nothing, problem.batch, particles=10)
    torch.testing.assert_close(found.log_evidence, problem.log_evidence)
    assert float(found.amortization.abs().max()) == 0
    assert "loses almost nothing" in found.verdict


def test_seeds_and_generators():
    before = torch.get_rng_state()
    found = [gap(model, encoder(0.2), X, particles=20, steps=2, seed=s).elbo for s in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_rows_in_several_passes_are_all_there():
    rows = X.repeat(2, 1)
    found = gap(model, encoder(0.2), rows, particles=100, steps=10, floats_at_once=4000)
    assert found.elbo.shape == (6,)
    assert ((found.log_evidence - evidence(rows)).abs() < 4 * found.log_evidence_se + 0.02).all()


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UserError, match="unknown evidence 'iwa': did you mean 'iwae'"):
        gap(model, encoder(), X, evidence="iwa")
    with pytest.raises(UserError, match="steps must be a whole number of at least 1"):
        gap(model, encoder(), X, steps=0)

    def point(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x[:, :2]).to_event(1))

    with pytest.raises(NoDensity, match="'z' is a point"):
        gap(model, point, X)

    def mixture(x=None):
        with pyro.plate("data", len(x)):
            parts = dist.Normal(torch.zeros(len(x), 2, 3, dtype=F64), 1.0)
            shares = dist.Categorical(torch.ones(len(x), 2, 3))
            pyro.sample("z", dist.MixtureSameFamily(shares, parts).to_event(1))

    with pytest.raises(UserError, match="MixtureSameFamily at site 'z' cannot be refined"):
        gap(model, mixture, X)


def test_results_are_told_and_drawn():
    found = gap(model, encoder(0.2), X, particles=50, steps=5)
    summary = json.loads(json.dumps(found.summary()))
    assert summary["rows"] == 3
    assert summary["approximation"] == pytest.approx(float(found.approximation.mean()))
    assert {"elbo_se", "amortization_mc_se", "verdict"} <= summary.keys()
    figure = found.figure()
    assert all("nats" in ax.get_ylabel() for ax in figure.axes)
