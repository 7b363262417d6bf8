"""What others report as a bound and is none: ours stays one, or the pair is refused."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, SLOPE, WIDTH, NormalGuide, normal_evidence, normal_model, t
from helpers import fit_still, mean_and_error, normals
from pyro.infer import RenyiELBO, Trace_ELBO
from torch import nn

import ppl_vae
from ppl_vae import UserError, log_weights
from ppl_vae.bounds import CIWAE, CUBO, ELBO, IWAE, MIWAE, PIWAE, TVO, Renyi
from ppl_vae.checks.analysis import analyse
from ppl_vae.data import load
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import Normal
from ppl_vae.models import VAE
from ppl_vae.programs.program import Pair

PYRO_MULTIPLIES_INSIDE = pyro.__version__ in ("1.9.1", "1.9.2")  # measured in these versions


def subsampled(rows, size):
    def subsampled_model(x):
        with pyro.plate("data", rows, subsample_size=size) as index:
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def subsampled_guide(x):
        with pyro.plate("data", rows, subsample_size=size) as index:
            pyro.sample("z", dist.Normal(SLOPE * x[index], WIDTH))

    return subsampled_model, subsampled_guide


def test_iwae_stays_below_the_evidence_when_rows_are_subsampled_by_plate_or_by_fit():
    """Pyro's RenyiELBO(alpha=0) multiplies N/B inside the logsumexp and rises above log p(X)."""
    rows, particles = 1000, 100
    x = normals(rows, math.sqrt(2.0))
    truth = float(normal_evidence(x).sum())
    with torch.no_grad():
        whole = [-IWAE(particles).loss(normal_model, NormalGuide(), x) for _ in range(10)]
    full, full_error = mean_and_error(whole)
    assert full <= truth + 4 * full_error
    assert full > truth - 5  # K = 100 draws from this guide lose far less than one nat in 200
    for size, seeds in ((1000, 10), (100, 100), (10, 200)):
        programs = subsampled(rows, size)
        bound = IWAE(particles)
        by_plate = mean_and_error([-bound.loss(*programs, x) for _ in range(seeds)])
        epochs = fit_still(normal_model, NormalGuide(), x, bound, batch_size=size, epochs=8 if size > 10 else 4).history
        by_fit = mean_and_error([rows * record["train"] for record in epochs])
        for value, error in (by_plate, by_fit):
            assert abs(value - full) <= 4 * math.hypot(error, full_error)
            assert value <= truth + 4 * error
    if PYRO_MULTIPLIES_INSIDE:
        renyi = RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
        value, error = mean_and_error([-renyi.loss(*subsampled(rows, 10), x) for _ in range(200)])
        assert value > truth + 10 * error
        assert abs(by_plate[0] - truth) < 0.2 * abs(value - truth)


def test_statements_in_no_plate_are_refused_before_one_weight_stands_for_all_rows():
    """Without a plate or `to_event` the ELBO is right, and IWAE silently exceeds the evidence."""
    x = normals(50, math.sqrt(2.0))

    def no_plate(x=None):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def no_plate_guide(x=None):
        pyro.sample("z", dist.Normal(SLOPE * x, WIDTH))

    def latent_outside(x=None):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    for programs, site in (((no_plate, no_plate_guide), "x"), ((latent_outside, no_plate_guide), "z")):
        findings = ppl_vae.check(*programs, x)
        assert any(f.site == site and f.severity == "error" and "plate" in f.remedy for f in findings)
        for refused in (
            lambda p=programs: ppl_vae.fit(*p, x, IWAE(8), epochs=1),
            lambda p=programs: IWAE(8).loss(*p, x),
            lambda p=programs: log_weights(*p, x, 8),
            lambda p=programs: ppl_vae.evaluate(*p, x, 8),
        ):
            with pytest.raises(UserError, match=rf"site '{site}'.*plate"):
                refused()
    mended, error = mean_and_error([-IWAE(1000).loss(normal_model, NormalGuide(), x) for _ in range(20)])
    assert mended <= float(normal_evidence(x).sum()) + 4 * error


WEIGHTS, CENTRES = t([0.2, 0.3, 0.5]), t([-1.0, 0.4, 2.0])


