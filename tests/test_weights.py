"""Log weights of programs of every shape: plates, particles, chunks, minibatches, holes, globals."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import (
    F64,
    PROBLEMS,
    XH,
    X,
    gaussian_evidence,
    hierarchy,
    hierarchy_elbo,
    hierarchy_evidence,
    hierarchy_guide,
    linear_gaussian,
    linear_gaussian_exact,
    linear_gaussian_off,
    t,
)

from ppl_vae import UserError, log_weights
from ppl_vae.bounds import ELBO, IWAE, Renyi
from ppl_vae.checks.analysis import analyse
from ppl_vae.programs.program import Pair


def totals(bound, model, guide, x, seeds):
    return torch.tensor([-bound.loss(model, guide, x) for _ in range(seeds)], dtype=F64)


def test_parts_add_up_and_have_particle_and_row_dims():
    w = log_weights(linear_gaussian, linear_gaussian_off, {"x": X}, particles=7)
    assert w.log_weight.shape == (7, len(X))
    torch.testing.assert_close(w.log_weight, w.log_likelihood + w.log_prior - w.log_guide)
    torch.testing.assert_close(w.by_site["z"], w.rate)
    assert w.log_global is None


def test_chunks_draw_the_same_number_of_particles():
    w = log_weights(linear_gaussian, linear_gaussian_off, {"x": X}, particles=10, chunk=4)
    assert w.log_weight.shape == (10, len(X))
    assert w.log_weight[:, 0].unique().numel() == 10


def test_one_row_array_or_dict():
    one = log_weights(linear_gaussian, linear_gaussian_exact, X[:1], particles=2)
    torch.testing.assert_close(one.log_weight, gaussian_evidence(X[:1]).expand(2, 1))


@pytest.mark.parametrize("dim", [-1, -2, -3])
def test_the_data_plate_may_be_at_any_dim(dim):
    """A plate at dim -2 or -3 with nothing to its right: the same rows, the same weights."""

    def shaped(v):
        return v.reshape((len(v),) + (1,) * (-dim - 1))

    def model(x=None):
        with pyro.plate("cells", len(x), dim=dim):
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0).expand(shaped(x).shape))
            pyro.sample("x", dist.Normal(z, 1.0), obs=shaped(x))

    def posterior(x=None):
        with pyro.plate("cells", len(x), dim=dim):
            pyro.sample("z", dist.Normal(shaped(x) / 2, 0.5**0.5))

    w = log_weights(model, posterior, {"x": XH}, particles=3)
    expected = dist.Normal(t(0.0), 2**0.5).log_prob(XH)
    torch.testing.assert_close(w.log_weight, expected.expand(3, -1))


def test_programs_that_do_not_broadcast_run_particle_by_particle():
    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            flat = z.reshape(len(x), 2)  # refuses a particle dim
            pyro.sample("x", dist.Normal(flat.sum(1), 1.0), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.stack([x, x], -1) / 3, 0.6).to_event(1))

    assert not analyse(Pair(model, guide), {"x": XH}).broadcasts
    rows = XH.repeat(2000)
    w = log_weights(model, guide, {"x": rows}, particles=3)
    ratio = (w.log_weight - dist.Normal(t(0.0), 3**0.5).log_prob(rows)).exp().flatten()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(len(ratio))


def test_the_encoder_runs_once_for_all_particles():
    calls = []

    def guide(x=None):
        calls.append(tuple(x.shape))
        linear_gaussian_off(x)

    pair = Pair(linear_gaussian, guide)
    structure = analyse(pair, {"x": X})
    calls.clear()
    IWAE(50).weigh(pair, structure, {"x": X})
    assert calls == [(3, 4)]


# -- minibatches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 21])
@pytest.mark.parametrize("bound", [ELBO(2), IWAE(4), Renyi(0.5, 4)], ids=str)
def test_the_mean_over_minibatches_is_the_full_batch_value(bound, size):
    """With the exact posterior every weight is log p(x), so equality is exact, N/B included."""
    x = X.repeat(7, 1)
    pair = Pair(linear_gaussian, linear_gaussian_exact)
    structure = analyse(pair, {"x": x})

    def total(rows):
        weights = bound.weigh(pair, structure, {"x": rows})
        return bound.total(bound.reduce(weights), weights, len(x) / len(rows))

    values = torch.stack([total(rows) for rows in x.split(size)])
    torch.testing.assert_close(values.mean(), gaussian_evidence(x).sum())


@pytest.mark.parametrize("size", [1, 7, 14])
@pytest.mark.parametrize("bound", [ELBO(), IWAE(5)], ids=str)
def test_rows_drawn_by_the_program_itself(bound, size):
    x = X.repeat(7, 1)[:14]

    def model(x):
        with pyro.plate("rows", len(x), subsample_size=size) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            from cases import OFFSET, SIGMA, W

            pyro.sample("x", dist.Normal(z @ W + OFFSET, SIGMA).to_event(1), obs=x[index])

    def guide(x):
        from cases import COVARIANCE, posterior_mean

        with pyro.plate("rows", len(x), subsample_size=size) as index:
            pyro.sample("z", dist.MultivariateNormal(posterior_mean(x[index]), COVARIANCE))

    found = totals(bound, model, guide, x, 300)
    truth = gaussian_evidence(x).sum()
    assert abs(found.mean() - truth) <= 4 * found.std() / math.sqrt(len(found)) + 1e-6


@pytest.mark.parametrize("size", [1, 3, 7])
def test_global_latents_have_the_right_elbo_under_minibatches(size):
    pair = Pair(hierarchy, hierarchy_guide)
    structure = analyse(pair, {"x": XH})
    assert structure.global_latents == {"mean"}
    bound = ELBO(4)
    values = []
    for seed in range(600):
        generator = torch.Generator().manual_seed(seed)
        rows = XH[torch.randperm(len(XH), generator=generator)[:size]]
        weights = bound.weigh(pair, structure, {"x": rows})
        values.append(bound.total(bound.reduce(weights), weights, len(XH) / size))
    found = torch.stack(values)
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - hierarchy_elbo(XH)) <= 4 * error
    assert hierarchy_elbo(XH) < hierarchy_evidence(XH)


def test_importance_bounds_refuse_global_latents_with_a_remedy():
    structure = analyse(Pair(hierarchy, hierarchy_guide), {"x": XH})
    for bound in (IWAE(4), Renyi(0.5)):
        with pytest.raises(UserError, match=r"mean is outside the data plate.*use ELBO"):
            bound.refuse(structure)


# -- one meaning of missing ----------------------------------------------------------------------------------------


def test_an_absent_field_is_left_out():
    def model(x=None, text=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("text", dist.Poisson(z.exp()), obs=text)

    def posterior(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    w = log_weights(model, posterior, {"x": XH}, particles=2)
    torch.testing.assert_close(w.log_weight, dist.Normal(t(0.0), 2**0.5).log_prob(XH).expand(2, -1))


def test_a_real_label_seen_in_some_rows_is_drawn_in_the_others():
    """y is observed, NaN in some rows; the guide draws it there and is held to it elsewhere."""

    def model(x=None, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Normal(t(0.0), 1.0), obs=y)
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def posterior(x=None, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x / 2, 0.5**0.5))

    y = torch.where(torch.arange(len(XH)) % 2 == 0, torch.nan, XH + 0.5)
    w = log_weights(model, posterior, {"x": XH, "y": y}, particles=2)
    filled = torch.nan_to_num(y)
    known = dist.Normal(t(0.0), 1.0).log_prob(filled) + dist.Normal(filled, 1.0).log_prob(XH)
    expected = torch.where(torch.isnan(y), dist.Normal(t(0.0), 2**0.5).log_prob(XH), known)
    torch.testing.assert_close(w.log_weight, expected.expand(2, -1))


def test_gradients_stay_finite_with_holes():
    problem = PROBLEMS[1]
    noise = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4, dtype=F64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, noise).to_event(1), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.nan_to_num(x), 0.8).to_event(1))

    ELBO().of(log_weights(model, guide, problem.batch, particles=3).log_weight).sum().backward()
    assert torch.isfinite(noise.grad)


def test_a_vector_likelihood_with_holes_is_refused():
    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            covariance = torch.eye(4, dtype=F64)
            pyro.sample("x", dist.MultivariateNormal(z.unsqueeze(-1).expand(*z.shape, 4), covariance), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(t(0.0), 1.0))

    with pytest.raises(UserError, match=r"'x' has missing entries.*to_event"):
        log_weights(model, guide, PROBLEMS[1].batch)


class Noisy(torch.nn.Module):
    """A model whose network drops half of its units while it trains."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(1, 50), torch.nn.Dropout(0.5), torch.nn.Linear(50, 1)).double()

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t(0.0), t(1.0)))
            pyro.sample("x", dist.Normal(self.net(z.unsqueeze(-1)).squeeze(-1), t(1.0)), obs=x)


def test_weights_are_those_of_the_pair_as_it_is_judged():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, t(1e-9)))

    model = Noisy()
    model.net[0].eval()
    found = [log_weights(model, guide, {"x": X[:, 0]}).log_likelihood for _ in range(2)]
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
    assert [m.training for m in model.net] == [False, True, True]
