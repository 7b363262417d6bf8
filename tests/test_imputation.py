"""Imputation against closed forms and exact sums; rows that come back as they were but for their holes."""

from __future__ import annotations

import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import (
    CENTRES,
    F64,
    OFFSET,
    PROGRAMS,
    SIGMA,
    WEIGHTS,
    X_HOLES,
    W,
    X,
    fields_of,
    gaussian_evidence_holes,
    linear_gaussian,
    linear_gaussian_holes,
    repeated,
    repeated_guide,
    t,
)

import ppl_vae
from ppl_vae import UserError, impute
from ppl_vae.bounds import IWAE
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import Normal
from ppl_vae.models import GMVAE, VAE

NAN = float("nan")
TIMES = 60


def tiled(x, times=TIMES):
    return x.repeat((times,) + (1,) * (x.dim() - 1))


def near(replicates, exact, extra=0.0):
    """Means over independent replicates [replicate, ...] are within four standard errors of the exact value."""
    error = replicates.std(0) / len(replicates) ** 0.5
    gap = (replicates.mean(0) - exact).abs()
    assert bool((gap <= 4 * error + extra).all()), (gap / error.clamp(min=1e-12)).max()


# -- the linear-Gaussian model: conditional mean and covariance in closed form ----------------------------------


def conditional(row):
    """Mean and covariance of the missing entries of a row given the others."""
    gone = torch.isnan(row)
    whole = W.T @ W + SIGMA**2 * torch.eye(4, dtype=F64)
    gain = whole[gone][:, ~gone] @ torch.linalg.inv(whole[~gone][:, ~gone])
    mean = OFFSET[gone] + gain @ (row[~gone] - OFFSET[~gone])
    return gone, mean, whole[gone][:, gone] - gain @ whole[~gone][:, gone]


def posterior_holes(x=None):
    """The exact posterior given the entries that are there."""
    seen = ~torch.isnan(x)
    weighted = W * seen.unsqueeze(-2)  # [row, latent, entry]
    precision = torch.eye(2, dtype=F64) + weighted @ W.T / SIGMA**2
    covariance = torch.linalg.inv(precision)
    mean = covariance @ (weighted @ (x.nan_to_num() - OFFSET).unsqueeze(-1)) / SIGMA**2
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(mean.squeeze(-1), covariance))


def flattened(x=None):
    """A guide that lets no particle dim through, so that particles run one by one."""
    mean = 0.5 * (x.nan_to_num() - OFFSET) @ W.T
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 0.8).to_event(1))
        z.reshape(len(x), 2)


@pytest.mark.parametrize(
    ("guide", "particles", "floats"),
    [
        (posterior_holes, 50, 2**24),
        (linear_gaussian_holes, 800, 2**24),
        (linear_gaussian_holes, 800, 2**15),  # several passes over particles
        (flattened, 150, 2**24),
    ],
    ids=["exact", "shifted", "shifted, in passes", "one by one"],
)
def test_linear_gaussian_conditionals(guide, particles, floats):
    rows = X_HOLES[[0, 2]]
    found = impute(linear_gaussian, guide, {"x": tiled(rows)}, particles=particles, draws=6, floats_at_once=floats)
    for i, row in enumerate(rows):
        gone, mean, covariance = conditional(row)
        near(found.mean["x"][i::2][:, gone], mean, extra=2 / particles)
        draws = found.draws["x"][:, i::2][..., gone]  # [draw, replicate, missing]
        near(draws.mean(0), mean, extra=2 / particles)
        centred = draws - mean
        products = torch.einsum("dra,drb->rab", centred, centred) / len(draws)
        near(products, covariance, extra=4 / particles)


def test_evidence_is_that_of_what_was_observed():
    found = impute(linear_gaussian, linear_gaussian_holes, {"x": X_HOLES}, particles=4000)
    exact = gaussian_evidence_holes(X_HOLES)
    assert bool(((found.log_evidence - exact).abs() < 4 * found.log_evidence_se).all())
    exactly = impute(linear_gaussian, posterior_holes, {"x": X_HOLES}, particles=3)
    torch.testing.assert_close(exactly.log_evidence, exact)
    torch.testing.assert_close(exactly.ess, torch.full_like(exact, 3.0))
    same = ppl_vae.evaluate(linear_gaussian, linear_gaussian_holes, {"x": X_HOLES}, particles=4000)
    assert bool(((found.log_evidence - same.log_evidence).abs() < 6 * found.log_evidence_se).all())


