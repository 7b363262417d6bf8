"""Finite latents that no guide draws: the model sums them out, exactly."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.programs import PROGRAMS

import ppl_vae
from ppl_vae import UserError
from ppl_vae.autoguide.summing import refuse_large_sums
from ppl_vae.guides import FullRank, MeanField

STAY = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
MEANS = torch.tensor([-1.0, 1.0], dtype=torch.float64)


def hidden_markov(x=None):
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Normal(0.0, 0.3))
        h = 0
        for t in pyro.markov(range(x.shape[-1])):
            h = pyro.sample(f"h{t}", dist.Categorical((STAY[h] if t else torch.ones(2) / 2).to(x.dtype)))
            pyro.sample(f"x{t}", dist.Normal(MEANS.to(x.dtype)[h] + b, 0.7), obs=x[..., t])


def forward_algorithm(x, b):
    """log p(x | b), [row]."""
    emitted = dist.Normal(MEANS.to(x.dtype) + b.unsqueeze(-1).unsqueeze(-1), 0.7).log_prob(x.unsqueeze(-1))
    log = emitted[:, 0] - math.log(2.0)
    for t in range(1, x.shape[1]):
        log = (log.unsqueeze(-1) + STAY.to(x.dtype).log()).logsumexp(-2) + emitted[:, t]
    return log.logsumexp(-1)


def test_a_chain_of_many_states_is_summed_out_in_the_model():
    x = torch.randn(5, 12)
    guide = MeanField(hidden_markov, x, hidden=(4,))
    assert guide.sites.keys() == {"b"}
    assert "summed out in the model: h0, h1" in repr(guide)
    torch.manual_seed(0)
    found = ppl_vae.log_weights(hidden_markov, guide, x, particles=1).log_weight[0]
    torch.manual_seed(0)
    b = guide(x=x)["b"]
    exact = forward_algorithm(x, b) + dist.Normal(0.0, 0.3).log_prob(b) - guide.log_prob({"b": b}, x=x)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_a_long_chain_is_summed_out_as_by_the_forward_algorithm():
    x = 2 * torch.randn(5, 200, dtype=torch.float64)
    guide = MeanField(hidden_markov, x, hidden=(4,)).double()
    torch.manual_seed(0)
    found = ppl_vae.log_weights(hidden_markov, guide, x, particles=1).log_weight[0]
    torch.manual_seed(0)
    b = guide(x=x)["b"]
    exact = forward_algorithm(x, b) + dist.Normal(0.0, 0.3).log_prob(b) - guide.log_prob({"b": b}, x=x)
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e-6)


def test_a_long_loop_that_does_not_say_that_it_is_a_chain_is_refused():
    def model(x):
        h = 0
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Normal(0.0, 1.0))
            for t in range(x.shape[-1]):
                h = pyro.sample(f"h{t}", dist.Categorical((STAY[h] if t else torch.ones(2) / 2).to(x.dtype)))
                pyro.sample(f"x{t}", dist.Normal(MEANS.to(x.dtype)[h], 0.7), obs=x[..., t])

    x = torch.randn(3, 70)
    with pytest.raises(UserError, match=r"70 latents are summed out.*pyro\.markov"):
        ppl_vae.log_weights(model, MeanField(model, x, hidden=(4,)), x)


def test_collapse_takes_names_and_patterns_and_refuses_others():
    short = torch.randn(5, 3)
    assert MeanField(hidden_markov, short).sites.keys() == {"b", "h0", "h1", "h2"}
    for patterns in ("h*", ("h0", "h1", "h2")):
        guide = FullRank(hidden_markov, short, collapse=patterns)
        assert guide.sites.keys() == {"b"}
        assert ppl_vae.check(hidden_markov, guide, short) == []
    with pytest.raises(UserError, match="unknown latent site in collapse 'k'"):
        MeanField(hidden_markov, short, collapse=("k",))
    with pytest.raises(UserError, match="collapse names 'b', which is Normal and has no finite set"):
        MeanField(hidden_markov, short, collapse=("b",))


def test_what_the_model_marks_is_not_drawn_by_the_guide():
    marked = pyro.infer.config_enumerate(PROGRAMS["label, then two"])
    x = torch.randn(6, 3)
    guide = MeanField(marked, x, hidden=(4,))
    assert guide.sites.keys() == {"scale", "shift"}
    assert [b.given for b in guide.drawn] == [(), ("scale",)]
    assert ppl_vae.check(marked, guide, x) == []


def test_a_count_with_an_end_is_summed_out():
    """An N-mixture: log p(r | p) by a sum over the counts."""

    def model(r=None):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("sites", len(r)):
            n = pyro.sample("n", dist.Binomial(15, p))
            pyro.sample("r", dist.Binomial(n.unsqueeze(-1), 0.5, validate_args=False).to_event(1), obs=r)

    r = torch.tensor([[1.0, 2.0], [0.0, 0.0], [4.0, 7.0]])
    guide = MeanField(model, {"r": r})
    torch.manual_seed(0)
    found = ppl_vae.log_weights(model, guide, {"r": r}, particles=1)
    torch.manual_seed(0)
    p = guide(r=r)["p"]
    n = torch.arange(16.0)
    seen = dist.Binomial(n.unsqueeze(-1), 0.5, validate_args=False).log_prob(r.unsqueeze(1)).nan_to_num(nan=-torch.inf)
    seen = torch.where(r.unsqueeze(1) <= n.unsqueeze(-1), seen, -torch.inf).sum(-1)
    exact = (seen + dist.Binomial(15, p).log_prob(n)).logsumexp(-1)
    torch.testing.assert_close(found.log_likelihood[0], exact, rtol=1e-4, atol=1e-4)


def test_sums_that_are_too_large_are_refused_by_site():
    x = torch.randn(5, 12)
    sites = {f"h{t}": MeanField(hidden_markov, x[:, :1]).sites["h0"] for t in range(24)}
    chain = {f"h{t}": frozenset({f"h{t - 1}"} if t else ()) for t in range(24)}
    refuse_large_sums(sites, chain)
    all_at_once = {**chain, "x": frozenset(sites)}
    with pytest.raises(UserError, match="have 16777216 joint values to sum over"):
        refuse_large_sums(sites, all_at_once)


def test_hidden_markov_of_pyro_with_shared_tables_and_rows_of_unequal_length():
    """Pyro's `examples/hmm.py`, model 1: given the tables, the weight of a row is the forward algorithm's."""
    f64 = {"dtype": torch.float64}

    def model(sequences, lengths):
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(3, **f64) + 0.1).to_event(1))
        probs_y = pyro.sample("probs_y", dist.Beta(torch.full((3, 2), 0.5, **f64), 0.9).to_event(2))
        tones = pyro.plate("tones", 2, dim=-1)
        with pyro.plate("sequences", len(sequences), dim=-2):
            x = 0
            for t in pyro.markov(range(sequences.shape[1])):
                with pyro.poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
                    with tones:
                        pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=sequences[:, t])

    lengths = torch.tensor([6, 1, 4])
    batch = {"sequences": torch.bernoulli(torch.full((3, 6, 2), 0.4, **f64)), "lengths": lengths}
    guide = MeanField(model, batch).double()
    torch.manual_seed(0)
    found = ppl_vae.log_weights(model, guide, batch, particles=1).log_weight[0]
    torch.manual_seed(0)
    tables = guide(**batch)
    exact = []
    for row, length in zip(batch["sequences"], lengths.tolist(), strict=True):
        emitted = dist.Bernoulli(tables["probs_y"]).log_prob(row.unsqueeze(1)).sum(-1)
        log = tables["probs_x"][0].log() + emitted[0]
        for t in range(1, length):
            log = (log.unsqueeze(-1) + tables["probs_x"].log()).logsumexp(0) + emitted[t]
        exact.append(log.logsumexp(0))
    torch.testing.assert_close(found, torch.stack(exact))


def test_a_summed_latent_has_one_value_for_all_elements_of_a_plate_inside_of_its_row():
    """Drawn values are those of the row: raters that judge one item see one class. Frequencies are p(c | y)."""
    y = torch.tensor([[0.1, 0.4, -0.2], [1.8, 2.3, 0.9]], dtype=torch.float64)
    means = torch.arange(3.0, dtype=torch.float64)

    def model(y):
        with pyro.plate("items", len(y), dim=-2):
            c = pyro.sample("c", dist.Categorical(torch.ones(3, dtype=torch.float64)))
            with pyro.plate("raters", 3, dim=-1):
                pyro.sample("y", dist.Normal(means[c], 1.0), obs=y)

    logits = -(y.unsqueeze(-1) - means).square().sum(1) / 2
    trees = ppl_vae.to_arviz(model, lambda y: None, {"y": y}, draws=2000, particles=2000)
    drawn = torch.as_tensor(trees["posterior"]["c"].values).flatten(0, 1)
    assert drawn.shape[1:] == (2,)
    found = torch.stack([(drawn == k).double().mean(0) for k in range(3)], -1)
    assert torch.allclose(found, logits.softmax(-1), atol=0.03)
