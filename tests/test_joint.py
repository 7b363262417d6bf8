"""Latents that all rows share: joint weights, their evidence, and what single rows are worth, against closed forms."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.gaussian import XH, hierarchy, hierarchy_elbo, hierarchy_evidence, hierarchy_guide
from cases.problem import F64, t

import ppl_vae
from ppl_vae.data import as_split
from ppl_vae.errors import NoDensity, UserError
from ppl_vae.evaluation import evaluate_rows
from ppl_vae.evaluation.joint_evaluation import evaluate_jointly
from ppl_vae.evaluation.joint_weights import draw_particles, joint_passes, joint_weights
from ppl_vae.programs.program import Pair

# -- a conjugate regression: y ~ N(X b, s^2), b ~ N(0, 4 I), everything known --------------------------------------

ROWS, NOISE, PRIOR = 30, 0.7, 2.0
A = torch.randn(ROWS, 2, generator=torch.manual_seed(3), dtype=F64) + t([0.0, 2.0])
Y = A @ t([1.0, -0.5]) + NOISE * torch.randn(ROWS, generator=torch.manual_seed(4), dtype=F64)
COVARIANCE = (A.T @ A / NOISE**2 + torch.eye(2, dtype=F64) / PRIOR**2).inverse()
MEAN = COVARIANCE @ A.T @ Y / NOISE**2


def regression(a=None, y=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(2, dtype=F64), PRIOR).to_event(1))
    with pyro.plate("data", len(a)):
        pyro.sample("y", dist.Normal((a * b).sum(-1), NOISE), obs=y)


def exact(a=None, y=None):
    pyro.sample("b", dist.MultivariateNormal(MEAN, COVARIANCE))


def wide(a=None, y=None):
    pyro.sample("b", dist.MultivariateNormal(MEAN + 0.05, 1.5 * COVARIANCE))


def narrow(a=None, y=None):
    pyro.sample("b", dist.Normal(MEAN + 0.3, 0.05).to_event(1))


def marginal(keep=slice(None)):
    a = A[keep]
    covariance = PRIOR**2 * a @ a.T + NOISE**2 * torch.eye(len(a), dtype=F64)
    return dist.MultivariateNormal(torch.zeros(len(a), dtype=F64), covariance).log_prob(Y[keep])


def loo_in_closed_form():
    rest = [torch.arange(ROWS) != n for n in range(ROWS)]
    return torch.stack([marginal() - marginal(keep) for keep in rest])


DATA = {"a": A, "y": Y}


def test_an_exact_guide_has_the_evidence_itself():
    found = ppl_vae.evaluate(regression, exact, DATA, particles=50)
    assert math.isclose(found.log_evidence, float(marginal()), abs_tol=1e-9)
    assert math.isclose(found.elbo, float(marginal()), abs_tol=1e-9)
    assert found.elbo_se < 1e-9
    assert found.khat == 0


def test_the_evidence_is_the_closed_form_within_its_error():
    found = ppl_vae.evaluate(regression, wide, DATA, particles=4000)
    assert abs(found.log_evidence - float(marginal())) < 4 * found.log_evidence_se < 0.1
    assert found.reliable
    assert not found.findings
    q = dist.MultivariateNormal(MEAN + 0.05, 1.5 * COVARIANCE)
    kl = torch.distributions.kl_divergence(q, dist.MultivariateNormal(MEAN, COVARIANCE))
    assert abs(found.elbo - float(marginal() - kl)) < 4 * found.elbo_se


def test_each_row_has_its_leave_one_out_density():
    found = ppl_vae.evaluate(regression, wide, DATA, particles=8000)
    torch.testing.assert_close(found.loo, loo_in_closed_form(), rtol=0, atol=0.03)
    predictive = dist.Normal(A @ MEAN, ((A @ COVARIANCE * A).sum(-1) + NOISE**2).sqrt()).log_prob(Y)
    torch.testing.assert_close(found.log_predictive, predictive, rtol=0, atol=0.02)
    assert 1 < found.summary()["p_loo"] < 3  # two coefficients


def test_held_out_rows_are_judged_by_the_posterior():
    keep = torch.arange(ROWS) < 20
    fitted = (A[keep].T @ A[keep] / NOISE**2 + torch.eye(2, dtype=F64) / PRIOR**2).inverse()

    def guide(a=None, y=None):
        pyro.sample("b", dist.MultivariateNormal(fitted @ A[keep].T @ Y[keep] / NOISE**2, fitted))

    rest = as_split({"a": A[~keep], "y": Y[~keep]})
    found = evaluate_jointly(Pair(regression, guide), as_split({"a": A[keep], "y": Y[keep]}), rest, 4000)
    mean = A[~keep] @ fitted @ A[keep].T @ Y[keep] / NOISE**2
    spread = ((A[~keep] @ fitted * A[~keep]).sum(-1) + NOISE**2).sqrt()
    torch.testing.assert_close(found.held_out, dist.Normal(mean, spread).log_prob(Y[~keep]), rtol=0, atol=0.03)
    assert found.summary()["held_out_rows"] == 10


def test_held_out_rows_alone_are_refused():
    data = ppl_vae.load({"a": A, "y": Y}, kinds={"y": "real"}, test=0.3)
    with pytest.raises(UserError, match="pass the whole data set"):
        ppl_vae.evaluate(regression, wide, data.test)


def test_a_narrow_guide_is_not_believed():
    found = ppl_vae.evaluate(regression, narrow, DATA, particles=1000)
    assert not found.reliable
    assert "k-hat" in found.findings[0].problem
    assert found.findings[0].site == "b"


@pytest.mark.parametrize("floats", [None, 20_000, 1])
def test_the_number_does_not_follow_the_batch_size(floats):
    whole = ppl_vae.evaluate(regression, wide, DATA, particles=600)
    found = ppl_vae.evaluate(regression, wide, DATA, particles=600, floats_at_once=floats)
    assert math.isclose(found.log_evidence, whole.log_evidence, abs_tol=1e-9)
    assert math.isclose(found.khat, whole.khat, abs_tol=1e-9)


# -- rows with latents of their own ----------------------------------------------------------------------------------


@pytest.mark.parametrize("floats", [None, 40_000])
def test_a_hierarchy_has_its_evidence_and_its_bound(floats):
    found = ppl_vae.evaluate(hierarchy, hierarchy_guide, {"x": XH}, particles=4000, floats_at_once=floats)
    assert abs(found.log_evidence - float(hierarchy_evidence(XH))) < 4 * found.log_evidence_se < 0.1
    assert abs(found.elbo - float(hierarchy_elbo(XH))) < 4 * found.elbo_se


def test_more_draws_within_a_row_tell_the_same_with_less_error():
    errors = []
    for inner in (1, 32):
        pair, rows = Pair(hierarchy, hierarchy_guide), as_split({"x": XH})
        with joint_passes(pair, rows, 2000, inner) as (plan, inner):
            w = joint_weights(pair, plan, draw_particles(pair, plan), inner)
        errors.append(float(w.log_weight.std()))
    assert errors[1] < errors[0] / 3


def funnel(x=None):
    scale = pyro.sample("scale", dist.HalfCauchy(t(1.0)))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), scale))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def at_one_scale(x=None):
    pyro.sample("scale", dist.LogNormal(t(-4.0), 1.0))  # a draw is anything from 0.001 to 0.2
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 0.7))  # p(z | x) where the scale is 1


def test_rows_are_weighed_right_where_the_guide_of_their_own_latents_does_not_go():
    x = t([0.5, -0.3, 1.2, 0.8])
    pair = Pair(funnel, at_one_scale)
    with joint_passes(pair, as_split({"x": x}), 1000, 32) as (plan, inner):
        shared = draw_particles(pair, plan)
        found = joint_weights(pair, plan, shared, inner).log_likelihood.sum(1)
    scale = shared.values["scale"].flatten()
    exact = dist.Normal(0.0, (1 + scale[:, None] ** 2).sqrt()).log_prob(x).sum(1)
    ratio = (found - exact).exp()  # unbiased; of the guide's draws alone half are below 1e-4
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / len(ratio) ** 0.5 < 0.2
    assert (ratio > 0.5).double().mean() > 0.98


def tails(x=None):
    scale = pyro.sample("scale", dist.HalfCauchy(t(1.0)))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.zeros_like(x), (1 + scale**2).sqrt()), obs=x)


def away_from_zero(x=None):
    pyro.sample("scale", dist.LogNormal(t(0.5), 0.25))  # nothing below 0.6, where two thirds of the posterior are


@pytest.mark.parametrize("seed", range(3))
def test_what_the_guide_never_draws_is_weighed_and_said(seed):
    x = t([0.5, -0.3, 1.2, 0.8, 1.4, -1.1])
    scale = torch.tan((torch.arange(100_000, dtype=F64) + 0.5) / 100_000 * math.pi / 2)  # equal prior mass
    each = dist.Normal(0.0, (1 + scale[:, None] ** 2).sqrt()).log_prob(x).sum(1)
    truth, share = float(each.logsumexp(0)) - math.log(len(scale)), float(each.softmax(0)[scale < 0.6].sum())
    assert share > 0.6
    found = ppl_vae.evaluate(tails, away_from_zero, {"x": x}, particles=4000, seed=seed)
    assert abs(found.log_evidence - truth) < 4 * found.log_evidence_se < 0.4  # the guide alone is 2.5 low
    assert found.findings
    draws = ppl_vae.posterior(tails, away_from_zero, {"x": x}, draws=4000, seed=seed)
    assert draws.findings  # of what the guide leaves out, or that draws were moved on to the posterior
    assert abs(float((draws["scale"] < 0.6).double().mean()) - share) < 0.05
    alone = ppl_vae.posterior(tails, away_from_zero, {"x": x}, draws=4000, resample=None, seed=seed)
    assert (alone["scale"] < 0.6).double().mean() < 0.01


def mixture(x=None):
    loc = pyro.sample("loc", dist.Normal(t([-1.0, 1.0]), 0.5).to_event(1))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(t([0.3, 0.7])))
        pyro.sample("x", dist.Normal(loc.gather(-1, k) if k.dim() < 2 and loc.dim() < 2 else _at(loc, k), 0.5), obs=x)


def _at(loc, k):
    return torch.where(k == 0, loc[..., 0], loc[..., 1])


def mixture_guide(x=None):
    pyro.sample("loc", dist.Normal(t([-1.0, 1.0]), 0.3).to_event(1))


def test_discrete_latents_of_the_rows_are_summed_out():
    x = t([-1.2, 0.9, 1.4])
    grid = torch.linspace(-4, 4, 801, dtype=F64)
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    prior = dist.Normal(-1.0, 0.5).log_prob(first) + dist.Normal(1.0, 0.5).log_prob(second)
    rows = torch.stack(
        [
            torch.logaddexp(
                math.log(0.3) + dist.Normal(first, 0.5).log_prob(v),
                math.log(0.7) + dist.Normal(second, 0.5).log_prob(v),
            )
            for v in x
        ]
    ).sum(0)
    truth = float((prior + rows).flatten().logsumexp(0) + 2 * math.log(0.01))
    found = ppl_vae.evaluate(mixture, mixture_guide, {"x": x}, particles=4000)
    assert abs(found.log_evidence - truth) < 4 * found.log_evidence_se < 0.1


def test_particles_that_cannot_run_together_run_one_by_one():
    def one_by_one(a=None, y=None):
        b = pyro.sample("b", dist.Normal(torch.zeros(2, dtype=F64), PRIOR).to_event(1))
        with pyro.plate("data", len(a)):
            pyro.sample("y", dist.Normal(a @ b, NOISE), obs=y)  # a @ b has no place for particles

    found = ppl_vae.evaluate(one_by_one, wide, DATA, particles=200)
    assert abs(found.log_evidence - float(marginal())) < 4 * found.log_evidence_se < 0.3


def test_a_program_that_cannot_be_mapped_either_is_run_for_each_particle():
    def with_a_branch(a=None, y=None):
        b = pyro.sample("b", dist.Normal(torch.zeros(2, dtype=F64), PRIOR).to_event(1))
        if float(b[0]) > 1e6:  # reads a value
            raise RuntimeError
        with pyro.plate("data", len(a)):
            pyro.sample("y", dist.Normal(a @ b, NOISE), obs=y)

    plain = ppl_vae.evaluate(regression, wide, DATA, particles=200)
    found = ppl_vae.evaluate(with_a_branch, wide, DATA, particles=200)
    assert abs(found.log_evidence - plain.log_evidence) < 4 * found.log_evidence_se < 0.3


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_point_has_no_weights():
    def point(a=None, y=None):
        pyro.sample("b", dist.Delta(MEAN).to_event(1))

    with pytest.raises(NoDensity, match="'b' is a point"):
        ppl_vae.evaluate(regression, point, DATA)


def test_a_bound_of_each_row_is_refused():
    with pytest.raises(UserError, match="all rows share latents"):
        ppl_vae.evaluate(regression, wide, DATA, iwae=(10,))


def test_who_needs_rows_one_by_one_says_so_in_a_line():
    with pytest.raises(UserError, match="b is shared by all rows"):
        evaluate_rows(regression, wide, DATA)
    with pytest.raises(UserError, match="b is shared by all rows"):
        ppl_vae.compare({"wide": (regression, wide)}, DATA)