def test_what_was_observed_is_the_same_to_the_bit():
    found = impute(linear_gaussian, linear_gaussian_holes, {"x": X_HOLES}, particles=20, draws=3)
    gone = torch.isnan(X_HOLES)
    assert bool((found.mask["x"] == gone).all())
    for rows in (found.mean["x"], *found.draws["x"]):
        assert rows.dtype == F64
        assert torch.equal(rows[~gone], X_HOLES[~gone])
        assert bool(torch.isfinite(rows).all())
    assert bool((found.sd["x"][~gone] == 0).all())
    assert bool((found.sd["x"][gone] > 0).all())


def test_rows_together_and_one_by_one_say_the_same():
    together = impute(linear_gaussian, linear_gaussian_holes, {"x": X_HOLES}, particles=4000, draws=400)
    for i in (0, 2):
        alone = impute(linear_gaussian, linear_gaussian_holes, {"x": X_HOLES[i : i + 1]}, particles=4000, draws=400)
        gone, _, covariance = conditional(X_HOLES[i])
        error = (covariance.diagonal() / 400).sqrt()
        gap = alone.draws["x"][:, 0, gone].mean(0) - together.draws["x"][:, i, gone].mean(0)
        assert bool((gap.abs() < 4 * 2**0.5 * error).all())


def test_a_row_without_any_entry_is_drawn_from_the_model():
    x = torch.cat([torch.full((300, 4), NAN, dtype=F64), X[:1]])
    found = impute(linear_gaussian, posterior_holes, {"x": x}, particles=10, draws=1)
    torch.testing.assert_close(found.log_evidence[:-1], torch.zeros(300, dtype=F64))
    near(found.draws["x"][0, :-1], OFFSET)
    near((found.draws["x"][0, :-1] - OFFSET).square(), (W.T @ W).diagonal() + SIGMA**2)


def test_a_pair_without_latents_draws_from_its_marginals():
    def independent(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(OFFSET, SIGMA).to_event(1), obs=x)

    found = impute(independent, lambda x=None: None, {"x": tiled(X_HOLES)}, particles=2, draws=3)
    gone = torch.isnan(tiled(X_HOLES))
    torch.testing.assert_close(found.mean["x"][gone], OFFSET.expand(len(gone), 4)[gone])
    near(((found.draws["x"] - OFFSET) / SIGMA).square()[:, gone].flatten(), torch.ones((), dtype=F64))


def test_a_site_may_observe_a_part_of_a_field():
    def first_two(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
            pyro.sample("part", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 2), SIGMA).to_event(1), obs=x[..., :2])
            pyro.sample("third", dist.Normal(z, SIGMA), obs=x[..., 2])

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[..., :3].nanmean(-1).nan_to_num(), 0.8))

    rows = t([[NAN, 0.5, NAN, NAN], [0.1, NAN, 0.3, 0.4]])
    found = impute(first_two, guide, {"x": rows}, particles=20, draws=2)
    filled = torch.tensor([[True, False, True, False], [False, True, False, False]])
    assert torch.equal(found.mask["x"], filled)  # no site observes the last column
    assert torch.equal(found.draws["x"].isnan(), (rows.isnan() & ~filled).expand(2, 2, 4))


def test_the_same_seed_gives_the_same_rows_and_leaves_the_generators_alone():
    state = torch.get_rng_state()
    first, again, other = (
        impute(linear_gaussian, linear_gaussian_holes, {"x": X_HOLES}, particles=5, seed=s).draws["x"]
        for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


# -- a label that is summed out ----------------------------------------------------------------------------------


def two_measurements(x=None, y=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(WEIGHTS), obs=y)
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        mean = (z + CENTRES[y]).unsqueeze(-1)
        pyro.sample("x", dist.Normal(mean.expand(*mean.shape[:-1], 2), 0.6).to_event(1), obs=x)


def with_classifier(x=None):
    seen = x.nanmean(-1)
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(logits=torch.stack([-seen, 0.3 * seen, seen], -1)))
        pyro.sample("z", dist.Normal(0.5 * (seen - CENTRES[y]), 0.7))


def without_label(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.3 * x.nanmean(-1), 1.0))


def by_hand(x, y):
    """E[x2 | x1], Var and p(y | x1): a mixture over the labels of regressions of x2 on x1, or the one of label y."""
    variance = t(1.36)
    joint = WEIGHTS.log() + dist.Normal(CENTRES, variance.sqrt()).log_prob(x)
    weight = joint.softmax(-1) if y < 0 else torch.nn.functional.one_hot(torch.tensor(y), 3).to(F64)
    means = CENTRES + (x - CENTRES) / variance
    mean = (weight * means).sum()
    spread = variance - 1 / variance + (weight * (means - mean) ** 2).sum()
    return mean, spread, weight


