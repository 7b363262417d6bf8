"""Properties of every generated guide over programs with latents of every kind."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import GUIDES, PROGRAMS, label_and_style
from pyro import poutine

import ppl_vae
from ppl_vae import UserError, log_weights
from ppl_vae.analysis import analyse
from ppl_vae.bounds import ELBO
from ppl_vae.program import Pair
from ppl_vae.structure import sample_sites

by_guide = pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
by_program = pytest.mark.parametrize("model", PROGRAMS.values(), ids=PROGRAMS)


def rows(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(1))


def posterior_sites(guide, x):
    trace = poutine.trace(guide).get_trace(x=x)
    return {n: s for n, s in sample_sites(trace).items() if not s["is_observed"]}


@by_guide
@by_program
def test_draws_are_in_the_support_and_the_pair_is_clean(guide, model):
    x = rows()
    made = guide(model, x, hidden=(8,))
    assert ppl_vae.check(model, made, x) == []
    truth = sample_sites(poutine.trace(poutine.replay(model, poutine.trace(made).get_trace(x=x))).get_trace(x=x))
    for name, site in posterior_sites(made, x).items():
        assert truth[name]["fn"].support.check(site["value"]).all()
        assert torch.isfinite(site["fn"].log_prob(site["value"])).all()


@by_guide
@by_program
def test_every_parameter_learns_and_depends_on_the_row(guide, model):
    x = rows()
    made = guide(model, x, hidden=(8,))
    pair = Pair(model, made)
    structure = analyse(pair, {"x": x})
    bound = ELBO(4)
    bound.surrogate(bound.weigh(pair, structure, {"x": x})).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    for name, site in posterior_sites(made, x).items():
        if name not in structure.global_latents:
            log_q = site["fn"].log_prob(site["value"][:1].expand_as(site["value"]))
            assert log_q.reshape(len(x), -1).std(0).max() > 1e-6, f"q({name} | x) is the same for every row"


@by_guide
@by_program
def test_a_row_has_the_same_posterior_in_every_batch(guide, model):
    x = rows()
    made = guide(model, x, hidden=(8,))
    pair = Pair(model, made)
    structure = analyse(pair, {"x": x})
    values = {n: s["value"] for n, s in posterior_sites(made, x).items()}

    def log_q(index):
        kept = {n: v if n in structure.global_latents else v[index] for n, v in values.items()}
        trace = poutine.trace(poutine.condition(made, kept)).get_trace(x=x[index])
        sites = sample_sites(trace)
        return {n: sites[n]["fn"].log_prob(sites[n]["value"]) for n in values if n not in structure.global_latents}

    whole, part = log_q(slice(None)), log_q(slice(2, 3))
    for name, value in part.items():
        torch.testing.assert_close(value, whole[name][2:3], atol=1e-4, rtol=1e-4)


@by_guide
def test_a_short_last_batch_trains(guide):
    model, x = PROGRAMS["vector"], rows(7)
    result = ppl_vae.fit(model, guide(model, x, hidden=(8,)), x, batch_size=3, epochs=2)
    assert len(result.history) == 2


@by_guide
def test_labels_in_some_rows_train_one_guide(guide):
    x, y = rows(8), torch.tensor([0, -1, 2, 3, -1, -1, 1, -1])
    data = ppl_vae.load({"x": x.numpy(), "y": y.numpy()}, missing="allow", test=0, validation=0)
    made = guide(label_and_style, data, hidden=(8,))
    assert {site.name for site in made.sites} == {"y", "z"}
    result = ppl_vae.fit(label_and_style, made, data, epochs=3, batch_size=4)
    assert math.isfinite(result.history[-1]["train"])
    known = log_weights(label_and_style, made, {"x": x, "y": y}, particles=20)
    assert torch.isfinite(known.log_weight).all()


@by_guide
def test_missing_entries_reach_the_encoder_as_a_mask(guide):
    x = rows(20)
    x[::3, 1] = torch.nan
    data = ppl_vae.load(x, missing="allow", test=0, validation=0)
    model = PROGRAMS["vector"]
    made = guide(model, data, hidden=(8,))
    assert made.encoder.inputs["x"].size == 6
    result = ppl_vae.fit(model, made, data, epochs=3, batch_size=5)
    assert all(math.isfinite(r["train"]) for r in result.history)
    assert all(torch.isfinite(p).all() for p in made.parameters())


@by_guide
def test_the_posterior_of_a_hierarchy_can_be_learned(guide):
    """x ~ N(b, 1), b ~ N(a, 1), a ~ N(0, 1): the gap to the exact evidence closes, dependence included."""

    def model(x=None):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    x = 3**0.5 * torch.randn(400)
    made = guide(model, x, hidden=(32,))
    ppl_vae.fit(model, made, x, epochs=150, batch_size=100, lr=5e-3)
    elbo = ppl_vae.evaluate(model, made, x, particles=100).elbo.mean()
    assert abs(elbo - dist.Normal(0.0, 3**0.5).log_prob(x).mean()) < 0.02


@by_guide
def test_what_cannot_be_represented_is_refused_by_name(guide):
    def endless(x=None):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Poisson(2.0))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def inner(x=None):
        with pyro.plate("data", len(x)), pyro.plate("inner", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    with pytest.raises(UserError, match=r"'c' is Poisson.*by hand"):
        guide(endless, torch.zeros(4))
    with pytest.raises(UserError, match=r"'z' is in several plates"):
        guide(inner, rows())
    with pytest.raises(UserError, match="has not seen data"):
        guide(endless)(x=torch.zeros(4))
