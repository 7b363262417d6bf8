"""A statement that looks farther back than its markov context remembers would see other values: it is refused."""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64
from pyro.infer import config_enumerate

import ppl_vae
from ppl_vae.bounds import ELBO
from ppl_vae.data import as_one_unit
from ppl_vae.errors import ProgramError

STEPS = 4
FIRST = torch.tensor([[0.2, 0.7], [0.4, 0.9]], dtype=F64)
SEEN = torch.tensor([[0.3, 0.8], [0.6, 0.1]], dtype=F64)
ROW = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=F64)


def chain(y, history, latent_lag, seen_lag):
    """x_t depends on x_(t-1) and x_(t-latent_lag), y_t on x_t and x_(t-seen_lag)."""
    x = [torch.tensor(0)] * 3
    for t in pyro.markov(range(STEPS), history=history):
        x.append(pyro.sample(f"x{t}", dist.Bernoulli(FIRST[x[-1], x[-latent_lag]])).long())
        pyro.sample(f"y{t}", dist.Bernoulli(SEEN[x[-1], x[-1 - seen_lag]]), obs=y[..., t])


def exact(latent_lag, seen_lag):
    total = torch.tensor(0.0, dtype=F64)
    for values in itertools.product([0, 1], repeat=STEPS):
        x, chance = [0, 0, 0], torch.tensor(1.0, dtype=F64)
        for t, value in enumerate(values):
            p = FIRST[x[-1], x[-latent_lag]]
            x.append(value)
            q = SEEN[value, x[-1 - seen_lag]]
            chance = chance * (p if value else 1 - p) * (q if ROW[t] else 1 - q)
        total = total + chance
    return float(total.log())


def nothing(y=None):
    pass


CHAINS = [(1, 1, 0), (1, 1, 1), (2, 2, 1), (2, 1, 2), (3, 3, 2)]


@pytest.mark.parametrize(("history", "latent_lag", "seen_lag"), CHAINS)
def test_a_chain_that_remembers_enough_is_exact(history, latent_lag, seen_lag):
    def rows(y):
        with pyro.plate("data", len(y)):
            chain(y, history, latent_lag, seen_lag)

    expected = exact(latent_lag, seen_lag)
    found = ppl_vae.log_weights(rows, nothing, {"y": torch.stack([ROW, ROW])}).log_weight
    torch.testing.assert_close(found, torch.full((1, 2), expected, dtype=F64))
    assert ELBO().loss(config_enumerate(lambda: chain(ROW, history, latent_lag, seen_lag)), nothing) == pytest.approx(
        -expected
    )


@pytest.mark.parametrize(("history", "latent_lag", "seen_lag"), [(0, 1, 0), (1, 2, 0), (1, 1, 2), (2, 3, 0), (2, 1, 3)])
def test_one_that_forgets_is_refused(history, latent_lag, seen_lag):
    def rows(y):
        with pyro.plate("data", len(y)):
            chain(y, history, latent_lag, seen_lag)

    with pytest.raises(ProgramError, match="has forgotten"):
        ppl_vae.log_weights(rows, nothing, {"y": torch.stack([ROW, ROW])})
    alone = config_enumerate(lambda: chain(ROW, history, latent_lag, seen_lag))
    elbo = ELBO()
    for _ in range(2):
        with pytest.raises(ProgramError, match="Enumeration dim conflict"):
            elbo.loss(alone, nothing)
    with pytest.raises(ProgramError, match="has forgotten"):
        ppl_vae.fit(alone, nothing, as_one_unit(None), epochs=1, rows=None)
