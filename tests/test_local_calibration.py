"""A local classifier test: exact guides pass, planted defects and the rows at which a guide is wrong are named."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.diagnostics import local_calibration
from ppl_vae.diagnostics._calibration.classifier import features, kinds, swapped, units_of
from ppl_vae.errors import UserError
from ppl_vae.programs.toy import model as toy

LOADINGS = torch.tensor([[1.0, 0.8], [0.7, 0.9], [-0.3, 0.2], [0.5, 0.5], [1.2, 0.9]])
COVARIANCE = torch.linalg.inv(torch.eye(2) + LOADINGS.T @ LOADINGS / 0.25)
ROWS = torch.zeros(5, 5)


def linear(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ LOADINGS.T, 0.5).to_event(1), obs=x)


def guide_of(shift=0.0, scale=1.0, independent=False, slope=0.0):
    def guide(x=None):
        mean = x @ LOADINGS @ COVARIANCE / 0.25 + shift * COVARIANCE.diagonal().sqrt() + slope * x[:, :2]
        with pyro.plate("data", len(x)):
            if independent:
                pyro.sample("z", dist.Normal(mean, COVARIANCE.diagonal().sqrt()).to_event(1))
            else:
                pyro.sample("z", dist.MultivariateNormal(mean, scale**2 * COVARIANCE))

    return guide


def found_of(guide, rows=ROWS, **options):
    return local_calibration(linear, guide, rows, simulations=1000, permutations=199, **options)


def test_the_exact_posterior_passes():
    found = found_of(guide_of())
    assert found.calibrated, found.verdict
    assert found.verdict.startswith("Calibrated: a classifier does not tell")
    assert not found.differs
    assert abs(sum(found.nats.values())) < 0.02


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"shift": 0.3}, "shift"),
        ({"scale": 0.8}, "width"),
        ({"independent": True}, "dependence"),
    ],
)
def test_what_is_wrong_is_named(options, kind):
    found = found_of(guide_of(**options))
    assert found.corrected < 0.02
    assert max(found.nats, key=found.nats.get) == kind
    assert f"by its {kind}" in found.verdict
    assert len(found.differs) >= 4  # wrong for all rows
    assert found.figure().axes[0].get_xlabel() == "row"


def test_a_small_shift_is_told_in_nats():
    """KL of two normals whose means are s deviations apart is s^2 / 2."""
    torch.manual_seed(0)
    truth, draw, others = torch.randn(20_000, 1), torch.randn(20_000, 1) + 0.2, torch.randn(100, 20_000, 1) + 0.2
    units = units_of(others)
    found = swapped(features(units.of(truth)) - features(units.of(draw)), 99)
    told = kinds(found, 1, 20_000)
    assert told["shift"] == pytest.approx(0.02, abs=0.004)
    assert abs(told["width"]) < 0.002


def test_rows_at_which_the_guide_is_wrong_are_found():
    """The mean has an error that is proportional to two entries of x, and none where they are 0."""
    rows = torch.tensor([[0.0, 0.0], [2.0, 2.0], [-2.0, -2.0]]) @ torch.eye(2, 5)
    found = found_of(guide_of(slope=0.15), rows)
    assert found.p_value < 0.01
    assert set(found.differs) == {1, 2}
    assert found.statistic[0] < found.statistic[1:].min()


def test_permutations_are_exact_and_seeds_are_kept():
    state = torch.get_rng_state()
    first, again = (found_of(guide_of(scale=0.9), seed=3) for _ in range(2))
    assert torch.equal(first.statistic, again.statistic)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.p_value == pytest.approx(round(first.p_value * 200) / 200)


def mixed(x=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.8])), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(4.0 * y, 0.5), obs=x)


def mixed_guide(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.8])))


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UserError, match="no continuous latent"):
        local_calibration(mixed, mixed_guide, torch.zeros(4))
    with pytest.raises(UserError, match="simulations"):
        local_calibration(toy, toy, torch.zeros(4), simulations=3)


@pytest.mark.slow
def test_the_level_is_what_it_says():
    found = [found_of(guide_of(), seed=seed) for seed in range(60)]
    assert sum(not one.calibrated for one in found) <= 9  # 1 in 1,000 for 5 % of 60