@pytest.mark.parametrize("guide", [with_classifier, without_label])
def test_a_mixture_by_hand(guide):
    rows, labels = t([[0.6, NAN], [0.6, NAN], [-0.9, NAN]]), torch.tensor([-1, 0, -1])
    batch = {"x": tiled(rows), "y": tiled(labels)}
    found = impute(two_measurements, guide, batch, particles=600, draws=6)
    for i, label in enumerate(labels.tolist()):
        mean, spread, weight = by_hand(rows[i, 0], label)
        near(found.mean["x"][i::3, 1], mean, extra=0.005)
        draws = found.draws["x"][:, i::3, 1]
        near(draws.mean(0), mean, extra=0.005)
        near((draws - mean).square().mean(0), spread, extra=0.01)
        near(found.probabilities["y"][i::3], weight, extra=0.004)
        shares = torch.nn.functional.one_hot(found.draws["y"][:, i::3], 3).to(F64).mean(0)
        near(shares, weight, extra=0.004)
    assert torch.equal(found.mean["y"], found.probabilities["y"].argmax(-1))  # the likeliest level
    assert bool((found.draws["y"][:, 1::3] == 0).all())


def test_flags_within_rows_are_drawn_together():
    """E[x3 | x1, x2] = E[z | x1, x2], a sum over the flags of the two measurements."""
    row = t([[0.2, 1.4, NAN]])
    joint, means = [], []
    for flags in torch.cartesian_prod(t([0.0, 1.0]), t([0.0, 1.0])):
        variance = (0.5 + 2.0 * flags) ** 2
        covariance = torch.diag(variance) + 1.0
        log_p = dist.MultivariateNormal(torch.zeros(2, dtype=F64), covariance).log_prob(row[0, :2])
        joint.append(dist.Bernoulli(t(0.2)).log_prob(flags).sum() + log_p)
        means.append((row[0, :2] / variance).sum() / (1 + (1 / variance).sum()))
    exact = (torch.stack(joint).softmax(0) * torch.stack(means)).sum()

    def guide(x=None):
        return repeated_guide(x.nan_to_num())

    found = impute(repeated, guide, {"x": tiled(row)}, particles=800, draws=20)
    near(found.mean["x"][:, 2], exact, extra=0.002)
    near(found.draws["x"][:, :, 2].mean(0), exact, extra=0.002)
    assert torch.equal(found.draws["x"][3, :, :2], tiled(row)[:, :2])


# -- any pair ------------------------------------------------------------------------------------------------------

PER_ROW = {name: model for name, model in PROGRAMS.items() if name not in ("shared by all rows", "items")}


@pytest.mark.parametrize("name", PER_ROW)
def test_every_kind_of_latent(name):
    batch = fields_of(PER_ROW[name])
    batch["x"][0, 1] = batch["x"][2, 0] = batch["x"][2, 2] = NAN
    if "count" in batch:
        batch["count"][1] = NAN
    guide = MeanField(PER_ROW[name], batch, hidden=(8,))
    found = impute(PER_ROW[name], guide, batch, particles=7, draws=4)
    assert found.draws.keys() == batch.keys()
    for field, rows in batch.items():
        gone = torch.isnan(rows)
        assert bool(torch.isfinite(found.mean[field]).all())
        assert torch.equal(found.mean[field][~gone], rows[~gone])
        assert torch.equal(found.draws[field][:, ~gone], rows[~gone].expand(4, -1))
        assert bool((found.sd[field][gone] > 0).all())


def test_rows_that_share_a_latent_are_filled_too():
    batch = fields_of(PROGRAMS["shared by all rows"])
    batch["x"][0, 1] = NAN
    found = impute(PROGRAMS["shared by all rows"], MeanField(PROGRAMS["shared by all rows"], batch), batch)
    assert torch.equal(found.mask["x"], batch["x"].isnan())
    assert bool(found.mean["x"].isfinite().all())


def test_a_guide_that_cannot_read_holes_is_named():
    def blind(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[..., :2], 0.8).to_event(1))

    with pytest.raises(UserError, match=r"row 0 .* missing entries"):
        impute(linear_gaussian, blind, {"x": X_HOLES}, particles=5)
    with pytest.raises(UserError, match="draws must be a whole number"):
        impute(linear_gaussian, posterior_holes, {"x": X_HOLES}, draws=0)


def test_complete_rows_come_back_with_their_evidence():
    found = impute(linear_gaussian, posterior_holes, {"x": X}, particles=2)
    assert (dict(found.mean), dict(found.draws)) == ({}, {})
    assert len(found.log_evidence) == len(X)


# -- tables --------------------------------------------------------------------------------------------------------


