"""Properties of every likelihood, and what single ones are equal to."""

from __future__ import annotations

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, LIKELIHOODS, t
from pyro import poutine
from torch.distributions import constraints

import ppl_vae
from ppl_vae import UserError, likelihoods
from ppl_vae.data import Field
from ppl_vae.data.schema import KINDS
from ppl_vae.distributions import expected_value
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import (
    Beta,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    DiscretisedLogistic,
    LogNormal,
    NegativeBinomial,
    Normal,
    Ordinal,
    StudentT,
    fitting,
)
from ppl_vae.models import VAE
from ppl_vae.programs.missing import Holes
from ppl_vae.saving.specs import describe, rebuild

by_likelihood = pytest.mark.parametrize(("likelihood", "field"), LIKELIHOODS.values(), ids=LIKELIHOODS)
DISCRETE = ("binary", "count", "categorical")


def rows(field, n=400):
    """Rows of a field, strictly inside the support of every likelihood over its kind."""
    generator = torch.Generator().manual_seed(0)
    shape = (n, *field.shape)
    if field.kind in ("binary", "categorical", "count"):
        top = 2 if field.kind == "binary" else field.cardinality
        drawn = torch.binomial(torch.full(shape, top - 1.0), torch.full(shape, 0.3), generator=generator)
        return drawn.long() if field.kind == "categorical" else drawn
    normal = torch.randn(shape, generator=generator)
    return torch.sigmoid(normal + 1) if field.kind == "unit" else (0.5 * normal + 1).exp()


def built(likelihood, field):
    return likelihood.build(field, rows(field)).double()


def features_for(made, *lead, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(*lead, made.size, dtype=F64, generator=generator)


def grid(fn, field):
    """Points of the support of single entries and the weight of each, [point, ...]."""
    support = fn.support
    if field.kind in DISCRETE and support is not constraints.real:
        top = getattr(support, "upper_bound", 1 if support is constraints.boolean else 5000)
        points = torch.arange(int(torch.as_tensor(top).max()) + 1, dtype=F64)
        weights = torch.ones_like(points)
    else:
        u = torch.linspace(-36, 36, 400_001, dtype=F64)
        if support is constraints.real:  # so far out that Student tails have no mass left
            points, weights = torch.sinh(u), torch.cosh(u)
        elif isinstance(support, type(constraints.positive)):
            points, weights = u.exp(), u.exp()
        else:
            points = torch.sigmoid(u)
            weights = points * (1 - points)
        weights = weights * (u[1] - u[0])
    lead = (-1,) + (1,) * len(fn.batch_shape)
    return points.reshape(lead), weights.reshape(lead)


@by_likelihood
def test_a_likelihood_is_normalised(likelihood, field):
    """The sum (or the integral) of the mass over one entry is 1."""
    made = built(likelihood, field)
    entry = made.entries(features_for(made).reshape(*field.shape, made.width))
    points, weights = grid(entry, field)
    total = (entry.log_prob(points).exp() * weights).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)


@by_likelihood
def test_a_likelihood_has_the_shape_of_its_field_under_any_leading_dims(likelihood, field):
    made = built(likelihood, field)
    fn = made(features_for(made, 4, 1, 5))
    assert fn.event_shape == field.shape
    assert fn.batch_shape == (4, 1, 5)
    x = fn.sample()
    assert x.shape == (4, 1, 5, *field.shape)
    assert fn.support.check(x).all()
    log_prob = fn.log_prob(x)
    assert torch.isfinite(log_prob).all()
    assert log_prob.dtype == F64
    assert fn.sample((2,)).shape == (2, 4, 1, 5, *field.shape)
    mean = expected_value(fn)
    assert mean.shape == (4, 1, 5, *field.shape)
    assert torch.isfinite(mean).all()
    assert made.initial_bias(rows(field)).shape == (made.size,)


@by_likelihood
def test_draws_have_the_expected_value(likelihood, field):
    """Four standard errors of 20,000 draws."""
    torch.manual_seed(0)
    made = built(likelihood, field)
    entry = made.entries(features_for(made, scale=0.5).reshape(*field.shape, made.width))
    drawn = entry.sample((20_000,)).to(F64)
    if isinstance(entry, dist.LogNormal):  # of the exponentials of normals the mean says little
        drawn, expected = drawn.log(), entry.loc
    else:
        expected = expected_value(entry)
    error = 4 * drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - expected).abs() < error + 1e-9).all()


