"""Latents that a model masks have no part in the weight, whatever draws them."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import ppl_vae
from ppl_vae.bounds import ELBO
from ppl_vae.errors import ProgramError
from ppl_vae.guides import IAF, FullRank, MeanField

F64 = torch.float64
N, T = 40, 4


def series(seed=0):
    """Rows of a linear-Gaussian chain, of 1 to T steps, and log p of each by its covariance."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, T, dtype=F64, generator=generator)
    length = torch.randint(1, T + 1, (N,), generator=generator)
    weights = torch.tensor([[0.5 * 0.8 ** (i - j) if j <= i else 0.0 for j in range(T)] for i in range(T)], dtype=F64)
    covariance = weights @ weights.T + 0.09 * torch.eye(T, dtype=F64)
    zero = torch.zeros(T, dtype=F64)
    exact = [
        dist.MultivariateNormal(zero[:n], covariance[:n, :n]).log_prob(row[:n])
        for row, n in zip(x, length.tolist(), strict=True)
    ]
    return {"x": x, "length": length}, torch.stack(exact)


def chain(x=None, length=None):
    with pyro.plate("data", len(x)):
        z = torch.zeros(len(x), dtype=F64)
        for t in range(T):
            with poutine.mask(mask=t < length):
                z = pyro.sample(f"z{t}", dist.Normal(0.8 * z, 0.5))
                pyro.sample(f"x{t}", dist.Normal(z, 0.3), obs=x[..., t])


def by_hand(mask):
    def guide(x=None, length=None):
        with pyro.plate("data", len(x)):
            for t in range(T):
                with poutine.mask(mask=(t < length) if mask else True):
                    pyro.sample(f"z{t}", dist.Normal(0.8 * x[..., t], 0.3))

    return guide


def evidence(log_weight):
    """log of the mean weight, and its standard error."""
    k = len(log_weight)
    total = log_weight.logsumexp(0) - math.log(k)
    relative = ((log_weight - total).exp() - 1).square().mean(0) / k
    return total, relative.sqrt()


@pytest.mark.parametrize("masked", [True, False])
def test_the_evidence_of_ragged_rows_is_exact(masked):
    batch, exact = series()
    torch.manual_seed(0)
    w = ppl_vae.log_weights(chain, by_hand(masked), batch, particles=4000)
    found, error = evidence(w.log_weight)
    assert ((found - exact).abs() < 5 * error + 1e-6).all()


@pytest.mark.parametrize("family", [FullRank, *[pytest.param(f, marks=pytest.mark.slow) for f in (MeanField, IAF)]])
def test_generated_guides_stay_below_the_evidence(family):
    batch, exact = series()
    torch.manual_seed(0)
    guide = family(chain, batch).double()
    ppl_vae.fit(chain, guide, batch, epochs=60, lr=0.005, batch_size=N)
    found = ppl_vae.evaluate(chain, guide, batch, particles=300, compile="off")
    spread = float(found.log_evidence_se.square().sum().sqrt())
    assert float(found.elbo.sum()) < float(exact.sum())
    assert float((found.log_evidence - exact).sum().abs()) < 0.1 * N + 5 * spread


def test_a_mask_on_one_side_is_a_finding_by_site():
    batch, _ = series()
    found = ppl_vae.check(chain, by_hand(mask=False), batch)
    errors = [f for f in found if f.severity == "error"]
    assert [f.site for f in errors] == ["z1"]  # the first that is masked in some row
    assert "masked in the model but not in the guide" in errors[0].problem


def test_a_mask_of_the_guide_alone_is_refused():
    def model(x=None, length=None):
        with pyro.plate("data", len(x)):
            for t in range(T):
                z = pyro.sample(f"z{t}", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, 0.3), obs=x[..., t])

    batch, _ = series()
    with pytest.raises(ProgramError, match="'z1' is masked in the guide but not in the model"):
        ppl_vae.log_weights(model, by_hand(mask=True), batch)


