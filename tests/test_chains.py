"""Programs that go through time: recognised from what depends on what, and drawn by one network for all steps."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import ppl_vae
from ppl_vae.guides import IAF, FullRank, MeanField
from ppl_vae.nn.following import LinearFollowing
from ppl_vae.nn.heads import DiagonalNormal

F64 = torch.float64
SLOPE, SPREAD, NOISE = 0.8, 0.6, 0.7


def rows(n=6, steps=7, seed=0, dtype=F64):
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(2, steps + 1, (n,), generator=generator)
    length[0], length[1] = steps, 2
    return {"x": torch.randn(n, steps, dtype=dtype, generator=generator), "length": length}


def walk(x, length):
    """Names say nothing: a step's latent is called after a letter."""
    with pyro.plate("data", len(x)):
        z = x.new_zeros(len(x))
        for t in range(x.shape[1]):
            with poutine.mask(mask=t < length):
                z = pyro.sample(f"latent {chr(97 + t)}", dist.Normal(SLOPE * z, SPREAD))
                pyro.sample(f"seen {chr(97 + t)}", dist.Normal(z, NOISE), obs=x[:, t])


def two_chains(x):
    with pyro.plate("data", len(x)):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        a, b = x.new_zeros(len(x)), x.new_zeros(len(x), 2)
        for t in range(x.shape[1]):
            a = pyro.sample(f"a{t}", dist.Normal(0.9 * a + 0.1 * b[..., 0], 0.5))
            b = pyro.sample(f"b{t}", dist.Normal(0.5 * b + a.unsqueeze(-1), 0.5).to_event(1))
            pyro.sample(f"x{t}", dist.Normal(a + b.sum(-1) + level, 1.0), obs=x[:, t])


def side_by_side(x):
    """Two chains that know nothing of one another, of which one has a level: also one chain of every second latent."""
    with pyro.plate("data", len(x)):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        a = b = x.new_zeros(len(x))
        for t in range(x.shape[1]):
            a = pyro.sample(f"a{t}", dist.Normal(0.9 * a, 0.5))
            b = pyro.sample(f"b{t}", dist.Normal(0.5 * b + level, 0.5))
            pyro.sample(f"x{t}", dist.Normal(a + b, 1.0), obs=x[:, t])


def all_latents_first(x, u):
    """The latents in one loop, what is observed in another; the input u_t moves the state."""
    states = []
    with pyro.plate("data", len(x)):
        z = x.new_zeros(len(x))
        for t in range(x.shape[1]):
            z = pyro.sample(f"z{t}", dist.Normal(SLOPE * z + u[:, t], SPREAD))
            states.append(z)
        for t in range(x.shape[1]):
            pyro.sample(f"x{t}", dist.Normal(states[t], NOISE), obs=x[:, t])


def second_order(x):
    with pyro.plate("data", len(x)):
        z, before = x.new_zeros(len(x)), x.new_zeros(len(x))
        for t in range(x.shape[1]):
            z, before = pyro.sample(f"z{t}", dist.Normal(z - 0.3 * before, SPREAD)), z
            pyro.sample(f"x{t}", dist.Normal(z, NOISE), obs=x[:, t])


def switching(x):
    """A finite state at every step, which the model sums out, and a continuous one."""
    stay = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=F64)
    with pyro.plate("data", len(x)):
        s, z = 0, x.new_zeros(len(x))
        for t in pyro.markov(range(x.shape[1])):
            s = pyro.sample(f"s{t}", dist.Categorical(stay[s]))
            z = pyro.sample(f"z{t}", dist.Normal(SLOPE * z + s, SPREAD))
            pyro.sample(f"x{t}", dist.Normal(z, NOISE), obs=x[:, t])


