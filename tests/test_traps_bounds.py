"""TRAPS.md 1 to 10: what others report as a bound and is none. One test per line, in its order."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, t
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO
from torch import nn

import ppl_vae
from ppl_vae import UserError, log_weights
from ppl_vae.bounds import CIWAE, CUBO, ELBO, IWAE, MIWAE, PIWAE, TVO, Renyi
from ppl_vae.checks.analysis import analyse
from ppl_vae.data import Field, load
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import Bernoulli, Normal
from ppl_vae.models import VAE
from ppl_vae.programs.program import Pair

PYRO_HAS_THE_TRAP = pyro.__version__ in ("1.9.1", "1.9.2")  # the versions in which it was measured


def mean_and_error(values):
    values = torch.as_tensor(values, dtype=F64)
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def standing_still(parameters):
    """An optimizer that leaves the weights where they are, so that every step sees the same pair."""
    return torch.optim.SGD(parameters, lr=0.0)


def fit_still(model, guide, data, bound=None, **settings):
    return ppl_vae.fit(model, guide, data, bound, optimizer=standing_still, **settings)


def normals(rows, scale, seed=0):
    return scale * torch.randn(rows, dtype=F64, generator=torch.Generator().manual_seed(seed))


# z ~ N(0, 1), x ~ N(z, 1): log p(x) = log N(x; 0, 2), posterior N(x / 2, 1 / 2)


def model(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def evidence(x):
    return dist.Normal(t(0.0), math.sqrt(2.0)).log_prob(x)


LOC, SCALE = 0.4, 0.8


def kl_to_prior(x):
    """KL(N(LOC x, SCALE^2) || N(0, 1))."""
    return 0.5 * (SCALE**2 + (LOC * x) ** 2 - 1) - math.log(SCALE)


def expected_log_likelihood(x):
    return -0.5 * math.log(2 * math.pi) - 0.5 * ((x * (1 - LOC)) ** 2 + SCALE**2)


class Guide(nn.Module):
    """q(z | x) = N(loc x, scale^2)."""

    def __init__(self, loc=LOC, scale=SCALE):
        super().__init__()
        self.loc = nn.Parameter(t(loc))
        self.log_scale = nn.Parameter(t(math.log(scale)))

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc * x, self.log_scale.exp()))


def exact():
    return Guide(0.5, math.sqrt(0.5))


# -- 1 -----------------------------------------------------------------------------------------------------


def subsampled(rows, size):
    def subsampled_model(x):
        with pyro.plate("data", rows, subsample_size=size) as index:
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def subsampled_guide(x):
        with pyro.plate("data", rows, subsample_size=size) as index:
            pyro.sample("z", dist.Normal(LOC * x[index], SCALE))

    return subsampled_model, subsampled_guide


def test_iwae_stays_below_the_evidence_when_rows_are_subsampled_by_plate_or_by_fit():
    """1. Pyro's RenyiELBO(alpha=0) multiplies N/B inside the logsumexp and rises above log p(X)."""
    rows, particles = 1000, 100
    x = normals(rows, math.sqrt(2.0))
    truth = float(evidence(x).sum())
    with torch.no_grad():
        whole = [-IWAE(particles).loss(model, Guide(), x) for _ in range(20)]
    full, full_error = mean_and_error(whole)
    assert full <= truth + 4 * full_error
    assert full > truth - 5  # K = 100 draws from this guide lose far less than one nat in 200
    for size, seeds in ((1000, 20), (100, 400), (10, 800)):
        programs = subsampled(rows, size)
        bound = IWAE(particles)
        by_plate = mean_and_error([-bound.loss(*programs, x) for _ in range(seeds)])
        epochs = fit_still(model, Guide(), x, bound, batch_size=size, epochs=8 if size > 10 else 4).history
        by_fit = mean_and_error([rows * record["train"] for record in epochs])
        for value, error in (by_plate, by_fit):
            assert abs(value - full) <= 4 * math.hypot(error, full_error)
            assert value <= truth + 4 * error
    if PYRO_HAS_THE_TRAP:
        renyi = RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
        value, error = mean_and_error([-renyi.loss(*subsampled(rows, 10), x) for _ in range(100)])
        assert value > truth + 10 * error
        assert abs(by_plate[0] - truth) < 0.2 * abs(value - truth)


# -- 2 -----------------------------------------------------------------------------------------------------


