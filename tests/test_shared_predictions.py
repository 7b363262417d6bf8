"""Predictions, imputations and samples of pairs whose rows share latents: with draws of these, against closed forms."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, XH, hierarchy, hierarchy_guide, t
from test_joint import COVARIANCE, DATA, MEAN, NOISE, PRIOR, ROWS, A, Y, exact, regression, wide

import ppl_vae
from ppl_vae.data import as_split
from ppl_vae.errors import UserError
from ppl_vae.prediction import _predict
from ppl_vae.prediction.coding import simulate
from ppl_vae.programs.program import Pair

SPREAD = ((A @ COVARIANCE * A).sum(-1) + NOISE**2).sqrt()


def guide_of(mean, covariance):
    def guide(a=None, y=None):
        pyro.sample("b", dist.MultivariateNormal(mean, covariance))

    return guide


WIDE = 40 * COVARIANCE  # so that what is shared is most of the variance


def test_the_variance_of_a_prediction_has_that_of_what_is_shared():
    found = ppl_vae.predict(regression, guide_of(MEAN, WIDE), DATA, draws=2000)
    spread = ((A @ WIDE * A).sum(-1) + NOISE**2).sqrt()
    assert ((found.mean - A @ MEAN).abs() / spread).max() < 0.08
    torch.testing.assert_close(found.sd / spread, torch.ones(ROWS, dtype=F64), rtol=0, atol=0.08)
    torch.testing.assert_close(found.draws.std(0) / spread, torch.ones(ROWS, dtype=F64), rtol=0, atol=0.08)
    truth = dist.Normal(A @ MEAN, spread).log_prob(Y)
    torch.testing.assert_close(found.log_prob, truth, rtol=0, atol=0.15)


def test_draws_that_were_chosen_by_weight_mend_the_prediction():
    off = guide_of(MEAN + 0.3, 4 * COVARIANCE)
    chosen = ppl_vae.posterior(regression, off, DATA, draws=600, particles=8000)
    found = ppl_vae.predict(regression, off, DATA, draws=600, posterior=chosen)
    assert ((found.mean - A @ MEAN).abs() / SPREAD).max() < 0.09
    torch.testing.assert_close(found.sd / SPREAD, torch.ones(ROWS, dtype=F64), rtol=0, atol=0.03)
    raw = ppl_vae.predict(regression, off, DATA, draws=200)
    assert ((raw.mean - A @ MEAN).abs() / SPREAD).max() > 0.3


def test_all_rows_of_a_draw_share_it_whatever_the_batches(monkeypatch):
    monkeypatch.setattr(_predict, "ROWS_AT_ONCE", 7)
    found = ppl_vae.predict(regression, guide_of(MEAN, 1e4 * COVARIANCE), DATA, draws=50)
    lines = torch.linalg.lstsq(A, found.draws.T).solution  # each draw is a line of its own, but for the noise
    assert (found.draws - (A @ lines).T).std() < 1.2 * NOISE
    assert found.draws.std(0).min() > 5 * NOISE


def test_samples_are_of_the_posterior_not_of_the_prior():
    schema = as_split(DATA).schema
    conditions = {"a": A[0].expand(4000, 2)}
    drawn = simulate(Pair(regression, wide), schema, 4000, given=conditions)
    assert drawn["b"].shape == (4000, 2)
    assert len(drawn["b"].unique(dim=0)) == 100
    spread = ((A[0] @ (1.5 * COVARIANCE) * A[0]).sum() + NOISE**2).sqrt()
    assert abs(float(drawn["y"].mean() - A[0] @ (MEAN + 0.05))) < 0.1
    assert abs(float(drawn["y"].std() / spread) - 1) < 0.05
    assert float(drawn["b"].std(0).max()) < PRIOR / 3


def test_rows_are_reconstructed_with_what_they_share():
    found = ppl_vae.reconstruct(regression, exact, DATA, draws=400)
    variance = (A @ COVARIANCE * A).sum(-1)
    expected = dist.Normal(A @ MEAN, NOISE).log_prob(Y) - variance / (2 * NOISE**2)
    torch.testing.assert_close(found.log_likelihood, expected, rtol=0, atol=0.12)


def test_a_missing_response_has_its_predictive_distribution():
    holes = DATA | {"y": torch.where(torch.arange(ROWS) == 3, torch.nan, Y)}
    found = ppl_vae.impute(regression, guide_of(MEAN, WIDE), holes, draws=2000, particles=4000)
    spread = float(((A[3] @ WIDE * A[3]).sum() + NOISE**2).sqrt())
    assert abs(float(found.mean["y"][3] - A[3] @ MEAN)) < 0.08 * spread
    assert abs(float(found.sd["y"][3]) / spread - 1) < 0.08
    assert torch.equal(found.mean["y"][:3], Y[:3])
    truth = dist.Normal(A @ MEAN, ((A @ WIDE * A).sum(-1) + NOISE**2).sqrt()).log_prob(Y)
    error = (found.log_evidence - truth)[4:].abs()
    assert (error < 5 * found.log_evidence_se[4:]).all()


def pairs_of(x=None):
    mean = pyro.sample("mean", dist.Normal(t(0.0), 2.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z[..., None] + torch.zeros(2, dtype=F64), 0.5).to_event(1), obs=x)


def test_a_row_is_filled_given_its_own_part_and_what_all_share():
    x = t([[1.0, 1.5], [-0.5, 0.0], [2.5, torch.nan], [0.5, 0.1], [1.4, 1.0]])
    n, seen = 2 * len(x), ~x.flatten().isnan()
    row = torch.arange(n) // 2
    whole = 4.0 + (row[:, None] == row).double() + 0.25 * torch.eye(n, dtype=F64)
    among, cross = whole[seen][:, seen], whole[5, seen]
    centre = cross @ among.inverse() @ x.flatten()[seen]
    spread = (whole[5, 5] - cross @ among.inverse() @ cross).sqrt()
    shared = torch.full((int(seen.sum()),), 4.0, dtype=F64)
    mean, deviation = shared @ among.inverse() @ x.flatten()[seen], (4 - shared @ among.inverse() @ shared).sqrt()

    def guide(x=None):
        pyro.sample("mean", dist.Normal(mean, deviation))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.nan_to_num().mean(-1), 1.5))

    found = ppl_vae.impute(pairs_of, guide, {"x": x}, draws=1500, particles=60_000)
    assert abs(float(found.mean["x"][2, 1] - centre)) < 0.15 * spread
    assert abs(float(found.sd["x"][2, 1] / spread) - 1) < 0.08
    assert torch.equal(found.draws["x"][:, 0], x[0].expand(1500, 2))


def test_draws_of_another_pair_are_refused():
    other = ppl_vae.posterior(hierarchy, hierarchy_guide, {"x": XH}, draws=10, particles=30)
    with pytest.raises(UserError, match=r"posterior= expects what ppl_vae.posterior gives for this pair: draws of b"):
        ppl_vae.predict(regression, wide, DATA, posterior=other)
    with pytest.raises(UserError, match=r"posterior= expects .* draws of b"):
        ppl_vae.impute(regression, wide, DATA, posterior=other)