def test_a_mask_in_both_programs_is_as_in_pyro():
    batch, _ = series()
    torch.manual_seed(1)
    ours = ELBO().loss(chain, by_hand(mask=True), **batch)
    torch.manual_seed(1)
    theirs = Trace_ELBO().loss(chain, by_hand(mask=True), **batch)
    assert ours == pytest.approx(theirs, rel=1e-9)


def capture(history, in_place):
    """Cormack-Jolly-Seber: what comes before the first capture is masked, and the state at it is where it begins."""
    phi, rho = torch.tensor(0.6, dtype=F64), torch.tensor(0.8, dtype=F64)
    with pyro.plate("animals", len(history)):
        z = torch.ones(len(history), dtype=F64)
        seen = torch.zeros(len(history), dtype=torch.bool)
        for t in range(history.shape[-1]):
            with poutine.mask(mask=seen):
                z = pyro.sample(f"z{t}", dist.Bernoulli(torch.where(seen, phi * z, torch.ones_like(z))))
                pyro.sample(f"y{t}", dist.Bernoulli(rho * z), obs=history[:, t])
            if in_place:
                seen |= history[:, t].bool()
            else:
                seen = seen | history[:, t].bool()


def forward(row, phi=0.6, rho=0.8):
    """log p of a capture history given its first capture, by the forward algorithm."""
    if not sum(row):
        return 0.0
    alive, dead = 1.0, 0.0
    for caught in row[row.index(1.0) + 1 :]:
        alive, dead = alive * phi, dead + alive * (1 - phi)
        alive, dead = alive * (rho if caught else 1 - rho), 0.0 if caught else dead
    return math.log(alive + dead)


@pytest.mark.parametrize("in_place", [False, True])
def test_states_before_the_first_capture_are_summed_to_one(in_place):
    history = torch.bernoulli(torch.full((30, 5), 0.4, dtype=F64), generator=torch.Generator().manual_seed(0))
    w = ppl_vae.log_weights(lambda history: capture(history, in_place), lambda history: None, {"history": history})
    exact = torch.tensor([forward(row) for row in history.tolist()], dtype=F64)
    torch.testing.assert_close(w.log_weight[0], exact, atol=1e-9, rtol=0)


def test_observed_entries_by_a_mask_of_their_own():
    """`obs_mask=` makes a latent of what was not observed, which integrates to one."""
    x = torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=F64)
    seen = torch.tensor([True, False, True, False])

    def model(x=None, seen=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=seen.bool())

    def posterior(x=None, seen=None):
        with pyro.plate("data", len(x)):
            loc, scale = torch.where(seen.bool(), x / 2, 0.0), torch.where(seen.bool(), 0.5**0.5, 1.0).to(F64)
            z = pyro.sample("z", dist.Normal(loc, scale))
            with poutine.mask(mask=~seen.bool()):
                pyro.sample("x_unobserved", dist.Normal(z, 1.0))

    w = ppl_vae.log_weights(model, posterior, {"x": x, "seen": seen}, particles=3)
    exact = torch.where(seen, dist.Normal(0.0, 2.0**0.5).log_prob(x), torch.zeros_like(x))
    torch.testing.assert_close(w.log_weight, exact.expand(3, -1))


def test_a_guide_of_points_and_auxiliary_draws_counts_what_the_model_masks():
    """Pyro's AutoNormal draws z as a function of another site, which no mask of z reaches: both densities count."""
    seen = torch.tensor([True, False])

    def model(x=None):
        with pyro.plate("data", len(x)), poutine.mask(mask=seen[: len(x)]):
            z = pyro.sample("z", dist.LogNormal(torch.zeros((), dtype=F64), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.tensor([1.5, 3.0], dtype=F64)
    guide = AutoNormal(model, init_scale=0.9)
    guide(x=x)
    torch.manual_seed(0)
    w = ppl_vae.log_weights(model, guide.double(), {"x": x}, particles=20_000).log_weight.detach()
    grid = torch.linspace(-8, 6, 4001, dtype=F64)
    log = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid.exp(), 1.0).log_prob(x[0])
    exact = torch.stack([log.logsumexp(0) + math.log(14 / 4000), torch.zeros((), dtype=F64)])
    value, error = evidence(w)
    assert ((value - exact).abs() < 4 * error).all(), (value, exact, error)
