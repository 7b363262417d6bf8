"""All data as one unit, judged: annealing and gaps of pairs whose rows share latents, or that have no rows."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, XH, hierarchy, hierarchy_evidence, t
from test_joint import COVARIANCE, DATA, MEAN, exact, marginal, regression, wide

from ppl_vae.diagnostics import annealed_evidence, gap
from ppl_vae.errors import UserError
from ppl_vae.guides import FullRank

QUICK = {"temperatures": 8, "steps": 3, "compile": "off"}


# -- annealing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "temperatures", "exactly"), [("guide", 80, 0.2), ("prior", 200, 1.5)])
def test_a_conjugate_regression_has_its_evidence(start, temperatures, exactly):
    found = annealed_evidence(regression, wide, DATA, temperatures=temperatures, steps=4, chains=100, start=start)
    error = float(found.log_evidence_se[0])
    assert abs(float(found.log_evidence[0]) - float(marginal())) < 4 * error < exactly


def wrong_hierarchy_guide(x=None):
    pyro.sample("mean", dist.Normal(t(0.0), 2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.5))


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_rows_that_share_latents_are_one_unit(start):
    found = annealed_evidence(hierarchy, wrong_hierarchy_guide, XH, temperatures=150, steps=4, chains=100, start=start)
    assert found.of == "all data"
    exact = float(hierarchy_evidence(XH))
    assert abs(float(found.log_evidence[0]) - exact) < 4 * float(found.log_evidence_se[0]) < 1.0
    assert "of all data together" in found.verdict


def schools(y=None, s=None):
    """Rubin 1981, not centred: no plate, one unit."""
    mu = pyro.sample("mu", dist.Normal(t(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(t(5.0)))
    eta = pyro.sample("eta", dist.Normal(torch.zeros(8, dtype=F64), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(mu[..., None] + tau[..., None] * eta, s).to_event(1), obs=y)


def schools_guide(y=None, s=None):
    pyro.sample("mu", dist.Normal(t(4.0), 4.0))
    pyro.sample("tau", dist.LogNormal(t(1.0), 1.0))
    pyro.sample("eta", dist.Normal(torch.zeros(8, dtype=F64), 1.0).to_event(1))


SCHOOLS = {"y": t([28.0, 8, -3, 7, -1, 1, 18, 12]), "s": t([15.0, 10, 16, 11, 9, 11, 10, 18])}


def schools_evidence():
    """eta and mu integrated in closed form, tau by quadrature in log tau."""
    log_tau = torch.linspace(-12, 9, 20_001, dtype=F64)
    tau = log_tau.exp()[:, None, None]
    eye, ones = torch.eye(8, dtype=F64), torch.ones(8, 8, dtype=F64)
    y = dist.MultivariateNormal(torch.zeros(8, dtype=F64), (tau**2 + SCHOOLS["s"] ** 2) * eye + 25.0 * ones)
    whole = y.log_prob(SCHOOLS["y"]) + dist.HalfCauchy(t(5.0)).log_prob(log_tau.exp()) + log_tau
    return float(whole.logsumexp(0) + (log_tau[1] - log_tau[0]).log())


@pytest.mark.parametrize("start", ["guide", pytest.param("prior", marks=pytest.mark.slow)])
def test_eight_schools_have_their_evidence_without_rows(start):
    found = annealed_evidence(
        schools, schools_guide, SCHOOLS, rows=None, temperatures=80, steps=4, chains=64, start=start
    )
    error = float(found.log_evidence_se[0])
    assert abs(float(found.log_evidence[0]) - schools_evidence()) < 4 * error < 0.6


def test_a_latent_without_a_plate_or_an_event_is_refused_where_it_would_move():
    def loose(y=None, s=None):
        theta = pyro.sample("theta", dist.Normal(torch.zeros(8, dtype=F64), 5.0))
        pyro.sample("y", dist.Normal(theta, s), obs=y)

    def guide(y=None, s=None):
        pyro.sample("theta", dist.Normal(torch.zeros(8, dtype=F64), 5.0))

    with pytest.raises(UserError, match=r"'theta' has a batch shape .* declare it by .to_event"):
        annealed_evidence(loose, guide, SCHOOLS, rows=None, **QUICK)


# -- gaps ------------------------------------------------------------------------------------------------------------


def test_the_gap_of_a_guide_that_cannot_be_trained_is_the_familys():
    found = gap(regression, wide, DATA, particles=4000)
    kl = torch.distributions.kl_divergence(
        dist.MultivariateNormal(MEAN + 0.05, 1.5 * COVARIANCE), dist.MultivariateNormal(MEAN, COVARIANCE)
    )
    assert abs(float(found.approximation[0] - kl)) < 4 * float(found.approximation_se[0]) < 0.1
    assert float(found.amortization[0]) == 0
    assert "of all data" in found.verdict
    assert gap(regression, exact, DATA, particles=100).verdict.endswith("loses almost nothing.")


def test_training_further_is_told_from_the_family_and_the_guide_stays_as_it_was():
    guide = FullRank(regression, DATA).double()
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    found = gap(regression, guide, DATA, particles=1000, steps=400)
    assert abs(float(found.approximation[0])) < 0.1  # the posterior is normal
    assert float(found.amortization[0]) > 5  # this guide has not been trained
    assert abs(float(found.log_evidence[0] - marginal())) < 0.1
    assert "longer training helps, a richer family does not" in found.verdict
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())


def test_annealing_tells_what_a_guide_costs_without_rows():
    found = gap(schools, schools_guide, SCHOOLS, rows=None, evidence="ais", temperatures=60, chains=64, particles=500)
    error = float(found.log_evidence_se[0])
    assert abs(float(found.log_evidence[0]) - schools_evidence()) < 4 * error < 0.6
    assert found.khat is None
    assert found.summary()["rows"] == 1
