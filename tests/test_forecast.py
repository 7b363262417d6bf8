"""How series go on after their ends, against the Kalman filter, the forward algorithm and sums over all paths."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.belonging import NOISE, SLOPE, SPREAD, series
from pyro import poutine

import ppl_vae
from ppl_vae.errors import UserError
from ppl_vae.guides import Point
from ppl_vae.prediction._scores import crps

F64 = torch.float64
DRAWS = 3000


def kalman(x, length, lead):
    """Mean and variance of what is observed `lead` steps after the end of each row, and of the state at its end."""
    means, variances = [], []
    for row, n in zip(x, length.tolist(), strict=True):
        mean, variance = 0.0, 0.0
        for t in range(n + lead):
            mean, variance = SLOPE * mean, SLOPE**2 * variance + SPREAD**2
            if t < n:
                gain = variance / (variance + NOISE**2)
                mean, variance = mean + gain * (float(row[t]) - mean), (1 - gain) * variance
        means.append(mean)
        variances.append(variance + NOISE**2)
    return torch.tensor(means, dtype=F64), torch.tensor(variances, dtype=F64)


def exact(x=None, length=None, masked=True):
    """The posterior of `series`, from its precision."""
    steps = x.shape[1]
    ahead = torch.eye(steps, dtype=F64) - SLOPE * torch.diag(torch.ones(steps - 1, dtype=F64), -1)
    seen = (torch.arange(steps) < length.unsqueeze(1)).to(F64)
    precision = ahead.T @ ahead / SPREAD**2 + torch.diag_embed(seen) / NOISE**2
    covariance = torch.linalg.inv(precision)
    mean = (covariance @ (seen * x / NOISE**2).unsqueeze(-1)).squeeze(-1)
    with pyro.plate("data", len(x)):
        before = torch.zeros(len(x), dtype=F64)
        for t in range(steps):
            slope = covariance[:, t, t - 1] / covariance[:, t - 1, t - 1] if t else torch.zeros(len(x), dtype=F64)
            spread = covariance[:, t, t] - (slope * covariance[:, t, t - 1] if t else 0.0)
            at = mean[:, t] + slope * (before - mean[:, t - 1] if t else 0.0)
            with poutine.mask(mask=t < length) if masked else nullcontext():
                before = pyro.sample(f"z{t}", dist.Normal(at, spread.sqrt()))


def rows(n=5, steps=7):
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(n, steps, dtype=F64, generator=generator),
        "length": torch.tensor([7, 4, 6, 5, 7]),
    }


def test_draws_after_the_end_are_those_of_the_kalman_filter():
    batch = rows()
    found = ppl_vae.predict(series, exact, batch, "x", horizon=3, draws=DRAWS)
    assert (found.draws.shape, found.mean.shape, found.log_prob, found.crps) == ((DRAWS, 5, 3), (5, 3), None, None)
    for lead in range(3):
        mean, variance = kalman(batch["x"], batch["length"], lead + 1)
        assert ((found.mean[:, lead] - mean).abs() < 4.5 * (variance / DRAWS).sqrt()).all()
        assert ((found.draws[:, :, lead].var(0) / variance).log().abs() < 4.5 * (2 / DRAWS) ** 0.5).all()
        torch.testing.assert_close(found.sd[:, lead], variance.sqrt(), rtol=0.05, atol=0)


def test_held_out_ends_are_hidden_and_scored():
    batch = rows()
    found = ppl_vae.predict(series, exact, batch, "x", horizon=2, held_out=True, draws=DRAWS)
    ends = batch["length"] - 2
    other = dict(batch)
    other["x"] = batch["x"].clone()
    for row, end in enumerate(ends.tolist()):
        other["x"][row, end:] = 50.0
    hidden = ppl_vae.predict(series, exact, other, "x", horizon=2, held_out=True, draws=DRAWS)
    torch.testing.assert_close(hidden.draws, found.draws)
    for lead in range(2):
        mean, variance = kalman(batch["x"], ends, lead + 1)
        true = batch["x"][torch.arange(5), ends + lead]
        normal = dist.Normal(mean, variance.sqrt())
        torch.testing.assert_close(found.log_prob[:, lead], normal.log_prob(true), atol=0.1, rtol=0)
        z = (true - mean) / variance.sqrt()
        unit = dist.Normal(torch.zeros((), dtype=F64), 1.0)
        score = variance.sqrt() * (z * (2 * unit.cdf(z) - 1) + 2 * unit.log_prob(z).exp() - 1 / math.pi**0.5)
        torch.testing.assert_close(found.crps[:, lead], score, atol=0.06, rtol=0)


def whole(x=None):
    with pyro.plate("data", len(x)):
        z = x.new_zeros(len(x))
        for t in range(x.shape[1]):
            z = pyro.sample(f"z{t}", dist.Normal(SLOPE * z, SPREAD))
            pyro.sample(f"x{t}", dist.Normal(z, NOISE), obs=x[:, t])


def test_rows_without_a_length_end_together_or_where_they_are_missing():
    x = rows()["x"]
    mean, variance = kalman(x, torch.full((5,), 7), 2)

    def together(x=None):
        exact(x, torch.full((len(x),), 7), masked=False)

    found = ppl_vae.predict(whole, together, {"x": x}, "x", horizon=2, draws=DRAWS)
    assert ((found.mean[:, 1] - mean).abs() < 4.5 * (variance / DRAWS).sqrt()).all()
    ends = rows()["length"]
    some = torch.where(torch.arange(7) < ends.unsqueeze(1), x, torch.nan)

    def guide(x=None):
        exact(x.nan_to_num(), (~x.isnan()).sum(1), masked=False)

    found = ppl_vae.predict(whole, guide, {"x": some}, "x", horizon=1, draws=DRAWS)
    mean, variance = kalman(x, ends, 1)
    assert ((found.mean[:, 0] - mean).abs() < 4.5 * (variance / DRAWS).sqrt()).all()


STAY = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=F64)
TONES = torch.tensor([0.2, 0.9], dtype=F64)


def autoregressive(y=None):
    """States that are summed out; a tone depends on the one before it as well."""
    with pyro.plate("data", len(y)):
        h, before = 0, torch.zeros(len(y), dtype=F64)
        for t in pyro.markov(range(y.shape[1])):
            h = pyro.sample(f"h{t}", dist.Categorical(STAY[h]), infer={"enumerate": "parallel"})
            before = pyro.sample(f"y{t}", dist.Bernoulli(0.8 * TONES[h] + 0.2 * before), obs=y[:, t])


def test_states_that_are_summed_out_go_on_too():
    y = torch.bernoulli(torch.full((4, 6), 0.5, dtype=F64), generator=torch.Generator().manual_seed(0))
    guide = Point(autoregressive, {"y": y})
    found = ppl_vae.predict(autoregressive, guide, {"y": y}, "y", horizon=2, draws=DRAWS)
    state = torch.tensor([1.0, 0.0], dtype=F64).expand(4, 2)
    before = torch.zeros(4, dtype=F64)
    for t in range(6):
        state = state @ STAY
        p = 0.8 * TONES + 0.2 * before.unsqueeze(1)
        seen = y[:, t : t + 1]
        state = state * (seen * p + (1 - seen) * (1 - p))
        state, before = state / state.sum(1, keepdim=True), y[:, t]
    one = state @ STAY
    first = (one * (0.8 * TONES + 0.2 * before.unsqueeze(1))).sum(1)
    # the second depends on the first through the tone: its mean is linear in both
    second = ((one @ STAY) * 0.8 * TONES).sum(1) + 0.2 * first
    for lead, p in enumerate((first, second)):
        error = 4.5 * (p * (1 - p) / DRAWS).sqrt()
        assert ((found.probs[:, lead, 1] - p).abs() < error).all()
        assert ((found.draws[:, :, lead].mean(0) - p).abs() < error).all()


def driven(x, u):
    with pyro.plate("data", len(x)):
        z = x.new_zeros(len(x))
        for t in range(x.shape[1]):
            z = pyro.sample(f"z{t}", dist.Normal(SLOPE * z + u[:, t], SPREAD))
            pyro.sample(f"x{t}", dist.Normal(z, NOISE), obs=x[:, t])


def test_inputs_of_the_steps_to_come_have_to_be_known():
    batch = {"x": rows()["x"], "u": rows()["x"].flip(0, 1) + 1}
    guide = Point(driven, batch, hidden=(4,)).double()
    with pytest.raises(UserError, match="need their 'u'"):
        ppl_vae.predict(driven, guide, batch, "x", horizon=1)
    more = {"x": batch["x"], "u": batch["u"] + 0.0}
    more["x"] = torch.where(torch.arange(7) < 5, batch["x"], torch.nan)
    low, high = (
        ppl_vae.predict(driven, guide, {**more, "u": more["u"] + 9.0 * shift * (torch.arange(7) > 4)}, "x", horizon=2)
        for shift in (0, 1)
    )
    torch.testing.assert_close(high.mean - low.mean, torch.tensor([9.0, 9.0 + SLOPE * 9], dtype=F64).expand(5, 2))
    held = ppl_vae.predict(driven, guide, batch, "x", horizon=2, held_out=True, draws=10)
    assert held.log_prob.shape == held.crps.shape == (5, 2)


def itself(x=None):
    """Goes on with the field, which has no value after its end, instead of what the site gives back."""
    with pyro.plate("data", len(x)):
        z = x.new_zeros(len(x))
        for t in range(x.shape[1]):
            z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
            pyro.sample(f"x{t}", dist.Normal(z + (x[:, t - 1] if t else 0.0), 1.0), obs=x[:, t])


def test_what_cannot_be_forecast_is_refused():
    batch = rows()
    with pytest.raises(UserError, match=r"row 1 .* has 4 steps, and 4 are held out"):
        ppl_vae.predict(series, exact, batch, "x", horizon=4, held_out=True)
    with pytest.raises(UserError, match="'length'"):
        ppl_vae.predict(series, exact, batch, "length", horizon=1)
    with pytest.raises(UserError, match="give horizon="):
        ppl_vae.predict(series, exact, batch, "x", held_out=True)
    with pytest.raises(UserError, match="goes through none"):
        ppl_vae.predict(autoregressive, lambda y=None: None, {"y": torch.ones(3, 2)}, "y", horizon=1)
    with pytest.raises(UserError, match=r"let it go on with what pyro.sample gives back"):
        ppl_vae.predict(itself, Point(itself, {"x": batch["x"]}).double(), {"x": batch["x"]}, "x", horizon=2, draws=2)


def test_the_score_is_fair():
    """Over draws of any number its mean is that of the distribution."""
    generator = torch.Generator().manual_seed(0)
    few = crps(torch.randn(3, 200_000, generator=generator, dtype=F64), torch.zeros(200_000, dtype=F64))
    assert abs(float(few.mean()) - (2**0.5 - 1) / math.pi**0.5) < 4 * float(few.std()) / 200_000**0.5
