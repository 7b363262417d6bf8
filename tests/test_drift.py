"""An unfinished posterior of what all rows share is said to be one; a finished one is not."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae
from ppl_vae.guides import MeanField
from ppl_vae.training._averaging import Mirrored
from ppl_vae.training._drifting import Moment, drift_of
from ppl_vae.training._spread import spread_walk

X = 3 + torch.randn(100, generator=torch.manual_seed(0))


def model(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def fitted(epochs, lr, **options):
    torch.manual_seed(0)
    return ppl_vae.fit(model, MeanField(model), {"x": X}, epochs=epochs, batch_size=50, lr=lr, seed=0, **options)


def unfinished(result):
    return [f for f in result.findings if "not finished" in f.problem]


def test_a_fit_that_still_moves_says_how_far_it_has_to_go():
    (finding,) = unfinished(fitted(40, 1e-3, restarts=0))
    assert finding.severity == "warning"
    assert finding.site == "mu"
    assert "nats" in finding.problem
    assert "steps" in finding.remedy


def test_a_fit_that_stands_says_nothing():
    result = fitted(150, 0.05)
    assert not unfinished(result)
    line = ppl_vae.posterior(model, result.guide, {"x": X}).summary().loc["mu"]
    assert abs(line["mean"] - float(X.sum()) / (100 + 0.01)) < 0.02
    assert abs(line["sd"] - 100.01**-0.5) < 0.01


@pytest.mark.parametrize(("lr", "averaged"), [(0.4, True), (1e-3, False)])
def test_weights_that_go_to_and_fro_are_averaged_and_those_on_their_way_are_not(lr, averaged):
    """The posterior deviation is 0.1, and a step of Adam moves the mean by up to the rate."""
    result = fitted(80, lr, restarts=0)
    assert result.best.averaged == averaged
    assert ("the mean of the last weights" in str(result)) == averaged
    mean, sd = float(X.sum()) / (100 + 0.01), 100.01**-0.5
    found = ppl_vae.posterior(model, result.guide, {"x": X}, resample=None).summary().loc["mu"]
    assert (abs(found["mean"] - mean) < 0.5 * sd) == averaged
    if averaged:  # the bound of all rows is that of the closed form, less the divergence of the posterior
        q = torch.distributions.Normal(found["mean"], found["sd"])
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(mean, sd))
        assert abs(100 * result.best.bound - (evidence() - float(kl))) < 0.2


def evidence():
    covariance = torch.eye(100).double() + 100.0
    return float(dist.MultivariateNormal(torch.zeros(100).double(), covariance).log_prob(X.double()))


def test_a_mean_of_weights_is_continued_to_the_bit(tmp_path):
    def stopped(record):
        return record["epoch"] < 30

    whole, kept = fitted(80, 0.4, restarts=0), tmp_path / "kept"
    fitted(80, 0.4, restarts=0, checkpoint=kept, on_epoch=stopped)
    again = fitted(80, 0.4, restarts=0, checkpoint=kept, resume=True)
    assert whole.best.averaged
    assert whole.best == again.best
    assert all(torch.equal(v, again.guide.state_dict()[n]) for n, v in whole.guide.state_dict().items())


def test_a_mean_of_weights_that_is_no_better_is_not_kept(monkeypatch):
    def moved(self, state):
        return {n: v + 1.0 if v.is_floating_point() else v for n, v in state.items()}

    monkeypatch.setattr("ppl_vae.training._averaging.Average.over", moved)
    result = fitted(80, 0.4, restarts=0)
    assert not result.best.averaged
    assert ["not settled" in f.problem for f in result.findings] == [True]


def test_mirrored_draws_are_normal_draws_on_the_other_side():
    def drawn():
        torch.manual_seed(0)
        here = dist.Normal(2.0, 3.0).rsample((5,)) - 2
        return here, torch.randn(4), torch.empty(3).normal_(1.0, 2.0) - 1, torch.rand(2)

    plain = drawn()
    with Mirrored():
        other = drawn()
    for a, b in zip(plain[:3], other[:3], strict=True):
        torch.testing.assert_close(a, -b)
    assert torch.equal(plain[3], other[3])


def unit(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    pyro.sample("x", dist.Normal(mu.unsqueeze(-1).expand(*mu.shape, len(x)), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(("epochs", "lr", "restarts", "moves"), [(60, 1e-3, 0, True), (300, 0.02, 1, False)])
def test_one_unit_that_still_moves_says_so_too(epochs, lr, restarts, moves):
    torch.manual_seed(0)
    options = {"epochs": epochs, "lr": lr, "restarts": restarts, "rows": None}
    result = ppl_vae.fit(unit, MeanField(unit), {"x": X}, seed=0, **options)
    assert [f.site for f in unfinished(result)] == ["mu"] * moves
    mean = ppl_vae.posterior(unit, result.guide, {"x": X}, rows=None, resample=None)["mu"].mean()
    assert (abs(float(mean) - float(X.sum()) / (100 + 0.01)) > 0.1) == moves


def test_looking_changes_nothing(monkeypatch):
    first = fitted(20, 0.01).history
    monkeypatch.setattr("ppl_vae.training._drifting.Drift.look", lambda *_: None)
    assert [r["train"] for r in first] == [r["train"] for r in fitted(20, 0.01).history]


@pytest.mark.parametrize("rate", [0.9, 0.97])
def test_the_epochs_that_are_left_are_those_of_a_geometric_approach(rate):
    at = [Moment(e, torch.tensor([5 * rate**e]), torch.tensor([0.05])) for e in range(1, 41)]
    _, moved, epochs, more = drift_of(at, ["mu"])
    assert moved > 0.25
    assert epochs == 10
    truth = math.log(0.1 * 0.05 / (5 * rate**40)) / math.log(rate)  # until a tenth of a deviation is left
    assert abs(more - truth) < 0.3 * truth + 3


def test_a_width_that_still_shrinks_is_a_drift():
    at = [Moment(e, torch.zeros(1), torch.tensor([math.exp(-0.1 * e)])) for e in range(1, 41)]
    assert drift_of(at, ["s"])[0] == "s"


def test_held_out_rows_do_not_choose_the_posterior_of_what_all_share():
    data = ppl_vae.load({"x": X}, validation=0.1)
    torch.manual_seed(0)
    result = ppl_vae.fit(model, MeanField(model), data, epochs=30, batch_size=90, lr=0.03, patience=2, seed=0)
    assert result.best.epoch == len(result.history) == 30


def looks(corr, sd=0.1, seed=0):
    """Draws [64, 2] at every look, the same noise each time, of the given correlations."""
    noise = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for c in corr:
        drawn = sd * torch.stack([noise[:, 0], c * noise[:, 0] + (1 - c**2) ** 0.5 * noise[:, 1]], 1)
        yield drawn


def test_a_correlation_that_still_grows_is_a_walk():
    drawn = list(looks([-0.5 - 0.01 * i for i in range(40)]))
    walk = spread_walk(torch.stack([d.std(0) for d in drawn]), drawn)
    assert walk.is_axis
    assert walk.left > 0.2
    still = list(looks([-0.9] * 40))
    assert spread_walk(torch.stack([d.std(0) for d in still]), still) is None


def test_a_width_that_creeps_says_so_and_how_far_it_has_to_go():
    rate = 0.97
    sds = torch.tensor([[math.exp(0.8 * rate**t)] for t in range(40)], dtype=torch.float64)
    walk = spread_walk(sds)
    assert walk.number == 0
    assert not walk.is_axis
    assert walk.left == pytest.approx(0.8 * rate**39, rel=0.4)
    assert walk.slows == pytest.approx(rate**19, rel=0.3)


def test_jitter_is_no_walk():
    generator = torch.Generator().manual_seed(0)
    alarms = 0
    for _ in range(200):
        noise = 0.05 * torch.randn(40, 30, dtype=torch.float64, generator=generator)
        for t in range(1, 40):
            noise[t] += 0.5 * noise[t - 1]
        alarms += spread_walk(noise.exp()) is not None
    assert alarms <= 10
