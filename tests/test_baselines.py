"""Densities without latents: they are what closed forms say, and what a model is measured against."""

from __future__ import annotations

import math

import pytest
import torch

import ppl_vae
from ppl_vae.data import Field, Schema, Split
from ppl_vae.evaluation.baselines import against, baselines, worthless
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE


def split(kind, values, **options):
    field = Field("x", kind, tuple(values.shape[1:]), missing=bool(values.isnan().any()), **options)
    return Split(Schema((field,)), "train", {"x": values})


def rows(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(count, 1, generator=generator, dtype=torch.double)
    return 100 + 5 * (common @ torch.tensor([[1.0, -2.0, 0.5]]).double() + torch.randn(count, 3, generator=generator))


def test_real_columns_alone_and_together_are_the_normals_of_their_moments():
    train, new = rows(400), rows(50, 1)
    alone, normal = baselines(None, ["x"], split("real", train), split("real", new))
    mean, deviation = train.mean(0), train.std(0, correction=0)
    expected = torch.distributions.Normal(mean, deviation).log_prob(new).sum(1)
    torch.testing.assert_close(alone.log_density.double(), expected, atol=0.02, rtol=0)
    covariance = torch.cov(train.T, correction=0)
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(new)
    torch.testing.assert_close(normal.log_density, exact, atol=1e-3, rtol=0)
    assert normal.log_density.mean() > alone.log_density.mean() + 0.3


def test_missing_entries_are_skipped():
    train = rows(400)
    new = rows(50, 1)
    whole = baselines(None, ["x"], split("real", train), split("real", new))[0].log_density
    new[:, 1] = torch.nan
    field = Field("x", "real", (3,), missing=True)
    holes = Split(Schema((field,)), "test", {"x": new})
    (alone,) = baselines(None, ["x"], split("real", train), holes)
    one = torch.distributions.Normal(train.mean(0), train.std(0, correction=0)).log_prob(rows(50, 1))[:, 1]
    torch.testing.assert_close(alone.log_density.double() + one, whole.double(), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_levels_have_their_frequencies(kind):
    train, new = torch.tensor([0.0, 0.0, 0.0, 1.0] * 100), torch.tensor([0.0, 1.0])
    options = {"cardinality": 2} if kind == "categorical" else {}
    (alone,) = baselines(None, ["x"], split(kind, train, **options), split(kind, new, **options))
    expected = torch.tensor([math.log(0.75), math.log(0.25)])
    torch.testing.assert_close(alone.log_density, expected, atol=2e-3, rtol=0)


def test_columns_of_a_skewed_table_are_fitted_by_likelihood():
    generator = torch.Generator().manual_seed(0)
    train = (2 + 0.5 * torch.randn(2000, generator=generator)).exp()
    alone = baselines(None, ["x"], split("positive", train), split("positive", train))[0]
    logs = train.log()
    exact = torch.distributions.LogNormal(logs.mean(), logs.std(correction=0)).log_prob(train)
    assert float(alone.log_density.mean()) == pytest.approx(float(exact.mean()), abs=2e-3)


def test_a_model_that_tells_nothing_is_told():
    found = baselines(None, ["x"], split("real", rows(400)), split("real", rows(500, 1)))
    same = against(found[0].log_density, found)
    assert same["minus_independent"] == 0
    assert "does not beat independent columns" in worthless(same)
    better = against(found[1].log_density, found)
    difference = found[1].log_density - found[0].log_density
    assert better["minus_independent"] == pytest.approx(difference.mean().item())
    assert better["minus_independent_se"] == pytest.approx((difference.std() / 500**0.5).item())
    assert worthless(better) is None


def test_other_fields_have_no_baseline():
    assert baselines(None, ["z"], split("real", rows(9)), split("real", rows(9))) == []
    assert len(baselines(None, ["x"], split("real", rows(5)), split("real", rows(9)))) == 1  # too few for a covariance


def test_the_normal_of_counts_is_a_mass():
    """E log N(k + u), u uniform in the cell, as quadrature has it; over all whole numbers it sums to less than 1."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(500, 1, generator=generator)
    counts = (8 + 2 * common + torch.randn(500, 2, generator=generator)).round().clamp(min=0)
    grid = torch.cartesian_prod(torch.arange(-5.0, 25), torch.arange(-5.0, 25)).clamp(min=0)
    normal = baselines(None, ["x"], split("count", counts, cardinality=20), split("count", grid, cardinality=26))[1]
    cells = counts.double()
    covariance = torch.cov(cells.T, correction=0) + torch.eye(2) / 12
    exact = torch.distributions.MultivariateNormal(cells.mean(0), covariance.double())
    u = (torch.arange(200).double() + 0.5) / 200 - 0.5
    square = torch.cartesian_prod(u, u)
    for row in (0, 400, 777):
        assert float(normal.log_density[row]) == pytest.approx(
            float(exact.log_prob(grid[row] + square).mean()), abs=1e-3
        )
    inner = (grid > 0).all(1)
    assert 0.9 < float(normal.log_density[inner].exp().sum()) < 1


R = torch.tensor([[1.0, 0.7, -0.5], [0.7, 1.0, -0.3], [-0.5, -0.3, 1.0]]).double()


def mixed(count, seed):
    """A normal, a binary column and a count of known dependence, as a data set's split."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, 3, generator=generator, dtype=torch.double) @ torch.linalg.cholesky(R).T
    u = torch.special.ndtr(z)
    cumulative = torch.distributions.Poisson(2.0).log_prob(torch.arange(40.0)).exp().cumsum(0).double()
    values = {
        "a": z[:, 0].float(),
        "b": (u[:, 1] > 0.6).float(),
        "c": torch.searchsorted(cumulative, u[:, 2].contiguous()).float(),
    }
    fields = (Field("a", "real"), Field("b", "binary"), Field("c", "count", cardinality=40))
    return Split(Schema(fields), "train", values)


def test_a_mixed_table_has_a_copula_with_its_dependence():
    from ppl_vae.evaluation._copula import fit_copula, margin

    train, new = mixed(3000, 0), mixed(1000, 1)
    fns = (torch.distributions.Normal(0.0, 1.0), torch.distributions.Bernoulli(0.4), torch.distributions.Poisson(2.0))
    margins = [margin(fn, train[name]) for fn, name in zip(fns, "abc", strict=True)]
    torch.testing.assert_close(fit_copula(margins), R, atol=0.08, rtol=0)
    alone, joined = baselines(None, ["a", "b", "c"], train, new)
    assert joined.name == "copula"
    summary = against(joined.log_density, [alone])
    assert summary["minus_independent"] > 10 * summary["minus_independent_se"]


def test_the_copula_of_binary_columns_is_the_orthant_probability():
    """P(both 1) of halves with correlation r is 1/4 + arcsin(r) / 2 pi; the four cells sum to 1."""
    from ppl_vae.evaluation._copula import copula_log_density, margin

    half = torch.distributions.Bernoulli(0.5)
    cells = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    columns = [margin(half, cells[:, i]) for i in (0, 1)]
    found = copula_log_density(columns, R[:2, :2]).exp()
    same = 0.25 + math.asin(0.7) / (2 * math.pi)
    torch.testing.assert_close(found, torch.tensor([same, 0.5 - same, 0.5 - same, same]).double(), atol=0.02, rtol=0)


def test_an_evaluation_in_python_stands_beside_them_and_says_so():
    x = torch.randn(300, 1, generator=torch.Generator().manual_seed(0)) @ torch.ones(1, 3)
    data = ppl_vae.load(x + 0.1 * torch.randn(300, 3, generator=torch.Generator().manual_seed(1)))
    model = VAE(data, latent_dim=1, hidden=(8,))
    guide = MeanField(model, hidden=(8,))
    found = ppl_vae.evaluate(model, guide, data, particles=100)
    assert [each.name for each in found.baselines] == ["independent", "normal"]
    summary = found.summary()
    difference = found.log_evidence - found.baselines[0].log_density
    assert summary["minus_independent"] == pytest.approx(float(difference.mean()))
    assert summary["minus_independent_se"] == pytest.approx(float(difference.std() / len(difference) ** 0.5))
    assert "log evidence minus that " in repr(found)
    assert len(repr(found)) < 1000
    # the model knows its training rows, so a split alone will do; with other programs there is nothing to compare with
    assert torch.equal(ppl_vae.evaluate(model, guide, data.test, 100).baselines[1].log_density, found.baselines[1][2])
    again = ppl_vae.evaluate(lambda x=None, n=1: model(x=x, n=n), guide, data.test, 100)
    assert again.baselines == ()
    assert torch.equal(again.log_evidence, found.log_evidence)