def test_statements_in_no_plate_are_refused_before_one_weight_stands_for_all_rows():
    """2. Without a plate or `to_event` the ELBO is right, and IWAE silently exceeds the evidence."""
    x = normals(50, math.sqrt(2.0))

    def no_plate(x=None):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def no_plate_guide(x=None):
        pyro.sample("z", dist.Normal(LOC * x, SCALE))

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
    mended, error = mean_and_error([-IWAE(1000).loss(model, Guide(), x) for _ in range(20)])
    assert mended <= float(evidence(x).sum()) + 4 * error


# -- 3 -----------------------------------------------------------------------------------------------------

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
    """3. RenyiELBO with a model-enumerated discrete latent is off by thousands of nats."""
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


# -- 4 -----------------------------------------------------------------------------------------------------


def test_a_kl_weight_on_one_side_is_refused_and_fit_weighs_both_sides():
    """4. beta on the model's KL but not on the guide's is silently something else (or ignored)."""
    x = normals(200, math.sqrt(2.0))
    beta = 4.0

    def scaled_model(x=None):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    scaled_guide = poutine.scale(Guide(), scale=beta)
    for programs in ((scaled_model, Guide()), (model, scaled_guide)):
        finding = next(f for f in ppl_vae.check(*programs, x) if f.severity == "error")
        assert finding.site == "z"
        assert "scaled by" in finding.problem
        assert "fit(beta=" in finding.remedy
        with pytest.raises(UserError, match="site 'z' is scaled by"):
            ppl_vae.fit(*programs, x, epochs=1)

    kl, likelihood = float(kl_to_prior(x).mean()), float(expected_log_likelihood(x).mean())
    for bound in (ELBO(20), ELBO(20, analytic_kl=True)):
        history = fit_still(model, Guide(), x, bound, beta=beta, epochs=20, batch_size=64).history
        for key, expected in (
            ("objective", likelihood - beta * kl),
            ("train", likelihood - kl),
            ("rate", kl),
            ("distortion", -likelihood),
        ):
            value, error = mean_and_error([record[key] for record in history])
            assert abs(value - expected) <= 4 * error + 1e-9, key
        for record in history:
            assert record["objective"] == pytest.approx(-record["distortion"] - beta * record["rate"], abs=1e-9)


# -- 5 -----------------------------------------------------------------------------------------------------


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
    """5. sum(softmax(w) w) has IWAE's gradient and lies above the bound by log K - H."""
    bound, definition = GRADIENT_BOUNDS[name]
    x = normals(200, math.sqrt(2.0))
    truth = float(evidence(x).mean())
    pair = Pair(model, Guide(0.0, 1.0))  # the prior: weights differ widely
    structure = analyse(pair, {"x": x})
    with torch.no_grad():
        weights = bound.weigh(pair, structure, {"x": x})
    value = definition(weights.log_weight)
    torch.testing.assert_close(bound.reduce(weights), value, atol=1e-9, rtol=0)
    torch.testing.assert_close(bound.surrogate(weights), value, atol=1e-9, rtol=0)
    peers = (weights.log_weight.softmax(0) * weights.log_weight).sum(0)
    assert float(peers.mean()) > truth  # what must not be reported is told apart from what must
    history = fit_still(model, Guide(0.0, 1.0), x, bound, epochs=10, batch_size=50).history
    for key in ("train", "objective"):
        mean, error = mean_and_error([record[key] for record in history])
        assert mean <= truth + 4 * error, key


# -- 6 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("particles", [1, 7, 100, 1001])
def test_evaluate_draws_exactly_the_particles_asked_for(particles):
    """6. pythae draws `batch_size` particles whenever fewer are asked for, and rounds down otherwise."""
    x = normals(6, math.sqrt(2.0))
    for at_once in (2**24, 700):  # 700 numbers at once: many chunks, the last one short
        found = ppl_vae.evaluate(model, exact(), x, particles=particles, floats_at_once=at_once)
        # at the exact posterior all weights are equal, so that ess counts the draws, and their mean is exact
        torch.testing.assert_close(found.ess, torch.full((6,), float(particles), dtype=F64), rtol=1e-9, atol=0)
        torch.testing.assert_close(found.elbo, evidence(x), atol=1e-9, rtol=0)
        torch.testing.assert_close(found.log_evidence, evidence(x), atol=1e-9, rtol=0)
        assert found.particles == found.summary()["particles"] == particles


def test_evaluate_says_its_monte_carlo_error():
    """6. And without a standard error nobody can see that."""
    rows = 2000
    x = torch.full((rows,), 1.3, dtype=F64)  # independent replicates of one row
    found = ppl_vae.evaluate(model, Guide(), x, particles=200)
    spread = float(found.log_evidence.std())
    said = float(found.log_evidence_se.square().mean().sqrt())
    assert abs(spread / said - 1) <= 4 / math.sqrt(2 * rows)
    assert abs(float(found.log_evidence.mean()) - float(evidence(x[:1]))) <= 4 * spread / math.sqrt(rows)
    assert found.summary()["nll_mc_se"] == pytest.approx(said / math.sqrt(rows))