def mixture(x=None):
    """A label in the model alone, beside a continuous latent of both programs."""
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(WEIGHTS))
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        pyro.sample("x", dist.Normal(z + CENTRES[k], 1.0), obs=x)


def mixture_posterior(x=None):
    """The posterior of z with the label summed out: a mixture itself."""
    share = WEIGHTS.log() + dist.Normal(CENTRES, math.sqrt(2.0)).log_prob(x[..., None])
    parts = dist.Normal((x[..., None] - CENTRES) / 2, t(math.sqrt(0.5)))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=share), parts))


def test_a_label_enumerated_in_the_model_is_summed_inside_the_weight_of_every_bound():
    """RenyiELBO with a model-enumerated discrete latent is off by thousands of nats."""
    x = t([-0.6, 0.1, 1.9, 0.9, 3.0])
    log_p = (WEIGHTS.log() + dist.Normal(CENTRES, math.sqrt(2.0)).log_prob(x[:, None])).logsumexp(-1)
    pair = Pair(mixture, mixture_posterior)
    structure = analyse(pair, {"x": x})
    assert structure.summed_model == {"k"}
    bounds = (
        IWAE(7),
        Renyi(0.0, 7),
        Renyi(0.5, 7),
        Renyi(2.0, 7),
        MIWAE(2, 4),
        CIWAE(0.5, 7),
        TVO(4, 7),
        CUBO(2.0, 7),
    )
    for bound in bounds:
        torch.testing.assert_close(bound.reduce(bound.weigh(pair, structure, {"x": x})), log_p, atol=1e-9, rtol=0)
        assert -bound.loss(mixture, mixture_posterior, x) == pytest.approx(float(log_p.sum()), abs=1e-8)
    found = ppl_vae.evaluate(mixture, mixture_posterior, x, particles=5)
    torch.testing.assert_close(found.log_evidence, log_p, atol=1e-9, rtol=0)


def log_mean_exp(log_w):
    return log_w.logsumexp(0) - math.log(len(log_w))


GRADIENT_BOUNDS = {
    "IWAE": (IWAE(16), log_mean_exp),
    "IWAE, dreg": (IWAE(16, estimator="dreg"), log_mean_exp),
    "PIWAE": (PIWAE(4, 4), log_mean_exp),
    "MIWAE": (MIWAE(4, 4), lambda w: torch.stack([log_mean_exp(g) for g in w.chunk(4)]).mean(0)),
    "ELBO, stl": (ELBO(16, estimator="stl"), lambda w: w.mean(0)),
}


@pytest.mark.parametrize("name", GRADIENT_BOUNDS)
def test_what_is_reported_is_the_bound_and_not_its_gradient_surrogate(name):
    """sum(softmax(w) w) has IWAE's gradient and lies above the bound by log K - H."""
    bound, definition = GRADIENT_BOUNDS[name]
    x = normals(200, math.sqrt(2.0))
    truth = float(normal_evidence(x).mean())
    pair = Pair(normal_model, NormalGuide(0.0, 1.0))  # the prior: weights differ widely
    structure = analyse(pair, {"x": x})
    with torch.no_grad():
        weights = bound.weigh(pair, structure, {"x": x})
    value = definition(weights.log_weight)
    torch.testing.assert_close(bound.reduce(weights), value, atol=1e-9, rtol=0)
    torch.testing.assert_close(bound.surrogate(weights), value, atol=1e-9, rtol=0)
    peers = (weights.log_weight.softmax(0) * weights.log_weight).sum(0)
    assert float(peers.mean()) > truth  # what must not be reported is told apart from what must
    history = fit_still(normal_model, NormalGuide(0.0, 1.0), x, bound, epochs=10, batch_size=50).history
    for key in ("train", "objective"):
        mean, error = mean_and_error([record[key] for record in history])
        assert mean <= truth + 4 * error, key


