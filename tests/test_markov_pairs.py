"""Chains that the guide draws and the model weighs, each with a memory of its own: exact, or refused."""

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
from ppl_vae.errors import ProgramError

STEPS = 4
SERIES = torch.randn(2, STEPS, dtype=F64, generator=torch.manual_seed(1))
PLAIN = torch.distributions


def of_model(c, lag):
    return 0.3 + 0.9 * c[-1] - 1.3 * c[-lag]


def of_guide(c, lag):
    return 0.1 + 0.4 * c[-1] - 0.8 * c[-lag]


def pair(lags, histories, more, seen=lambda value: value):
    """A chain c_t of both programs that looks `lag` steps back and remembers `history`; with `more` also a latent z of
    the model alone, before the chain."""

    def chain(rule, lag, history, y=None):
        c = [torch.zeros((), dtype=F64)] * 3
        for t in pyro.markov(range(STEPS), history=history):
            logits = rule([*c[:-1], seen(c[-1])] if lag == 1 else [seen(c[-2]), c[-1]], lag)
            c.append(pyro.sample(f"c{t}", dist.Bernoulli(logits=logits)))
            if y is not None:
                pyro.sample(f"y{t}", dist.Normal(c[-1], 1.0), obs=y[..., t])

    def model(y):
        with pyro.plate("data", len(y)):
            if more:
                z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3, dtype=F64)))
                pyro.sample("w", dist.Normal(2 * z, 1.0), obs=y[..., 0])
            chain(of_model, lags[1], histories[1], y)

    def guide(y):
        with pyro.plate("data", len(y)):
            chain(of_guide, lags[0], histories[0])

    return model, guide


def exact(y, lags, more):
    """log p of a row, and its ELBO, by all values of the chain."""
    joint, elbo = [], 0.0
    for values in itertools.product([0.0, 1.0], repeat=STEPS):
        c, log_p, log_q = [torch.zeros((), dtype=F64)] * 3, 0.0, 0.0
        for t, value in enumerate(torch.tensor(values, dtype=F64)):
            log_p = log_p + PLAIN.Bernoulli(logits=of_model(c, lags[1])).log_prob(value)
            log_p = log_p + PLAIN.Normal(value, 1.0).log_prob(y[t])
            log_q = log_q + PLAIN.Bernoulli(logits=of_guide(c, lags[0])).log_prob(value)
            c.append(value)
        joint.append(log_p)
        elbo = elbo + log_q.exp() * (log_p - log_q)
    chance = torch.tensor([0.7, 0.3], dtype=F64).log() + PLAIN.Normal(torch.tensor([0.0, 2.0]), 1.0).log_prob(y[0])
    other = chance.logsumexp(0) if more else 0.0
    return torch.stack(joint).logsumexp(0) + other, elbo + other


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize(
    ("lags", "histories"), [((1, 1), (1, 1)), ((1, 2), (2, 2)), ((2, 1), (2, 1)), ((1, 1), (2, 1))]
)
def test_a_guide_that_remembers_enough_is_exact(lags, histories, more):
    """A latent of the model alone has a dim of its own, though the chain of the guide has given its dims back."""
    model, guide = pair(lags, histories, more)
    evidence, elbo = map(torch.stack, zip(*(exact(y, lags, more) for y in SERIES), strict=True))
    found = {d: ppl_vae.log_weights(model, guide, {"y": SERIES}, discrete=d) for d in ("marginal", "expectation")}
    torch.testing.assert_close(found["marginal"].log_weight[0], evidence)
    torch.testing.assert_close(found["expectation"].log_weight[0], elbo)
    loss = ELBO().loss(config_enumerate(model), config_enumerate(guide), SERIES)
    assert loss == pytest.approx(-float(elbo.sum()))


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize(("lags", "histories"), [((2, 1), (1, 1)), ((1, 2), (1, 2)), ((1, 1), (1, 2))])
def test_a_guide_that_forgets_what_the_model_knows_is_refused(lags, histories, more):
    """Pyro weighs the last of them with equal values of two steps, without a word."""
    model, guide = pair(lags, histories, more)
    with pytest.raises(ProgramError, match=r"has forgotten.*in both programs"):
        ppl_vae.log_weights(model, guide, {"y": SERIES})
    with pytest.raises(ProgramError, match="has forgotten"):
        ELBO().loss(config_enumerate(model), config_enumerate(guide), SERIES)


@pytest.mark.parametrize("lag", [1, 2])
def test_what_is_computed_outside_of_torch_is_seen_as_well(lag):
    """Provenance ends in numpy; what depends on a value changes with it all the same."""
    model, guide = pair((1, lag), (1, 1), False, seen=lambda value: torch.as_tensor(0.01 * value.numpy()))
    if lag == 1:
        assert ppl_vae.log_weights(model, guide, {"y": SERIES}).log_weight.isfinite().all()
    else:
        with pytest.raises(ProgramError, match=r"'c0', which pyro\.markov has forgotten"):
            ppl_vae.log_weights(model, guide, {"y": SERIES})
