"""Gradients: against closed forms and exact sums, and between estimators of the same thing."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from cases import (
    COVARIANCE,
    F64,
    LOWER_BOUNDS,
    OFFSET,
    SIGMA,
    XC,
    XH,
    W,
    X,
    gaussian_elbo,
    posterior_mean,
    t,
)

import ppl_vae
from ppl_vae import UserError, log_weights
from ppl_vae.bounds import ELBO, IWAE, MIWAE, PIWAE
from ppl_vae.checks.analysis import analyse
from ppl_vae.programs.program import Pair

REPEATS = 4000


def per_row_gradients(bound, model, guide, x, parameters):
    """The gradient of each row's surrogate with respect to per-row copies of the parameters, [row, ...]."""
    rows = {n: p.expand(len(x), *p.shape).clone().requires_grad_() for n, p in parameters.items()}
    pair = Pair(lambda x=None: model(x, **rows), lambda x=None: guide(x, **rows))
    structure = analyse(pair, {"x": x})
    bound.refuse(structure)
    surrogate = bound.surrogate(bound.weigh(pair, structure, {"x": x}))
    gradients = torch.autograd.grad(surrogate.sum(), list(rows.values()))
    return dict(zip(rows, gradients, strict=True))


def gaussian_model(x, factor, **_):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        mean = (z.unsqueeze(-1) * W * factor.reshape(-1, 1, 1)).sum(-2) + OFFSET
        pyro.sample("x", dist.Normal(mean, SIGMA).to_event(1), obs=x)


def gaussian_guide(x, shift, log_scale, **_):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(posterior_mean(x) + shift, log_scale.exp()).to_event(1))


GAUSSIAN = {"factor": t(1.0), "shift": t([0.3, -0.2]), "log_scale": t([-0.5, -0.8])}


def close(sample, exact):
    mean, error = sample.mean(0), sample.std(0) / math.sqrt(len(sample)) + 1e-9
    assert ((mean - exact).abs() <= 4 * error).all(), (mean, exact, error)


@pytest.mark.parametrize("bound", [ELBO(2), ELBO(2, analytic_kl=True), ELBO(2, estimator="stl")], ids=str)
def test_elbo_gradient_is_that_of_its_closed_form(bound):
    x = X[:1].repeat(REPEATS, 1)
    found = per_row_gradients(bound, gaussian_model, gaussian_guide, x, GAUSSIAN)
    shift, log_scale = (
        GAUSSIAN["shift"].clone().requires_grad_(),
        GAUSSIAN["log_scale"].clone().requires_grad_(),
    )
    gaussian_elbo(X[:1], posterior_mean(X[:1]) + shift, log_scale.exp()).sum().backward()
    close(found["shift"], shift.grad)
    close(found["log_scale"], log_scale.grad)


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        (IWAE(5), IWAE(5, estimator="dreg")),
        (MIWAE(2, 3), MIWAE(2, 3, estimator="dreg")),
        (ELBO(3), ELBO(3, estimator="stl")),
    ],
    ids=str,
)
def test_estimators_of_one_bound_have_one_mean(plain, other):
    x = X[:1].repeat(5 * REPEATS, 1)
    first = per_row_gradients(plain, gaussian_model, gaussian_guide, x, GAUSSIAN)
    second = per_row_gradients(other, gaussian_model, gaussian_guide, x, GAUSSIAN)
    for name, a in first.items():
        b = second[name]
        error = ((a.var(0) + b.var(0)) / len(x)).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() <= 4 * error).all(), name


def test_piwae_trains_the_model_by_iwae_and_the_guide_by_miwae():
    x = X[:1].repeat(5 * REPEATS, 1)
    found = per_row_gradients(PIWAE(3, 2), gaussian_model, gaussian_guide, x, GAUSSIAN)
    model = per_row_gradients(IWAE(6), gaussian_model, gaussian_guide, x, GAUSSIAN)["factor"]
    guide = per_row_gradients(MIWAE(3, 2), gaussian_model, gaussian_guide, x, GAUSSIAN)
    for name, reference in (("factor", model), ("shift", guide["shift"]), ("log_scale", guide["log_scale"])):
        error = ((found[name].var(0) + reference.var(0)) / len(x)).sqrt()
        assert ((found[name].mean(0) - reference.mean(0)).abs() <= 4 * error).all(), name