@by_likelihood
def test_a_likelihood_skips_missing_entries_with_finite_gradients(likelihood, field):
    made = built(likelihood, field)
    features = features_for(made, 6).requires_grad_()
    each = made.entries(features.reshape(6, *field.shape, made.width))
    x = rows(field, 6)
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    assert gone.any()
    holes = torch.where(gone, -1 if field.kind == "categorical" else torch.nan, x)

    def model():
        with pyro.plate("data", 6):
            pyro.sample("x", made(features), obs=holes, infer={"leaf": True})

    trace = poutine.trace(Holes(None)(model)).get_trace()
    trace.compute_log_prob()
    found = trace.nodes["x"]["log_prob"]
    expected = torch.where(gone, 0.0, each.log_prob(x)).reshape(6, -1).sum(-1)
    torch.testing.assert_close(found, expected)
    slopes = torch.autograd.grad(found.sum(), [features, *made.parameters()], allow_unused=True)
    assert all(torch.isfinite(g).all() for g in slopes if g is not None)
    unseen = slopes[0].reshape(*x.shape, made.width)[gone]
    assert (unseen == 0).all()
    assert (slopes[0] != 0).any()


@by_likelihood
def test_wild_features_give_finite_numbers_and_gradients(likelihood, field):
    made = likelihood.build(field, rows(field))
    for size in (-40.0, -1e-4, 0.0, 1e-4, 40.0):
        features = torch.full((5, made.size), size, requires_grad=True)
        log_prob = made(features).log_prob(rows(field, 5))
        slopes = torch.autograd.grad(log_prob.sum(), [features, *made.parameters()], allow_unused=True)
        assert torch.isfinite(log_prob).all(), size
        assert all(torch.isfinite(g).all() for g in slopes if g is not None), size


