"""Objectives that weigh parts of the KL: exact where they must be, biased to the side that is said, else refused."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_vae
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.checks.analysis import analyse
from ppl_vae.errors import UserError
from ppl_vae.guides import IAF, FullRank, MeanField
from ppl_vae.models import M2, VAE, Hierarchical
from ppl_vae.programs.program import Pair
from ppl_vae.schedules import DIP, MMD, Decomposed, FactorTC, WarmUp
from ppl_vae.schedules.decomposed import aggregate_log_density
from ppl_vae.schedules.factor import DensityRatio
from ppl_vae.schedules.mmd import squared_discrepancy
from ppl_vae.training._steps import BoundStep
from ppl_vae.training.settings import Settings


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


def small(digits, guide=MeanField, **options):
    torch.manual_seed(0)
    model = VAE(digits, latent_dim=3, hidden=(8,))
    return model, guide(model, hidden=(8,), **options)


def step_of(model, guide, batch, beta, rows=1000):
    pair = Pair(model, guide)
    step = BoundStep(pair, analyse(pair, batch), ELBO(), None, rows, Settings(beta=beta))
    step.begin(batch)
    return step


def gradient(step, batch, seed):
    torch.manual_seed(seed)
    with pyro.validation_enabled(False):
        outcome = step.outcome(batch, *step.levels(0.0))
    parameters = [p for p in step.pair.parameters() if p.requires_grad]
    return outcome, torch.cat([g.flatten() for g in torch.autograd.grad(outcome.objective, parameters)])


# -- the parts of the KL -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", ["entries", "sites"])
@pytest.mark.parametrize("guide", [MeanField, FullRank])
def test_weights_of_one_give_the_gradient_of_the_elbo_draw_by_draw(digits, guide, between):
    model, guide = small(digits, guide)
    model.double(), guide.double()
    batch = digits.train.batch(slice(0, 16))
    ours = step_of(model, guide, batch, Decomposed(1, 1, 1, between=between))
    plain = step_of(model, guide, batch, 1.0)
    for seed in range(5):
        (one, g), (other, h) = gradient(ours, batch, seed), gradient(plain, batch, seed)
        torch.testing.assert_close(one.objective, other.objective, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(g, h, rtol=1e-7, atol=1e-8)
        parts = one.mutual_information + one.total_correlation + one.dimensions
        torch.testing.assert_close(parts, one.rate, rtol=1e-9, atol=1e-9)


def test_what_is_reported_is_the_plain_bound(digits):
    model, guide = small(digits)
    batch = digits.train.batch(slice(0, 16))
    plain = gradient(step_of(model, guide, batch, 1.0), batch, 3)[0]
    for beta in (Decomposed(6), FactorTC(10), DIP(), MMD()):
        outcome = gradient(step_of(model, guide, batch, beta), batch, 3)[0]
        assert float(outcome.bound) == pytest.approx(float(plain.bound), rel=1e-5)
        assert float(outcome.rate) == pytest.approx(float(plain.rate), rel=1e-5)


def test_the_estimate_of_the_aggregate_density_is_unbiased():
    generator = torch.Generator().manual_seed(0)
    rows, batch = 60, 8
    log_q = 2 * torch.randn(rows, rows, generator=generator, dtype=torch.float64)
    exact = log_q[0].exp().mean()
    found = []
    for _ in range(4000):
        others = 1 + torch.randperm(rows - 1, generator=generator)[: batch - 1]
        index = torch.cat([torch.zeros(1, dtype=torch.long), others])
        found.append(aggregate_log_density(log_q[index][:, index].unsqueeze(2), rows)[0, 0].exp())
    values = torch.stack(found)
    assert abs(float(values.mean() - exact)) < 4 * float(values.std()) / math.sqrt(len(values))
    whole = aggregate_log_density(log_q.unsqueeze(2), rows)[:, 0]
    torch.testing.assert_close(whole, log_q.logsumexp(1) - math.log(rows))


A, S = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [-0.5, 0.5, 0.8]], dtype=torch.float64), 0.5


def linear_bias(batch, repeats, rows=100_000):
    """What batches get wrong of the information and the total correlation of z ~ N(A x, s^2), x ~ N(0, I)."""
    generator = torch.Generator().manual_seed(1)
    covariance = A @ A.T + S**2 * torch.eye(3, dtype=torch.float64)
    truth = dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
    single = dist.Normal(torch.zeros(3, dtype=torch.float64), covariance.diagonal().sqrt())
    found = []
    for _ in range(repeats):
        means = torch.randn(batch, 3, generator=generator, dtype=torch.float64) @ A.T
        z = means + S * torch.randn(batch, 3, generator=generator, dtype=torch.float64)
        each = dist.Normal(means, S).log_prob(z.unsqueeze(1))
        together = aggregate_log_density(each.sum(2, keepdim=True), rows)[:, 0] - truth.log_prob(z)
        apart = (aggregate_log_density(each, rows) - single.log_prob(z)).sum(1)
        found.append(torch.stack([-together.mean(), (together - apart).mean()]))
    values = torch.stack(found)
    return values.mean(0), values.std(0) / math.sqrt(repeats)


def test_parts_of_a_linear_gaussian_come_to_the_truth_from_the_stated_sides():
    means, errors = map(torch.stack, zip(*map(linear_bias, (16, 128, 1024), (200, 30, 3)), strict=True))
    information, correlation = means.T
    assert bool((information[:2] > 3 * errors[:2, 0]).all())  # too high
    assert bool((correlation[:2] < -3 * errors[:2, 1]).all())  # too low
    assert bool((information.diff() < 0).all())
    assert bool((correlation.diff() > 0).all())
    assert bool((means[2].abs() < 0.03).all())


# -- the others ----------------------------------------------------------------------------------------------------


def test_the_density_ratio_learns_a_known_total_correlation():
    torch.manual_seed(0)
    truth = -0.5 * math.log(1 - 0.8**2)
    ratio = DensityRatio([1, 1], (64, 64))
    optimizer = torch.optim.Adam(ratio.parameters(), 2e-3)
    normal = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    early = float(ratio(normal.sample((4000,))).detach().mean())
    for _ in range(400):
        optimizer.zero_grad()
        ratio.loss(normal.sample((512,))).backward()
        optimizer.step()
    assert early < truth / 2
    assert float(ratio(normal.sample((20_000,))).detach().mean()) == pytest.approx(truth, abs=0.1)


def test_groups_of_latents_are_permuted_as_one():
    z = torch.arange(12.0).reshape(4, 3)
    moved = DensityRatio([1, 2], (4,)).permuted(z)
    assert torch.equal(moved.sort(0).values, z)
    assert torch.equal(moved[:, 2] - moved[:, 1], torch.ones(4))


def test_covariances_are_those_of_a_linear_gaussian(digits):
    model, guide = small(digits, FullRank)
    model.double(), guide.double()
    batch = digits.train.batch(slice(0, 64))
    step = step_of(model, guide, batch, DIP(off=1.0, kind=2))
    plain = step_of(model, guide, batch, 1.0)
    traced = pyro.poutine.trace(guide).get_trace(x=batch["x"]).nodes["z"]["fn"]
    means = traced.mean.detach()
    about = means - means.mean(0)
    covariance = about.T @ about / 64 + traced.covariance_matrix.detach().mean(0)
    penalty = (covariance - torch.eye(3)).square().sum()
    one, other = gradient(step, batch, 0)[0], gradient(plain, batch, 0)[0]
    assert float((other.objective - one.objective).detach()) == pytest.approx(float(penalty), rel=1e-6)


def test_discrepancy_of_normals_is_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    prior, draws = torch.randn(2, 1000, 1, generator=generator, dtype=torch.float64)
    for shift in (0.0, 1.0):
        truth = 2 / math.sqrt(3) * (1 - math.exp(-(shift**2) / 6))  # of width h = 1, half of E|a - b|^2
        assert float(squared_discrepancy(draws + shift, prior)) == pytest.approx(truth, abs=0.04)


# -- in training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beta", [Decomposed(4, beta=WarmUp(2)), FactorTC(5, hidden=(8,))], ids=["decomposed", "factor"]
)
def test_resumed_is_uninterrupted(digits, tmp_path, beta):
    told = {"beta": beta, "batch_size": 250, "patience": None, "compile": "off"}
    whole = ppl_vae.fit(*small(digits), digits, epochs=4, **told)
    ppl_vae.fit(*small(digits), digits, epochs=2, checkpoint=tmp_path, **told)
    resumed = ppl_vae.fit(*small(digits), digits, epochs=4, checkpoint=tmp_path, resume=True, **told)

    def seen(result):
        return [{k: v for k, v in record.items() if k != "seconds"} for record in result.history]

    assert seen(whole) == seen(resumed)
    assert "total_correlation" in whole.history[-1]


def test_a_second_network_is_never_part_of_a_captured_step(digits):
    with pytest.raises(UserError, match="second network"):
        ppl_vae.fit(*small(digits), digits, beta=FactorTC(5), epochs=1, compile="on")


def test_several_processes_are_refused(digits):
    batch = digits.train.batch(slice(0, 16))
    step = step_of(*small(digits), batch, Decomposed(6))
    with pytest.raises(UserError, match="each of 2 processes has a part of them: train in one, distributed='off'"):
        step.begin(batch, 2)


@pytest.mark.slow
def test_total_correlation_falls_where_it_is_weighed(digits):
    told = {"epochs": 12, "patience": None, "lr": 5e-3, "batch_size": 100}
    found = [ppl_vae.fit(*small(digits), digits, beta=Decomposed(tc), **told).history[-1] for tc in (1, 8)]
    assert found[1]["total_correlation"] < found[0]["total_correlation"]


# -- refusals ------------------------------------------------------------------------------------------------------


class Flat(nn.Module):
    """A prior that is not N(0, I)."""

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 2.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


OBJECTIVES = [Decomposed(6), FactorTC(10), DIP(), MMD()]


@pytest.mark.parametrize("beta", OBJECTIVES, ids=lambda beta: type(beta).__name__)
@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (IWAE(4), "takes the KL of the ELBO apart"),
        (IWAE(4, estimator="dreg"), "takes the KL of the ELBO apart"),
        (ELBO(particles=2), "one particle"),
        (ELBO(estimator="stl"), "takes the KL of the ELBO apart"),
        ("trace_elbo", "Pyro's own"),
    ],
    ids=str,
)
def test_other_bounds_are_refused(digits, beta, bound, message):
    with pytest.raises(UserError, match=message) as caught:
        ppl_vae.fit(*small(digits), digits, bound, beta=beta, epochs=1)
    assert "\n" not in str(caught.value)


def test_latents_without_an_aggregate_are_refused(digits):
    model = Hierarchical(digits, hidden=(8,))
    with pytest.raises(UserError, match="depends on"):
        ppl_vae.fit(model, MeanField(model, hidden=(8,)), digits, beta=Decomposed(6), epochs=1)
    few = ppl_vae.load("digits", labels=100)
    model = M2(few, latent_dim=2, hidden=(8,))
    with pytest.raises(UserError, match="y"):
        ppl_vae.fit(model, MeanField(model, hidden=(8,)), few, beta=MMD(), epochs=1)
    with pytest.raises(UserError, match=r"without an inverse|no known marginals"):
        ppl_vae.fit(*small(digits, IAF), digits, beta=Decomposed(6), epochs=1)
    rows = torch.randn(100, 2)
    with pytest.raises(UserError, match="not the prior of site 'z'"):
        ppl_vae.fit(Flat(), MeanField(Flat(), {"x": rows}, hidden=(4,)), {"x": rows}, beta=DIP(), epochs=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Decomposed(tc=-1), "Decomposed: tc must be at least 0"),
        (lambda: Decomposed(between="latents"), "unknown value of Decomposed: between"),
        (lambda: FactorTC(hidden=(0,)), "hidden"),
        (lambda: FactorTC(lr=0), "FactorTC: lr must be positive"),
        (lambda: DIP(kind=3), "kind must be 1"),
        (lambda: MMD(weight=float("nan")), "MMD: weight"),
        (lambda: Decomposed(beta=-1.0), "beta must be at least 0"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