def ladder(x):
    """Layers upon layers, of which only the last is observed: no series."""
    with pyro.plate("data", len(x)):
        z = x.new_zeros(len(x))
        for t in range(6):
            z = pyro.sample(f"z{t}", dist.Normal(torch.tanh(z), 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)


def alike(x):
    """Latents of one kind that do not follow one another."""
    with pyro.plate("data", len(x)):
        for t in range(x.shape[1]):
            z = pyro.sample(f"z{t}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])


def total(x):
    """What is observed looks at all steps at once."""
    with pyro.plate("data", len(x)):
        z, sum_ = x.new_zeros(len(x)), 0.0
        for t in range(x.shape[1]):
            z = pyro.sample(f"z{t}", dist.Normal(SLOPE * z, SPREAD))
            sum_ = sum_ + z
            pyro.sample(f"x{t}", dist.Normal(sum_, NOISE), obs=x[:, t])


def chains_of(guide):
    return [block for block in guide.drawn if block.steps]


CHAINS = {
    "masked by length": (walk, rows(), 1, 1),
    "two chains and a level": (two_chains, {"x": rows()["x"]}, 2, 1),
    "side by side": (side_by_side, {"x": rows()["x"]}, 2, 1),
    "inputs, latents first": (all_latents_first, {"x": rows()["x"], "u": rows(seed=1)["x"]}, 1, 1),
    "second order": (second_order, {"x": rows()["x"]}, 1, 2),
    "switching": (switching, {"x": rows()["x"]}, 1, 1),
}


@pytest.fixture(params=CHAINS)
def series(request):
    return CHAINS[request.param]


@pytest.mark.parametrize("family", [MeanField, FullRank, IAF])
def test_a_chain_is_recognised_and_drawn_by_one_network(series, family):
    model, batch, sites, lags = series
    guide = family(model, batch, hidden=(8,)).double()
    (block,) = chains_of(guide)
    assert (len(block.steps), len(block.steps[0]), block.lags) == (7, sites, lags)
    assert ppl_vae.check(model, guide, batch) == []
    longer = {n: torch.cat([v, v], 1) if v.dim() > 1 else 2 * v for n, v in batch.items()}
    of_longer = family(model, longer, hidden=(8,))
    assert len(chains_of(of_longer)[0].steps) == 14
    assert sum(p.numel() for p in of_longer.parameters()) == sum(p.numel() for p in guide.parameters())


@pytest.mark.parametrize("family", [MeanField, FullRank])
def test_the_density_of_its_own_draws_is_that_of_the_weights(series, family):
    model, batch, *_ = series
    torch.manual_seed(0)
    guide = family(model, batch, hidden=(8,)).double()
    torch.manual_seed(1)
    w = ppl_vae.log_weights(model, guide, batch)
    torch.manual_seed(1)
    drawn = guide(**batch)
    density = guide.log_prob(drawn, **batch)
    if model is not walk:  # there the masked steps count in neither
        torch.testing.assert_close(w.log_guide[0], density)
    assert torch.isfinite(density).all()


@pytest.mark.parametrize("program", [ladder, alike, total])
def test_what_is_no_chain_is_none(program):
    guide = MeanField(program, {"x": rows()["x"]}, hidden=(4,))
    assert not chains_of(guide)


def test_what_pads_a_row_is_not_read():
    batch = rows()
    torch.manual_seed(0)
    guide = FullRank(walk, batch, hidden=(8,)).double()
    padding = torch.arange(7) >= batch["length"].unsqueeze(1)
    other = {**batch, "x": torch.where(padding, 100.0, batch["x"])}
    row, steps = guide.encoder.of_steps(batch)
    again = guide.encoder.of_steps(other)
    torch.testing.assert_close(again[0], row)
    inside = ~padding.T
    torch.testing.assert_close(again[1][inside], steps[inside])


def test_a_step_that_few_rows_miss_is_skipped_there():
    """The pair is read on a few rows, of which the first has the holes of all: each step is a site of its own."""
    batch = {"x": rows(12)["x"]}
    batch["x"][1, 2] = batch["x"][9, 0] = math.nan

    def chain(x):
        walk(x, torch.full((len(x),), x.shape[1]))

    torch.manual_seed(0)
    guide = FullRank(chain, batch, hidden=(8,)).double()
    found = ppl_vae.evaluate(chain, guide, batch, particles=4000, compile="off")
    ahead = torch.eye(7, dtype=F64) - SLOPE * torch.diag(torch.ones(6, dtype=F64), -1)
    covariance = SPREAD**2 * torch.linalg.inv(ahead.T @ ahead) + NOISE**2 * torch.eye(7, dtype=F64)
    for row in (1, 9):
        there = ~torch.isnan(batch["x"][row])
        normal = dist.MultivariateNormal(torch.zeros(int(there.sum()), dtype=F64), covariance[there][:, there])
        exact = normal.log_prob(batch["x"][row][there])
        assert abs(found.log_evidence[row] - exact) < 5 * found.log_evidence_se[row] + 0.05


def test_the_posterior_of_a_linear_chain_is_of_the_form_of_full_rank():
    """With slopes and scales set by hand, log q is the density of the normal whose precision is block tridiagonal."""
    steps = 5
    ahead = torch.eye(steps, dtype=F64) - SLOPE * torch.diag(torch.ones(steps - 1, dtype=F64), -1)
    precision = ahead.T @ ahead / SPREAD**2 + torch.eye(steps, dtype=F64) / NOISE**2
    covariance, mean = torch.linalg.inv(precision), torch.randn(steps, dtype=F64)
    slopes = torch.cat([torch.zeros(1, dtype=F64), covariance.diagonal(-1) / covariance.diagonal()[:-1]])
    spread = covariance.diagonal() - slopes * torch.cat([torch.zeros(1, dtype=F64), covariance.diagonal(-1)])
    head = LinearFollowing(DiagonalNormal(steps, 1), steps, 1, 1).double()
    raw = torch.log(torch.expm1(spread.sqrt())) - math.log(math.expm1(1.0))
    with torch.no_grad():
        head.normal.linear.bias.zero_()
        head.normal.linear.weight.copy_(torch.stack([mean, raw]))
        head.slopes.linear.bias.zero_()
        head.slopes.linear.weight.copy_(slopes.unsqueeze(0))
    following = head(torch.eye(steps, dtype=F64).unsqueeze(1))  # the features of a step: which one it is
    values = torch.randn(steps, 1, 1, dtype=F64)
    log_q = [following(t, [values[t - 1] if t else torch.zeros(1)]).log_prob(values[t]) for t in range(steps)]
    posterior = dist.MultivariateNormal(mean, precision_matrix=precision)
    torch.testing.assert_close(torch.stack(log_q).sum(), posterior.log_prob(values.flatten()))


class DeepMarkov(nn.Module):
    """Pyro's example of a deep Markov model (Krishnan et al. 2017), smaller: its own names, masks within events."""

    def __init__(self, entries=3, size=2):
        super().__init__()
        self.emitter = nn.Sequential(nn.Linear(size, entries), nn.Sigmoid())
        self.transition = nn.Linear(size, size)
        self.z_0 = nn.Parameter(torch.zeros(size))

    def model(self, mini_batch, mini_batch_mask, annealing_factor=1.0):
        pyro.module("dmm", self)
        z_prev = self.z_0.expand(len(mini_batch), len(self.z_0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, mini_batch.size(1) + 1)):
                seen = mini_batch_mask[:, t - 1 : t]
                with poutine.scale(None, annealing_factor):
                    fn = dist.Normal(torch.tanh(self.transition(z_prev)), 0.5)
                    z_prev = pyro.sample(f"z_{t}", fn.mask(seen).to_event(1))
                emission = dist.Bernoulli(self.emitter(z_prev)).mask(seen).to_event(1)
                pyro.sample(f"obs_x_{t}", emission, obs=mini_batch[:, t - 1, :])


def test_a_deep_markov_model_as_its_authors_write_it():
    length = torch.tensor([6, 2, 3, 5])
    mask = (torch.arange(6) < length.unsqueeze(1)).float()
    batch = {"mini_batch": torch.bernoulli(torch.full((4, 6, 3), 0.4)), "mini_batch_mask": mask}
    dmm = DeepMarkov()
    guide = FullRank(dmm.model, batch, hidden=(8,))
    assert len(chains_of(guide)[0].steps) == 6
    assert guide.encoder.timing.mask == "mini_batch_mask"
    assert ppl_vae.check(dmm.model, guide, batch) == []
    other = {**batch, "mini_batch": torch.where(mask.unsqueeze(-1) > 0, batch["mini_batch"], 1 - batch["mini_batch"])}
    torch.testing.assert_close(guide.encoder(batch), guide.encoder(other))