# -- 7: learned priors, see the end of test_traps_programs.py

# -- 8 -----------------------------------------------------------------------------------------------------


def test_grey_levels_under_a_bernoulli_are_refused():
    """8. The cross-entropy of grey levels is reported as a log-likelihood."""
    grey = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r"field 'x' is unit, which Bernoulli is no distribution over: use"):
        Bernoulli().build(Field("x", "unit", (4,)))
    with pytest.raises(UserError, match="Bernoulli is no distribution over"):
        VAE(load(grey), likelihood=Bernoulli(), latent_dim=2)

    def grey_model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z).to_event(1), obs=x)

    def grey_guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    with pytest.raises(UserError, match=r"field 'x'.*outside the support of Bernoulli.*Normal"):
        ppl_vae.fit(grey_model, grey_guide, grey, epochs=1)


def test_the_normaliser_of_a_normal_counts_in_training_and_in_evaluation():
    """8. Squared error as a log-likelihood: the normaliser dropped in training and added in evaluation."""
    x = 3.0 * torch.randn(80, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) + 1.0
    data = load(x, test=20, validation=20)
    vae = VAE(data, likelihood=Normal(scale=0.3), latent_dim=2).double()
    with torch.no_grad():  # cut the decoder off from z: log p(x | z) is one known density
        vae.decoder.last.weight.zero_()
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


# -- 9 -----------------------------------------------------------------------------------------------------

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
    """9. Minibatches made by hand leave N/B out: wrong as soon as there is a global latent."""
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
        shared_mean, guide, x, bound, epochs=60, batch_size=50, optimizer=lambda ps: Watching(ps, lr=0.0)
    ).history
    assert steps == 600
    values = {"value": [record["train"] for record in history], **seen}
    for name, draws in values.items():
        mean, error = mean_and_error(draws)
        assert abs(mean - float(expected[name])) <= 4 * error, name
    # without N/B the pull of the rows on the scale would be a tenth: the test can tell
    wrong = (-(50 + 1 / TAU**2) * scale**2 + 1) / rows
    assert abs(wrong - float(expected["log_scale"])) > 6 * mean_and_error(seen["log_scale"])[1]


def test_weights_per_row_are_refused_where_a_latent_is_shared_by_all_rows():
    """9. IWAE and its relatives are no bounds there; they say why and what to do."""
    x = normals(20, 1.0)
    for bound in (IWAE(4), Renyi(0.5, 4), MIWAE(2, 2), PIWAE(2, 2), CIWAE(0.5, 4), TVO(3, 4), CUBO(2.0, 4)):
        with pytest.raises(UserError, match=r"mu is outside the data plate and shared by all rows: use ELBO"):
            ppl_vae.fit(shared_mean, SharedGuide(0.0, 1.0), x, bound, epochs=1)


# -- 10 ----------------------------------------------------------------------------------------------------


def gradients(bound, guide, x, seeds):
    """Gradient of the bound with respect to the guide's two parameters, [seed, 2]."""
    found = []
    for _ in range(seeds):
        loss = bound.differentiable_loss(model, guide, x)
        found.append(torch.stack(torch.autograd.grad(-loss, [guide.loc, guide.log_scale])))
    return torch.stack(found)


def test_stl_has_no_gradient_noise_at_the_posterior_and_the_plain_estimator_has():
    """10. A single particle's reparameterised gradient is called STL; at q = p it is noise."""
    x = t([1.3])
    plain = gradients(ELBO(), exact(), x, 200)
    assert (plain.std(0) > 0.5).all()
    for bound in (ELBO(estimator="stl"), ELBO(5, estimator="stl"), IWAE(5, estimator="dreg")):
        assert gradients(bound, exact(), x, 20).abs().max() < 1e-12
    # and it is a gradient: away from q = p its mean is that of the ELBO in closed form
    truth = torch.stack([x[0] ** 2 * (1 - LOC) - LOC * x[0] ** 2, t(1 - 2 * SCALE**2)])
    stl = gradients(ELBO(10, estimator="stl"), Guide(), x, 200)
    assert ((stl.mean(0) - truth).abs() <= 4 * stl.std(0) / math.sqrt(len(stl))).all()
    assert (truth.abs() > 10 * stl.std(0) / math.sqrt(len(stl))).all()