def exact_guide(x, shift, **_):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(posterior_mean(x) + shift, COVARIANCE))


def two_step_model(x, factor, **_):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(t(0.0), 1.0))
        b = pyro.sample("b", dist.Normal(a, 1.0))
        pyro.sample("x", dist.Normal(factor * b, 1.0), obs=x)


def two_step_guide(x, shift, **_):
    """Exact at shift = 0: b | x, then a | b."""
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Normal(2 * x / 3 + shift, (2 / 3) ** 0.5))
        pyro.sample("a", dist.Normal(b / 2 + shift, 0.5**0.5))


@pytest.mark.parametrize("bound", [ELBO(4, estimator="stl"), IWAE(4, estimator="dreg")], ids=str)
@pytest.mark.parametrize(
    ("model", "guide", "x", "shift"),
    [(gaussian_model, exact_guide, X, t([0.0, 0.0])), (two_step_model, two_step_guide, XC, t(0.0))],
    ids=["one block", "a latent that depends on another"],
)
def test_no_gradient_noise_at_the_posterior(bound, model, guide, x, shift):
    parameters = {"factor": t(1.0), "shift": shift}
    found = per_row_gradients(bound, model, guide, x, parameters)["shift"]
    assert found.abs().max() < 1e-9
    plain = type(bound)(4)
    noisy = per_row_gradients(plain, model, guide, x.repeat(100, *([1] * (x.dim() - 1))), parameters)["shift"]
    assert noisy.std() > 1e-2


def test_dreg_of_dependent_latents_has_the_plain_mean():
    x, parameters = XC[:1].repeat(20 * REPEATS), {"factor": t(1.2), "shift": t(0.3)}
    first = per_row_gradients(IWAE(3), two_step_model, two_step_guide, x, parameters)
    second = per_row_gradients(IWAE(3, estimator="dreg"), two_step_model, two_step_guide, x, parameters)
    for name, a in first.items():
        b = second[name]
        error = ((a.var(0) + b.var(0)) / len(x)).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() <= 4 * error).all(), name


# -- latents without a reparameterised sampler: exact sums over the counts --------------------------------------


def count_model(x, log_rate, **_):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Poisson(log_rate.exp()))
        pyro.sample("x", dist.Normal(c, 1.0), obs=x)


def count_guide(x, slope, **_):
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Poisson((slope * x).exp()))


def exact_bound(k, x, log_rate, slope):
    """E of ELBO (k=1) or IWAE-2 (k=2) by summing over counts 0..24."""
    c = torch.arange(25, dtype=F64)
    log_q = dist.Poisson((slope * x).exp()).log_prob(c)
    log_w = dist.Poisson(log_rate.exp()).log_prob(c) + dist.Normal(c, 1.0).log_prob(x) - log_q
    if k == 1:
        return (log_q.exp() * log_w).sum()
    pair = torch.stack([log_w.unsqueeze(0).expand(25, 25), log_w.unsqueeze(1).expand(25, 25)])
    return ((log_q.unsqueeze(0) + log_q.unsqueeze(1)).exp() * (pair.logsumexp(0) - math.log(2))).sum()


@pytest.mark.parametrize(("bound", "k"), [(ELBO(1), 1), (ELBO(3), 1), (IWAE(1), 1), (IWAE(2), 2)], ids=str)
def test_score_function_and_vimco_gradients_are_exact_in_the_mean(bound, k):
    x = XC[1:2].repeat(20 * REPEATS)
    parameters = {"log_rate": t(0.7), "slope": t(0.4)}
    found = per_row_gradients(bound, count_model, count_guide, x, parameters)
    leaves = {n: p.clone().requires_grad_() for n, p in parameters.items()}
    exact_bound(k, x[0], **leaves).backward()
    for name, leaf in leaves.items():
        close(found[name], leaf.grad)


