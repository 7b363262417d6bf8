"""A VAE of plain torch as a pair: the numbers are those by hand, whatever its networks give, and misuse is one line."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_vae
from ppl_vae.checks.analysis import analyse
from ppl_vae.errors import UserError
from ppl_vae.programs.execution import run
from ppl_vae.programs.program import Pair
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.reduction import reduced

X = (torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).double()


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 6)).double()
    decoder = nn.Sequential(
        nn.Linear(3, 8), nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 1, 2, stride=2), nn.Sigmoid()
    ).double()
    return encoder, decoder


def log_weights(encoder, decoder, likelihood, z):
    mean, log_variance = encoder(X).chunk(2, dim=1)
    q = dist.Normal(mean, (log_variance / 2).exp()).to_event(1)
    p = dist.Normal(torch.zeros(3, dtype=X.dtype), 1.0).to_event(1)
    return torch.stack([likelihood(decoder(v)).to_event(3).log_prob(X) + p.log_prob(v) - q.log_prob(v) for v in z])


LIKELIHOODS = {
    "bernoulli": lambda out: dist.Bernoulli(probs=out),
    "bernoulli_logits": lambda out: dist.Bernoulli(logits=out),
    "normal": lambda out: dist.Normal(out, 1.0),
}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_log_weights_are_those_by_hand(networks, likelihood):
    encoder, decoder = networks
    pair = ppl_vae.wrap(encoder, decoder, likelihood)
    both = Pair(*pair)
    torch.manual_seed(1)
    drawn = run(both, analyse(both, {"x": X}), {"x": X}, 5)
    z = drawn.guide.nodes["z"]["value"].detach()
    by_hand = log_weights(encoder, decoder, LIKELIHOODS[likelihood], z)
    parts = reduced(Factors(drawn))
    assert torch.allclose(parts.log_likelihood + parts.log_prior - parts.log_guide, by_hand, atol=1e-10)


def test_evidence_and_elbo_agree_with_torch_alone(networks):
    encoder, decoder = networks
    found = ppl_vae.evaluate(*ppl_vae.wrap(encoder, decoder, "bernoulli"), X, particles=4000)
    torch.manual_seed(9)
    mean, log_variance = encoder(X).chunk(2, dim=1)
    z = dist.Normal(mean, (log_variance / 2).exp()).sample((4000,))
    with torch.no_grad():
        log_w = log_weights(encoder, decoder, LIKELIHOODS["bernoulli"], z)
    other = log_w.logsumexp(0) - math.log(4000)
    error = 2**0.5 * found.log_evidence_se
    assert ((found.log_evidence - other).abs() < 5 * error + 1e-6).all()
    assert ((found.elbo - log_w.mean(0)).abs() < 5 * (2 * log_w.var(0) / 4000).sqrt()).all()


def test_encoders_may_give_pairs_tensors_or_objects(networks):
    encoder, decoder = networks
    ways = [
        encoder,
        lambda x: tuple(encoder(x).chunk(2, 1)),
        lambda x: SimpleNamespace(embedding=encoder(x)[:, :3], log_covariance=encoder(x)[:, 3:]),
        lambda x: {"mu": encoder(x)[:, :3], "log_var": encoder(x)[:, 3:]},
        lambda x: dist.Normal(encoder(x)[:, :3], (encoder(x)[:, 3:] / 2).exp()),
    ]
    values = [ppl_vae.evaluate(*ppl_vae.wrap(way, decoder, "bernoulli"), X, particles=50).elbo for way in ways]
    for value in values[1:]:
        assert torch.equal(value, values[0])
    scale = ppl_vae.wrap(
        lambda x: (encoder(x)[:, :3], (encoder(x)[:, 3:] / 2).exp()), decoder, "bernoulli", spread="scale"
    )
    assert torch.allclose(ppl_vae.evaluate(*scale, X, particles=50).elbo, values[0])


def test_functions_bring_the_parameters_of_their_modules(networks):
    encoder, decoder = networks
    model, guide = ppl_vae.wrap(lambda x: encoder(x), lambda z: decoder(z), "bernoulli")
    assert set(guide.parameters()) == set(encoder.parameters())
    assert set(model.parameters()) == set(decoder.parameters())
    assert not ppl_vae.check(model, guide, X)


def test_a_wrapped_pair_trains_on(networks):
    import copy

    model, guide = ppl_vae.wrap(*copy.deepcopy(networks), "bernoulli")
    before = float(ppl_vae.evaluate(model, guide, X, particles=200).elbo.mean())
    ppl_vae.fit(model, guide, X, epochs=100, lr=0.01)
    assert float(ppl_vae.evaluate(model, guide, X, particles=200).elbo.mean()) > before + 0.5


def test_running_means_of_a_network_do_not_see_how_many_latents_there_are():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 6)).double()
    _, guide = ppl_vae.wrap(encoder, lambda z: torch.zeros(len(z), 1, 4, 4, dtype=X.dtype), "bernoulli_logits")
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    assert guide.size(X) == 3
    assert encoder[1].training
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())


def test_missing_entries_that_networks_cannot_read_are_refused(networks):
    x = X.clone()
    x[0, 0, 0, 0] = torch.nan
    pair = ppl_vae.wrap(*networks, "bernoulli")
    with pytest.raises(UserError, match="row 0 has no weights"):
        ppl_vae.evaluate(*pair, x, particles=3)
    with pytest.raises(UserError, match="row 0 has no weights"):
        ppl_vae.certify(*pair, x, validate=0)


def test_a_run_folder_has_the_weights_and_asks_for_the_networks(tmp_path):
    def made():
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 6))
        return ppl_vae.wrap(encoder, nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4))), "bernoulli_logits")

    x = X.float()
    pair = made()
    ppl_vae.fit(*pair, x, epochs=2).save(tmp_path / "run")
    with pytest.raises(UserError, match=r"model of this run is your own .*pass it again"):
        ppl_vae.open_run(tmp_path / "run")
    run = ppl_vae.open_run(tmp_path / "run", *made())
    again = ppl_vae.evaluate(run.model, run.guide, x, particles=20)
    assert torch.equal(again.elbo, ppl_vae.evaluate(*pair, x, particles=20).elbo)


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("likelihood 'poisson'", lambda e, d: ppl_vae.wrap(e, d, "poisson")),
        ("spread", lambda e, d: ppl_vae.wrap(e, d, spread="sd")),
        ("encoder must be", lambda e, d: ppl_vae.wrap(3, d)),
        ("prior must be", lambda e, d: ppl_vae.wrap(e, d, prior=dist.Normal(0.0, 1.0))),
        ("scale must be", lambda e, d: ppl_vae.wrap(e, d, scale=0)),
        ("no probabilities", lambda e, d: ppl_vae.wrap(e, lambda z: d(z) + 1, "bernoulli")),
        ("reshape its output", lambda e, d: ppl_vae.wrap(e, lambda z: d(z).flatten(1), "bernoulli")),
        ("expected a pair", lambda e, d: ppl_vae.wrap(lambda x: e(x).sum(1), d, "bernoulli")),
        ("must make a distribution", lambda e, d: ppl_vae.wrap(e, d, lambda out: out)),
    ],
)
def test_what_is_no_vae_is_refused(networks, words, make):
    with pytest.raises(UserError, match=words) as refused:
        ppl_vae.evaluate(*make(*networks), X, particles=3)
    assert "\n" not in str(refused.value)