def table(rows=40):
    generator = torch.Generator().manual_seed(0)
    size = torch.rand(rows, generator=generator) + 1
    frame = pandas.DataFrame(
        {
            "size": size.numpy().round(3),
            "kind": ["big" if s > 1.5 else "small" for s in size],
            "visits": (size * 3).round().numpy(),
            "member": [bool(s > 1.4) for s in size],
        },
        index=[f"row {i}" for i in range(rows)],
    )
    frame["member"] = frame["member"].astype(object)
    frame.loc["row 1", "size"] = frame.loc["row 2", "visits"] = NAN
    frame.loc["row 3", ["kind", "member"]] = None
    return frame


@pytest.mark.parametrize("make", [VAE, GMVAE])
def test_a_table_comes_back_with_its_columns_types_and_words(make):
    frame = table()
    data = ppl_vae.load(frame, missing="allow", test=0, validation=0)
    model = make(data, latent_dim=2, hidden=(8,))
    guide = MeanField(model, hidden=(8,))
    extra = frame.assign(note="kept")[["note", *frame.columns[::-1]]]
    found = impute(model, guide, extra, particles=20, draws=3)
    for filled in (found.frame(), found.frame(2)):
        assert list(filled.columns) == list(extra.columns)
        assert filled.index.equals(extra.index)
        assert not filled.isna().any().any()
        assert filled.where(extra.notna(), extra).equals(extra)
        assert filled.loc["row 3", "kind"] in ("big", "small")
        assert filled.loc["row 3", "member"] in (True, False)
        assert isinstance(filled.loc["row 3", "member"], bool)
        assert float(filled.loc["row 2", "visits"]).is_integer()
    long = found.frames()
    assert list(long.columns[:2]) == ["draw", "note"]
    assert long["draw"].value_counts().to_dict() == {0: 40, 1: 40, 2: 40}
    torch.testing.assert_close(found.probabilities["kind"].sum(-1), torch.ones(40))
    with pytest.raises(UserError, match="3 draws, 0 to 2, got draw 3"):
        found.frame(3)


def test_cells_are_filled_in_the_types_of_their_columns():
    size = torch.rand(30, generator=torch.Generator().manual_seed(0)).numpy()
    frame = pandas.DataFrame(
        {
            "grade": pandas.Categorical((3 * size).round(), ordered=True),
            "code": pandas.Categorical(10 + (2 * size).round().astype(int)),
            "age": pandas.cut(size, 3),
            "count": pandas.array((9 * size).round(), dtype="Int64"),
            "whole": pandas.array((1000 * size).round(), dtype="Int64"),
            "day": pandas.to_datetime("2024-01-01") + pandas.to_timedelta((100 * size).round(), unit="D"),
        }
    )
    for row, name in enumerate(frame.columns):
        frame.loc[row, name] = None
    spans = pandas.arrays.IntervalArray.from_breaks([0.0, 1.0, 2.0])
    frame["span"] = pandas.Series(spans.take([0, 1, 0, 1, 0, 1, -1] + [1] * 23, allow_fill=True))
    data = ppl_vae.load(frame, missing="allow", kinds={"whole": "real"}, test=0, validation=0)
    model = VAE(data, latent_dim=2, hidden=(8,))
    filled = impute(model, MeanField(model, hidden=(8,)), frame, particles=10, draws=1).frame()
    assert not filled.isna().any().any()
    for row, name in enumerate(frame.columns):
        if name != "whole":  # means of real numbers are no whole ones
            assert filled[name].dtype == frame[name].dtype
        assert filled[name].drop(row).equals(frame[name].drop(row).astype(filled[name].dtype))
    fewer = frame.assign(code=frame["code"].cat.set_categories([99]))
    with pytest.raises(UserError, match="column 'code' cannot hold the level '1"):
        impute(model, MeanField(model, hidden=(8,)), fewer, particles=10, draws=1).frame()


def test_rows_with_holes_for_a_pair_that_was_trained_without():
    data = ppl_vae.load(torch.randn(50, 3), test=0, validation=0)
    model = VAE(data, latent_dim=2, hidden=(8,))
    found = impute(model, MeanField(model, hidden=(8,)), torch.tensor([[0.1, NAN, 0.3]]), particles=10)
    assert bool(torch.isfinite(found.draws["x"]).all())
    assert list(found.frame().columns) == ["x_0", "x_1", "x_2"]