def test_the_normaliser_of_a_normal_counts_in_training_and_in_evaluation():
    """Squared error as a log-likelihood: the normaliser dropped in training and added in evaluation."""
    x = 3.0 * torch.randn(80, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) + 1.0
    data = load(x, test=20, validation=20)
    vae = VAE(data, likelihood=Normal(scale=0.3), latent_dim=2).double()
    with torch.no_grad():  # cut the decoder off from z: log p(x | z) is one known density
        vae.decoder.last.weight.zero_()
        vae.decoder.beside.weight.zero_()
    centre = (vae.likelihood.shift + vae.likelihood.unit * vae.decoder.last.bias).detach()

    def density(rows):
        quadratic = ((rows - centre) / 0.3).square().sum(-1)
        return -0.5 * quadratic - 2 * math.log(0.3) - math.log(2 * math.pi)

    guide = MeanField(vae).double()
    record = fit_still(vae, guide, data, epochs=1).history[-1]
    assert -record["distortion"] == pytest.approx(float(density(data.train["x"]).mean()), rel=1e-9)
    assert record["train"] == pytest.approx(-record["distortion"] - record["rate"], rel=1e-9)
    found = ppl_vae.evaluate(vae, guide, data, particles=3)
    torch.testing.assert_close(-found.distortion, density(data.test["x"]), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.elbo, density(data.test["x"]) - found.rate, rtol=1e-9, atol=0)


TAU = 2.0


def shared_mean(x=None):
    """mu ~ N(0, TAU^2), one for all rows; x ~ N(mu, 1)."""
    mu = pyro.sample("mu", dist.Normal(t(0.0), TAU))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


class SharedGuide(nn.Module):
    def __init__(self, loc, scale):
        super().__init__()
        self.loc = nn.Parameter(t(loc))
        self.log_scale = nn.Parameter(t(math.log(scale)))

    def forward(self, x=None):
        pyro.sample("mu", dist.Normal(self.loc, self.log_scale.exp()))


@pytest.mark.parametrize("bound", [ELBO(), Trace_ELBO()], ids=["ours", "Pyro's"])
def test_minibatches_weigh_rows_by_n_over_b_against_global_latents(bound):
    """Minibatches made by hand leave N/B out: wrong as soon as there is a global latent."""
    rows, loc, scale = 500, 0.3, 0.2
    x = 0.5 + normals(rows, 1.0)
    squares = (x - loc).square() + scale**2
    kl = 0.5 * ((scale**2 + loc**2) / TAU**2 - 1) - math.log(scale / TAU)
    expected = {
        "value": (-0.5 * math.log(2 * math.pi) - 0.5 * squares).mean() - kl / rows,
        "loc": ((x - loc).sum() - loc / TAU**2) / rows,
        "log_scale": (-(rows + 1 / TAU**2) * scale**2 + 1) / rows,
    }
    guide = SharedGuide(loc, scale)
    seen = {"loc": [], "log_scale": []}
    steps = 0
    per_row = 1.0 if isinstance(bound, ELBO) else rows  # Pyro's loss is that of all rows

    class Watching(torch.optim.SGD):
        def step(self, closure=None):
            nonlocal steps
            steps += 1
            for name, kept in seen.items():
                gradient = getattr(guide, name).grad
                assert gradient is not None, f"a step without a gradient for {name}"
                kept.append(float(gradient) / -per_row)

    history = ppl_vae.fit(
        shared_mean, guide, x, bound, epochs=25, batch_size=50, optimizer=lambda ps: Watching(ps, lr=0.0)
    ).history
    assert steps == 250
    values = {"value": [record["train"] for record in history], **seen}
    for name, draws in values.items():
        mean, error = mean_and_error(draws)
        assert abs(mean - float(expected[name])) <= 4 * error, name
    # without N/B the pull of the rows on the scale would be a tenth: the test can tell
    wrong = (-(50 + 1 / TAU**2) * scale**2 + 1) / rows
    assert abs(wrong - float(expected["log_scale"])) > 6 * mean_and_error(seen["log_scale"])[1]


def test_weights_per_row_are_refused_where_a_latent_is_shared_by_all_rows():
    """IWAE and its relatives are no bounds there; they say why and what to do."""
    x = normals(20, 1.0)
    for bound in (IWAE(4), Renyi(0.5, 4), MIWAE(2, 2), PIWAE(2, 2), CIWAE(0.5, 4), TVO(3, 4), CUBO(2.0, 4)):
        with pytest.raises(UserError, match=r"mu is outside the data plate and shared by all rows: use ELBO"):
            ppl_vae.fit(shared_mean, SharedGuide(0.0, 1.0), x, bound, epochs=1)