@by_likelihood
def test_a_likelihood_starts_at_the_marginals_of_the_training_rows(likelihood, field):
    """Without a decoder the bias is at least as good as none, and within 0.4 nats an entry of the best constant."""
    train = rows(field)
    made = likelihood.build(field, train)
    bias = made.initial_bias(train)
    start = made(bias).log_prob(train).mean().item()
    assert start >= made(torch.zeros_like(bias)).log_prob(train).mean().item() - 1e-4
    best = bias.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([best], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = -made(best).log_prob(train).mean()
        value.backward()
        return value

    optimiser.step(loss)
    assert start > -loss().item() - 0.4 * field.size


@by_likelihood
def test_a_likelihood_refuses_foreign_kinds(likelihood, field):
    for kind in set(KINDS) - set(likelihood.kinds):
        foreign = Field("x", kind, (3,), 5 if kind in ("categorical", "count") else None)
        with pytest.raises(UserError, match=f"is {kind}.*use "):
            likelihood.build(foreign)


@by_likelihood
def test_a_likelihood_is_copied_and_rebuilt_from_its_arguments(likelihood, field):
    made = likelihood.build(field, rows(field))
    assert not list(likelihood.parameters())  # what was passed is left as it was
    again = rebuild(describe(made), {}).build(field)
    again.load_state_dict(made.state_dict())
    features = features_for(made, 3).float()
    x = rows(field, 3)
    assert torch.equal(again(features).log_prob(x), made(features).log_prob(x))
    assert torch.equal(copy.deepcopy(made)(features).log_prob(x), made(features).log_prob(x))


OUTSIDE = [
    (Beta(), Field("x", "unit", (2,)), [[0.2, 0.3], [0.0, 0.5]], r"row 1, entry \(0,\): value 0\).*Beta, 0 < x < 1"),
    (Beta(), Field("x", "unit"), [0.2, 1.0], r"row 1: value 1\).*use Normal or ContinuousBernoulli"),
    (LogNormal(), Field("x", "real", (2,)), [[1.0, -2.0]], r"row 0, entry \(1,\): value -2\).*LogNormal.*use Normal"),
    (LogNormal(), Field("x", "positive"), [1.0, 0.0], r"row 1: value 0\).*LogNormal"),
    (Binomial(3), Field("x", "count", (), 9), [1.0, 8.0], r"row 1: value 8\).*Binomial.*use Poisson or Binomial"),
    (
        DiscretisedLogistic(),
        Field("x", "count", (), 500),
        [3.0, 499.0],
        "row 1: value 499.*Discretised.*use Poisson",
    ),
]


@pytest.mark.parametrize(("likelihood", "field", "values", "message"), OUTSIDE)
def test_training_values_outside_the_support_are_refused_with_row_and_remedy(likelihood, field, values, message):
    with pytest.raises(UserError, match=f"field 'x' .*training {message}") as caught:
        likelihood.build(field, torch.tensor(values))
    for name in str(caught.value).rpartition(": use ")[2].split(" or "):
        getattr(likelihoods, name)().build(field, torch.tensor(values))  # the remedies work


def test_missing_values_are_outside_no_support():
    LogNormal().build(Field("x", "real"), torch.tensor([1.0, torch.nan]))
    Categorical().build(Field("x", "categorical", (), 3), torch.tensor([0, -1, 2]))


def test_held_out_rows_outside_an_open_support_are_refused():
    x = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    data = ppl_vae.load(x)
    model = VAE(data, likelihood=Beta(), latent_dim=2, hidden=(4,))
    guide = MeanField(model, hidden=(4,))
    assert torch.isfinite(ppl_vae.evaluate(model, guide, data.test, particles=3).elbo).all()
    rows_ = data.test["x"].clone()
    rows_[7, 1] = 1.0
    with pytest.raises(UserError, match=r"field 'x', rows row 7, entry \(1,\): value 1 is out.*ContinuousBernoulli"):
        ppl_vae.evaluate(model, guide, rows_, particles=3)


def test_fitting_names_the_default_first_and_only_what_fits():
    assert fitting(Field("x", "count", (), 3))[0] == "Poisson"
    assert "Beta" in fitting(Field("x", "unit"))
    assert "Beta" not in fitting(Field("x", "unit"), torch.tensor([0.0, 0.5]))
    assert not any(name.startswith("_") or name == "ZeroInflated" for name in fitting(Field("x", "count", (), 3)))


# -- single likelihoods --------------------------------------------------------------------------------------------


def test_unscaled_columns_start_at_their_own_scale():
    train = torch.randn(200, 2) * torch.tensor([1e3, 1e-3]) + torch.tensor([5e4, 0.0])
    made = Normal().build(Field("x", "real", (2,)), train)
    log_p = made(torch.zeros(2)).log_prob(train).mean().item()
    best = -math.log(2 * math.pi) - 1 - math.log(1e3) - math.log(1e-3)
    assert log_p == pytest.approx(best, abs=0.2)


def test_a_per_row_scale_starts_at_the_data_and_keeps_away_from_0():
    train = 50 * torch.randn(500, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    made = Normal(per_row=True).build(Field("x", "real", (1,)), train)
    scales = made.entries(t([[[0.0, 0.0]], [[0.0, -1e4]], [[0.0, 3.0]]])).scale.squeeze()
    assert scales[0] == pytest.approx(train.std().item(), rel=0.01)
    assert scales[1] == pytest.approx(1e-3 * train.std().item(), rel=0.01)
    assert scales[2] > 2 * scales[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(scale=0.0), "Normal: scale must be positive"),
        (lambda: LogNormal(scale=-1.0), "LogNormal: scale must be positive"),
        (lambda: Normal(1.0, per_row=True), "leave one out"),
        (lambda: StudentT(df=1.0), "above 1"),
        (lambda: Binomial(0), "at least 1, got 0"),
        (lambda: Binomial(2.5), "whole number"),
        (lambda: Binomial().build(Field("x", "count")), "total_count"),
        (lambda: Ordinal().build(Field("x", "count")), "number of levels"),
        (lambda: DiscretisedLogistic(0), "components must be a whole number of at least 1"),
        (lambda: DiscretisedLogistic(levels=1), "levels must be a whole number of at least 2"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_continuous_bernoulli_is_torchs_where_that_is_right():
    logits = t([-8.0, -2.0, -0.5, -0.11, -0.09, -0.002, 0.0, 1e-4, 0.05, 0.3, 4.0])
    made = ContinuousBernoulli().build(Field("x", "unit"))
    ours, theirs = made(logits.unsqueeze(-1)), dist.ContinuousBernoulli(logits=logits)
    x = torch.linspace(0, 1, 7, dtype=F64).unsqueeze(-1)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.mean, theirs.mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("logit", [-200.0, -20.0, 0.0, 1e-3, 0.099, 0.101, 20.0, 200.0])
def test_continuous_bernoulli_is_normalised_however_large_its_logit(logit, dtype):
    fn = ContinuousBernoulli().build(Field("x", "unit"))(torch.tensor([logit], dtype=dtype))
    x = torch.linspace(0, 1, 400_001, dtype=F64)
    assert torch.trapezoid(fn.log_prob(x).exp(), x).item() == pytest.approx(1, abs=1e-4)


def test_ordinal_is_pyros_ordered_logistic():
    made = Ordinal().build(Field("x", "categorical", (2,), 4), rows(Field("x", "categorical", (2,), 4))).double()
    predictor = t([[0.3, -1.0], [2.0, 0.5]])
    levels = torch.arange(4).reshape(4, 1, 1)
    theirs = dist.OrderedLogistic(predictor, made.cutpoints)
    torch.testing.assert_close(made(predictor).base_dist.log_prob(levels), theirs.log_prob(levels))


def test_ordinal_cutpoints_start_at_the_frequencies():
    field = Field("x", "categorical", (), 4)
    train = torch.tensor([0] * 10 + [1] * 40 + [2] * 20 + [3] * 30)
    probs = Ordinal().build(field, train)(torch.zeros(1)).probs
    torch.testing.assert_close(probs, torch.tensor([0.1, 0.4, 0.2, 0.3]), atol=0.01, rtol=0)


def test_ordinal_keeps_levels_that_rounding_would_lose():
    made = Ordinal().build(Field("x", "categorical", (), 3))
    feature = torch.tensor([60.0], requires_grad=True)
    log_p = made(feature).log_prob(torch.tensor(0))
    assert log_p.item() == pytest.approx(-60, abs=1.5)
    (slope,) = torch.autograd.grad(log_p, feature)
    assert slope.item() == pytest.approx(-1, abs=1e-3)


def test_discretised_logistic_is_a_difference_of_sigmoids():
    made = DiscretisedLogistic(2).build(Field("x", "count", (), 256)).double()
    loc, scale, logits = t([0.1, -0.4]), t([0.05, 0.3]), t([0.2, -0.5])
    features = torch.cat([loc, torch.log(torch.expm1(scale - 1e-4)), logits])
    x = torch.arange(256, dtype=F64)
    edges = (torch.arange(257, dtype=F64) - 0.5) * 2 / 255 - 1
    edges[0], edges[-1] = -torch.inf, torch.inf
    cdf = (torch.sigmoid((edges.unsqueeze(-1) - loc) / scale) * logits.softmax(0)).sum(-1)
    fn = made(features)
    torch.testing.assert_close(fn.log_prob(x).exp(), cdf.diff(), atol=1e-12, rtol=1e-6)
    torch.testing.assert_close(fn.mean, (x * cdf.diff()).sum())
    assert torch.equal(fn.enumerate_support(), x)


def test_negative_binomial_is_nearly_poisson_for_counts_without_extra_spread():
    train = torch.poisson(torch.full((4000,), 4.0), generator=torch.Generator().manual_seed(0))
    plain = NegativeBinomial().build(Field("x", "count", (), 20), train)
    spread = NegativeBinomial().build(Field("x", "count", (), 20), torch.cat([train, torch.zeros(4000)]))
    assert plain.dispersion > 50
    assert spread.dispersion < 5
    fn = spread(spread.initial_bias(torch.cat([train, torch.zeros(4000)])))
    assert fn.mean.item() == pytest.approx(2, rel=0.05)
    assert fn.variance.item() == pytest.approx(torch.cat([train, torch.zeros(4000)]).var().item(), rel=0.05)