@pytest.mark.parametrize("latents", [2, 3])
def test_a_guide_that_never_saw_holes_is_helped_to_proposals_that_cover_them(latents):
    # factor analysis, whose guide is exact for complete rows, and far too narrow where an entry is read at its mean
    generator = torch.Generator().manual_seed(latents)
    z = torch.randn(500, 2, generator=generator)
    x = z @ torch.tensor([[3.0, 2.0, -2.0, 0.0, 1.0], [0.0, 1.0, 2.0, 3.0, -2.0]])
    x = x + 0.3 * torch.randn(500, 5, generator=generator)
    data = ppl_vae.load(x[:400], test=0, validation=0)
    model = VAE(data, latent_dim=latents, hidden=())
    guide = MeanField(model, hidden=())
    ppl_vae.fit(model, guide, data, epochs=3, compile="off")
    rows = x[400:].clone()
    rows[:, 0] = NAN
    rows[::2, 3:] = NAN
    found = impute(model, guide, rows, particles=2000, draws=20)
    own, weight = model.likelihood, model.decoder.last.weight.detach()
    load = own.unit.unsqueeze(-1) * weight
    covariance = load @ load.T + torch.diag((own.unit * (own.least + own.log_scale.exp())).detach().square())
    mean = (own.shift + own.unit * model.decoder.last.bias).detach()
    for r, row in enumerate(rows):
        gone = row.isnan()
        seen = dist.MultivariateNormal(mean[~gone], covariance[~gone][:, ~gone])
        error = found.log_evidence_se[r]
        assert abs(found.log_evidence[r] - seen.log_prob(row[~gone])) < 5 * error + 0.01
        gain = covariance[gone][:, ~gone] @ torch.linalg.inv(covariance[~gone][:, ~gone])
        expected = mean[gone] + gain @ (row[~gone] - mean[~gone])
        spread = (covariance[gone][:, gone] - gain @ covariance[~gone][:, gone]).diagonal().sqrt()
        assert bool(((found.mean["x"][r][gone] - expected).abs() < 5 * spread / found.ess[r].sqrt() + 0.02).all())
    assert float(found.ess.min()) > 50
    checked = ppl_vae.check_imputation(model, guide, x[400:], share=0.4, draws=49, particles=500)
    for level in (0.5, 0.9):
        covered, error = checked.coverage(level)
        assert abs(covered - level) < 4 * error, checked


def test_pictures_and_grey_levels():
    data = ppl_vae.load("digits")
    x = data.test["x"][:5].clone()
    x[0, :4] = -1
    model = VAE(data, latent_dim=2, hidden=(8,))
    found = impute(model, MeanField(model, hidden=(8,)), {"x": x}, particles=10, draws=2)
    assert found.draws["x"].dtype == torch.long
    assert bool(((found.draws["x"] >= 0) & (found.draws["x"] <= 16)).all())
    assert torch.equal(found.mean["x"][1:], x[1:].float())
    assert bool((found.mean["x"][0, :4] % 1 != 0).any())  # mean grey levels
    with pytest.raises(UserError, match="no columns"):
        found.frame()


def test_a_trained_pair_finds_the_missing_half_of_two_equal_columns():
    """x2 = x1 up to noise 0.1: what is imputed is close, and the draws spread as the noise does."""
    torch.manual_seed(0)
    first = torch.randn(400, 1)
    rows = torch.cat([first, first + 0.1 * torch.randn(400, 1)], dim=1)
    holey = rows.clone()
    holey[:80, 1] = NAN
    data = ppl_vae.load(holey, missing="allow", test=0, validation=0)
    model = VAE(data, latent_dim=1, hidden=(), likelihood=Normal())
    guide = MeanField(model, hidden=(16,))
    ppl_vae.fit(model, guide, data, IWAE(5), epochs=150, lr=0.05, batch_size=400)
    found = impute(model, guide, holey, particles=300, draws=30)
    gap = found.mean["x"][:80, 1] - rows[:80, 1]
    assert float(gap.square().mean().sqrt()) < 0.15
    assert float(found.sd["x"][:80, 1].mean()) < 0.25


def test_holes_that_a_guide_never_saw_are_told_where_nothing_mends_them():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    data = ppl_vae.load(x)
    torch.manual_seed(0)
    holes = x.clone()
    holes[::2, 0] = torch.nan
    for kind, told in ((VAE, False), (GMVAE, True)):
        model = kind(data, latent_dim=1, hidden=(4,))
        found = impute(model, MeanField(model, hidden=(4,)), holes, particles=20)
        assert bool(found.findings) is told
    assert "never saw a missing entry in x" in found.findings[0].problem
    seen = ppl_vae.load(holes, missing="allow")
    model = GMVAE(seen, latent_dim=1, hidden=(4,))
    assert not impute(model, MeanField(model, hidden=(4,)), holes, particles=20).findings
