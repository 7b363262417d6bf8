"""Which part of a guide is said to be at fault, where it is known which one is."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, XH, hierarchy, t
from test_joint import COVARIANCE, DATA, MEAN, regression

import ppl_vae

Y = {"x": t([[1.0, -1.0]]).expand(8, 2)}


def model(x):
    a = pyro.sample("a", dist.Normal(t(0.0), 1.0))
    b = pyro.sample("b", dist.Normal(t(0.0), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.stack([a, b], -1), 2.0).to_event(1), obs=x)  # precision 8 / 4 of each


EXACT, SD = 2 / 3, 3**-0.5


def guide_of(shift=0.0, width=1.0):
    def guide(x):
        pyro.sample("a", dist.Normal(t(EXACT) + shift * SD, SD))
        pyro.sample("b", dist.Normal(t(-EXACT), width * SD))

    return guide


@pytest.mark.parametrize(
    ("guide", "what"), [(guide_of(shift=1.0), "a"), (guide_of(width=0.5), "b")], ids=["shifted", "narrow"]
)
def test_the_part_at_fault_comes_first(guide, what):
    found = ppl_vae.evaluate(model, guide, Y, particles=4000)
    assert found.faults[0].what == what
    assert found.faults[0].share > 0.95
    assert all(f.share < 0.05 for f in found.faults[1:])
    if what == "b":  # draws from beyond the guide are weighed in: the evidence is right, and what was left out is said
        exact = 2 * dist.MultivariateNormal(torch.zeros(8), 4 * torch.eye(8) + 1).log_prob(torch.ones(8))
        assert abs(found.log_evidence - float(exact)) < 4 * found.log_evidence_se
        assert found.findings[0].site == "b"
        assert "leaves out" in found.findings[0].problem
    if what == "a":
        assert abs(found.faults[0].shift + 1) < 0.15
        assert abs(found.faults[0].width - 1) < 0.1


def test_weights_of_the_guide_alone_are_said_to_be_that(monkeypatch):
    """What keeps draws from being placed beyond the guide is told, whatever it is: k-hat is blind there."""

    def broken(*args):
        raise RuntimeError("no room")

    monkeypatch.setattr("ppl_vae.evaluation.joint_weights.beyond_guide", broken)
    found = ppl_vae.evaluate(model, guide_of(width=0.9), Y, particles=1000)
    assert "only draws of the guide of a, b are weighed (no room)" in found.findings[0].problem
    assert any("no room" in f.problem for f in ppl_vae.posterior(model, guide_of(width=0.9), Y).findings)
    assert "no room" in ppl_vae.diagnostics.joint_posterior(model, guide_of(width=0.9), Y).verdict


def test_more_shared_numbers_than_have_directions_are_said():
    def wide(x):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(120, dtype=F64), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("mean", dist.Normal(torch.zeros(120, dtype=F64), 2**-0.5).to_event(1))

    found = ppl_vae.evaluate(wide, guide, {"x": torch.zeros(1, 120, dtype=F64)}, particles=1000)
    assert "all rows share 120 numbers, more than 100" in found.findings[0].problem


def test_a_dependence_that_mean_field_misses_is_told():
    def mean_field(a=None, y=None):  # the best one: log w is a product of both coefficients alone
        scale = COVARIANCE.inverse().diagonal().rsqrt()
        pyro.sample("b", dist.Normal(MEAN, scale).to_event(1))

    found = ppl_vae.evaluate(regression, mean_field, DATA, particles=4000)
    assert found.faults[0].what == "dependence"
    assert found.faults[0].share > 0.95


def test_an_exact_guide_has_no_fault():
    found = ppl_vae.evaluate(model, guide_of(), Y, particles=1000)
    assert not found.findings
    assert all(f.share == 0 or found.khat < 0.1 for f in found.faults)


def test_the_noise_of_the_rows_own_draws_is_told():
    """With the exact guide of what is shared and a wide one of the rows, all of the variance is the rows' noise."""
    n = len(XH)
    variance = 1 / (1 / 4 + n / 1.25)

    def guide(x):
        pyro.sample("mean", dist.Normal(variance * x.sum() / 1.25, variance**0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 1.0))

    found = ppl_vae.evaluate(hierarchy, guide, {"x": XH}, particles=2000)
    assert found.faults[0].what == "rows"
    assert found.faults[0].share > 0.7
    more = ppl_vae.evaluate(hierarchy, guide, {"x": XH}, particles=2000, inner=64)
    assert more.log_evidence_se < found.log_evidence_se / 2


def test_the_finding_says_which_site():
    found = ppl_vae.posterior(model, guide_of(width=0.3), Y)
    assert found.findings[0].site == "b"
    assert "leaves out" in found.findings[0].problem
    assert abs(found.summary().loc["b", "mean"] + EXACT) < 0.1
    assert found.faults[0].what == "b"
    assert found["b"].dtype == F64