def test_finite_differences():
    """The surrogate's gradient is the bound's, for one seed, for every reparameterised lower bound."""
    parameters = {n: p.clone() for n, p in GAUSSIAN.items()}
    for name, make in LOWER_BOUNDS.items():
        if "stl" in name or "dreg" in name or name == "PIWAE":
            continue  # their gradients are not those of their draws, only of their means
        bound = make(4)

        def value(factor, bound=bound):
            rows = {n: (factor if n == "factor" else p).expand(len(X), *p.shape) for n, p in parameters.items()}
            pair = Pair(
                lambda x=None, rows=rows: gaussian_model(x, **rows),
                lambda x=None, rows=rows: gaussian_guide(x, **rows),
            )
            structure = analyse(pair, {"x": X})
            pyro.set_rng_seed(3)
            return bound.surrogate(bound.weigh(pair, structure, {"x": X})).sum()

        assert torch.autograd.gradcheck(value, (t(1.0).requires_grad_(),), atol=1e-6), name


def test_dreg_is_refused_where_a_classifier_is_summed():
    def model(x=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(t(0.5)))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x))

    structure = analyse(Pair(model, guide), {"x": XC})
    with pytest.raises(UserError, match="no dreg gradient"):
        IWAE(4, estimator="dreg").refuse(structure)


# -- a count whose distribution depends on a label that is summed out --------------------------------------------


def labelled_count_model(x, log_rate, **_):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(t(0.3)))
        c = pyro.sample("c", dist.Poisson(log_rate.exp() * (1 + y)))
        pyro.sample("x", dist.Normal(c, 1.0), obs=x)


def labelled_count_guide(x, slope, **_):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(logits=slope * x))
        pyro.sample("c", dist.Poisson((0.5 * y + slope * x).exp()))


def exact_labelled(name, x, log_rate, slope):
    """E of the ELBO, or of IWAE-1 (log of the sum over y of p / q), by summing over the counts drawn for each y."""
    c, y = torch.arange(30, dtype=F64), t([0.0, 1.0]).unsqueeze(-1)
    log_qc = dist.Poisson((0.5 * y + slope * x).exp()).log_prob(c)  # [y, c]
    log_p = dist.Bernoulli(t(0.3)).log_prob(y) + dist.Poisson(log_rate.exp() * (1 + y)).log_prob(c)
    log_w = log_p + dist.Normal(c, 1.0).log_prob(x) - log_qc
    if name == "ELBO":
        log_qy = dist.Bernoulli(logits=slope * x).log_prob(y)
        return ((log_qy + log_qc).exp() * (log_w - log_qy)).sum()
    both = torch.logaddexp(log_w[0].unsqueeze(1), log_w[1].unsqueeze(0))
    return ((log_qc[0].unsqueeze(1) + log_qc[1].unsqueeze(0)).exp() * both).sum()


@pytest.mark.parametrize(("name", "bound"), [("ELBO", ELBO(1)), ("ELBO", ELBO(3)), ("IWAE", IWAE(1))], ids=str)
def test_scores_of_draws_made_for_every_value_of_a_label(name, bound):
    x = XC[1:2].repeat(40 * REPEATS)
    parameters = {"log_rate": t(0.4), "slope": t(0.3)}
    found = per_row_gradients(bound, labelled_count_model, labelled_count_guide, x, parameters)
    leaves = {n: p.clone().requires_grad_() for n, p in parameters.items()}
    exact_labelled(name, x[0], **leaves).backward()
    for parameter, leaf in leaves.items():
        close(found[parameter], leaf.grad)


class Forwards(torch.nn.Module):
    """A flow whose transform can only be run forwards."""

    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Linear(1, 2)
        self.flow = transforms.Planar(2)

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            base = dist.Normal(self.loc(x.unsqueeze(-1)), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))


def two_latents(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def test_a_transform_without_an_inverse_fails_only_where_a_foreign_value_is_asked_for():
    """Its own draws are weighed; an estimator that needs log q of others says why it cannot be had."""
    x, guide = XH.float(), Forwards()
    assert torch.isfinite(log_weights(two_latents, guide, x, particles=3).log_weight).all()
    ppl_vae.fit(two_latents, guide, x, ELBO(2), epochs=2)
    with pytest.raises(UserError, match=r"'z' has a TransformedDistribution.*no inverse.*reparameterised"):
        ppl_vae.fit(two_latents, guide, x, ELBO(2, estimator="stl"), epochs=1)


class _Scored(dist.Normal):
    """A normal that says it cannot be reparameterised."""

    has_rsample = False


@pytest.mark.parametrize("analytic_kl", [False, True])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_scale_counts_once_in_the_gradient_of_a_draw_without_one(scale, analytic_kl):
    """s E_q[log p(x, z) - log q(z)] has s times the gradient; KL in closed form leaves the likelihood its score."""
    x = torch.tensor([-0.5, 2.0], dtype=torch.float64)
    loc, log_scale = (torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def model(x):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=scale):
            z = pyro.sample("z", _Scored(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=scale):
            pyro.sample("z", _Scored(loc, log_scale.exp()))

    torch.manual_seed(0)
    found = []
    for _ in range(40):
        loss = ELBO(4000, analytic_kl=analytic_kl).differentiable_loss(model, guide, x)
        found.append(torch.stack(torch.autograd.grad(loss, [loc, log_scale])))
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / 40**0.5
    # the bound is -(loc^2 + s^2 + (x - loc)^2 + s^2) / 2 + log s: minus its gradient is 2 loc - x, and 2 s^2 - 1
    right = scale * torch.stack([-x, torch.ones(2, dtype=torch.float64)])
    assert bool(((mean - right).abs() < 4 * error).all()), (mean, right, error)
    assert bool((error < 0.05 * scale).all())


def test_the_score_of_what_an_inner_plate_shows_of_its_elements_is_scaled_once():
    """An inner plate shows 1 of 3 elements: its factor 3 is in the weights, and not in the score again."""
    loc = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)

    def pair(shown):
        def model(x):
            with pyro.plate("data", len(x), dim=-2), pyro.plate("inner", 3, subsample=shown, dim=-1):
                z = pyro.sample("z", _Scored(torch.zeros(1, 1, dtype=torch.float64), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, shown])

        def guide(x):
            with pyro.plate("data", len(x), dim=-2), pyro.plate("inner", 3, subsample=shown, dim=-1):
                pyro.sample("z", _Scored(loc[shown].expand(len(x), 1), 1.0))

        return model, guide

    torch.manual_seed(0)
    for i in range(3):
        bound, programs = ELBO(20_000), pair(torch.tensor([i]))
        losses = [bound.differentiable_loss(*programs, x) for _ in range(8)]
        found = torch.stack([torch.autograd.grad(loss, loc)[0][i] for loss in losses])
        assert float(found.mean() + 3 * x[0, i]) == pytest.approx(0.0, abs=4 * float(found.std()) / 8**0.5)
        assert float(found.std()) < 0.5


@pytest.mark.parametrize("bound", [ELBO(300), IWAE(300)], ids=repr)
def test_leaving_each_particle_out_takes_no_square_of_the_particles(bound, monkeypatch):
    from ppl_vae.bounds import base

    w = torch.randn(300, 2, dtype=torch.float64, generator=torch.manual_seed(0))
    others = (w.sum(0) - w) / 299
    right = torch.stack([bound.of(torch.where(torch.arange(300)[:, None] == k, others[k], w)) for k in range(300)])
    monkeypatch.setattr(base, "NUMBERS", 5000)
    assert torch.allclose(bound._without_each(w), right)
