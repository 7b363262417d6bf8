"""Posterior collapse: closed forms, quadrature and exact sums; verdicts on pairs that have collapsed or have not."""

from __future__ import annotations

import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import (
    CENTRES,
    F64,
    GUIDES,
    PROGRAMS,
    WITHOUT_INVERSE,
    XM,
    YM,
    beta_binomial,
    beta_binomial_exact,
    chain,
    chain_guide,
    fields_of,
    hierarchy,
    hierarchy_guide,
    linear_gaussian,
    linear_gaussian_exact,
    mixture,
    mixture_classifier,
    nothing,
    repeated,
    repeated_guide,
    styled,
    styled_guide,
    t,
)
from torch.distributions import kl_divergence

import ppl_vae
from ppl_vae import UserError
from ppl_vae.diagnostics import collapse
from ppl_vae.guides import FullRank, MeanField
from ppl_vae.models import CVAE, GMVAE, M2, VAE, Hierarchical
from ppl_vae.weights.marginals import elementwise, marginals

# -- a linear encoder of one number: q(z | x) = N(slope x, diag scale^2) -------------------------------------------

SLOPE, SCALE = t([0.9, -0.6, 0.0]), t([0.5, 0.7, 1.0])


def model(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=F64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0] - z[..., 1], 0.5), obs=x)


def encoder(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.unsqueeze(-1) * SLOPE, SCALE).to_event(1))


def rows(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=F64)


def grid_density(x, entries, points=401, edge=6.0):
    """The aggregate posterior of some entries on a grid: z [point, entry], log q(z), log q(z_j), and a cell's area."""
    axis = torch.linspace(-edge, edge, points, dtype=F64)
    z = torch.cartesian_prod(*[axis] * len(entries)).reshape(-1, len(entries))
    each = dist.Normal(x[:, None] * SLOPE[entries], SCALE[entries]).log_prob(z[:, None])  # [point, row, entry]
    log_n = math.log(len(x))
    cell = (2 * edge / (points - 1)) ** len(entries)
    return z, each.sum(-1).logsumexp(1) - log_n, each.logsumexp(1) - log_n, cell


def test_kl_of_every_latent_is_the_closed_form():
    x = rows(60)
    found = collapse(model, encoder, x)
    q, p = dist.Normal(x[:, None] * SLOPE, SCALE), dist.Normal(t([0.0] * 3), t([1.0] * 3))
    torch.testing.assert_close(found.kl, kl_divergence(q, p).mean(0))
    assert found.site_kl["z"].value == pytest.approx(float(found.kl.sum()))
    assert found.site_kl["z"].se == pytest.approx(0, abs=1e-7)


def test_information_and_the_aggregate_posterior_are_those_of_quadrature():
    """The third entry is the prior for every row: it adds nothing to any of these."""
    x = rows(40)
    z, log_q, log_each, cell = grid_density(x, [0, 1])
    weight = log_q.exp() * cell
    assert float(weight.sum()) == pytest.approx(1)
    entropy = -(weight * log_q).sum()
    information = entropy - dist.Normal(t([0.0] * 2), SCALE[:2]).entropy().sum()
    marginal = (weight * (log_q - dist.Normal(t(0.0), 1.0).log_prob(z).sum(-1))).sum()
    correlation = (weight * (log_q - log_each.sum(1))).sum()
    found = [collapse(model, encoder, x, seed=seed, draws=2) for seed in range(20)]
    for exact, estimates in (
        (information, [f.mutual_information for f in found]),
        (marginal, [f.marginal_kl for f in found]),
        (correlation, [f.total_correlation["z"] for f in found]),
    ):
        values = np.array([e.value for e in estimates])
        error = values.std(ddof=1) / len(values) ** 0.5
        assert abs(values.mean() - float(exact)) < 4 * error
        # rows in turn, not at random: the error that is told is that of random ones, and not smaller
        assert np.mean([e.se for e in estimates]) > 0.8 * values.std(ddof=1)
    assert float(found[0].kl.sum()) == pytest.approx(float(information + marginal))


def test_the_kl_is_information_and_marginal_kl_in_every_run():
    for pair in ((model, encoder, rows(200)), (beta_binomial, beta_binomial_exact, t([0.0, 3, 7, 10] * 20))):
        found = collapse(*pair)
        parts = found.mutual_information.value + found.marginal_kl.value
        error = math.hypot(found.mutual_information.se, found.marginal_kl.se)
        assert abs(parts - sum(kl.value for kl in found.site_kl.values())) < 4 * error


def test_many_rows_give_the_information_of_the_population():
    """x ~ N(0, 1): q(z) is normal, I = log(1 + sum_i slope_i^2 / scale_i^2) / 2, TC = -log det(correlations) / 2."""
    found = collapse(model, encoder, rows(1500), rows=1500, draws=4)
    information = 0.5 * math.log1p(float((SLOPE / SCALE).square().sum()))
    covariance = torch.outer(SLOPE, SLOPE) + SCALE.square().diag()
    deviation = covariance.diagonal().sqrt()
    correlation = -0.5 * torch.logdet(covariance / torch.outer(deviation, deviation))
    marginal = 0.5 * (covariance.trace() - 3 - torch.logdet(covariance))
    for exact, (value, error) in (
        (information, found.mutual_information),
        (float(correlation), found.total_correlation["z"]),
        (float(marginal), found.marginal_kl),
    ):
        assert abs(value - exact) < 4 * error
    error = found.activity_se
    assert bool(((found.activity - SLOPE.square()).abs() <= 4 * error + 0.1 * SLOPE.square()).all())  # prior by draws
    assert bool(((found.spread - deviation).abs() < 0.06).all())
    assert found.active.tolist() == [True, True, False]
    assert found.names == ("z[0]", "z[1]", "z[2]")


@pytest.mark.parametrize("count", [50, 400])
def test_information_lies_between_its_two_estimates_however_few_the_rows_are(count):
    """x ~ N(0, I), q(z | x) = N(x, s^2 I): I = 10 log(1 + 1 / s^2) / 2 = 10 nats, far above log N."""
    deviation = math.expm1(2.0) ** -0.5

    def ten(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(10, dtype=F64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def linear(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, deviation).to_event(1))

    found = collapse(ten, linear, torch.randn(count, 10, generator=torch.manual_seed(0), dtype=F64), draws=4)
    assert found.mutual_information.value <= math.log(count)
    assert found.mutual_information_most.value + 4 * found.mutual_information_most.se > 10.0
    marginal = 5 * (1 + deviation**2 - 1 - math.log1p(deviation**2))  # q(z) = N(0, (1 + s^2) I)
    assert found.marginal_kl_least.value - 4 * found.marginal_kl_least.se < marginal < found.marginal_kl.value
    assert found.information[1] == pytest.approx(found.rate) or found.information[1] < found.rate
    assert f"say between {found.information[0]:.1f} and {found.information[1]:.1f} nats" in found.verdict
    assert "KL(q(z) || p(z))" in found.verdict


def test_information_is_at_most_log_n_and_then_the_verdict_says_so():
    def sharp(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.unsqueeze(-1) * 1000 * t([1.0, 1.0, 1.0]), SCALE).to_event(1))

    found = collapse(model, sharp, rows(50))
    assert found.mutual_information.value == pytest.approx(math.log(50), abs=0.1)
    assert found.mutual_information.value <= found.ceiling + 1e-9
    assert "tell 50 rows apart almost perfectly" in found.verdict
    assert "lies elsewhere than the prior" in found.verdict


def test_what_a_label_says_is_the_exact_sum():
    found = collapse(mixture, mixture_classifier, {"x": XM}, seed=1)
    probs = torch.stack([-XM, 0.3 * XM, XM], -1).softmax(-1)
    usage = probs.mean(0)
    information = (probs * (probs / usage).log()).sum(-1).mean()
    torch.testing.assert_close(found.classes["y"].usage, usage)
    assert found.classes["y"].information == pytest.approx(float(information))
    assert found.classes["y"].effective == pytest.approx(float(torch.special.entr(usage).sum().exp()))
    assert found.ceiling == math.log(5)
    many = [collapse(mixture, mixture_classifier, {"x": XM.repeat(40)}, draws=2, seed=s) for s in range(5)]
    values = torch.tensor([f.mutual_information.value for f in many])
    error = math.sqrt(sum(f.mutual_information.se**2 for f in many)) / 5
    assert abs(float(values.mean()) - float(information)) < 4 * error


# -- log q of the draws of other rows --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "floats"),
    [
        ("IAF", 2**24),
        ("FullRank", 2000),
        ("MeanField", 2**24),
        *[
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("IAF", 2000), ("FullRank", 2**24), ("MeanField", 2000), ("Spline", 2**24))
        ],
        ("Spline", 2000),
    ],
)
@pytest.mark.parametrize("program", ["two layers", "within rows", "positive vector", "label and style"])
def test_the_density_of_the_aggregate_is_the_mean_over_rows_one_by_one(name, program, floats, monkeypatch):
    from ppl_vae.diagnostics._collapse import aggregate, surgery
    from ppl_vae.evaluation.passes import passes
    from ppl_vae.programs.program import Pair

    monkeypatch.setattr(aggregate, "FLOATS_AT_ONCE", floats)
    fields = {n: v.to(F64) for n, v in fields_of(PROGRAMS[program]).items()}
    guide = GUIDES[name](PROGRAMS[program], fields, hidden=(4,)).to(F64)
    pair = Pair(PROGRAMS[program], guide)
    with passes(pair, ppl_vae.data.as_split(fields), 2) as plan:
        batches = [{n: v[:4] for n, v in fields.items()}, {n: v[4:] for n, v in fields.items()}]
        drawn, log_q, _ = surgery._one_draw(pair, plan.structure, batches)
        found = aggregate.aggregate_log_density(pair, plan.structure, batches, drawn).inside
        names = [n for n in plan.structure.latents if n not in plan.structure.auxiliary]
        for batch, sites, part, start in zip(batches, drawn, found.split([4, 2]), (0, 4), strict=True):
            values = {n: sites[n]["value"] for n in names}
            moved = []
            for shift in range(6):  # every draw of this batch beside every row, by the guide's own density
                order = [(start + i + shift) % 6 for i in range(len(batch["x"]))]
                moved.append(guide.log_prob(values, **{n: v[order] for n, v in fields.items()}))
            torch.testing.assert_close(part, torch.stack(moved).logsumexp(0) - math.log(6), atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(moved[0], log_q[start : start + len(batch["x"])], atol=2e-4, rtol=1e-4)


def test_programs_that_let_no_particles_through_give_the_same():
    def flattened(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.unsqueeze(-1) * SLOPE, SCALE).to_event(1))
            z.reshape(len(x), 3)

    x = rows(12)
    one, other = (collapse(model, guide, x, draws=2) for guide in (encoder, flattened))
    torch.testing.assert_close(one.kl, other.kl)
    error = math.hypot(one.mutual_information.se, other.mutual_information.se)
    assert abs(one.mutual_information.value - other.mutual_information.value) < 4 * error


@pytest.mark.parametrize("name", sorted(WITHOUT_INVERSE)[:2])
def test_without_an_inverse_the_rest_is_told(name):
    fields = fields_of(PROGRAMS["vector"])
    found = collapse(PROGRAMS["vector"], GUIDES[name](PROGRAMS["vector"], fields, hidden=(4,)), fields)
    assert math.isnan(found.mutual_information.value)
    assert any("z is drawn from a Flow without an inverse" in note for note in found.notes)
    assert all("\n" not in note for note in found.notes)
    assert bool(torch.isfinite(found.activity).all())
    assert math.isfinite(found.site_kl["z"].value)
    assert "active" in found.verdict
    assert json.loads(json.dumps(found.summary()))["mutual_information"] is None
    assert found.figure().axes


def test_entries_and_their_marginals():
    fn = dist.TransformedDistribution(
        dist.Normal(torch.zeros(4, 3), torch.arange(1.0, 4.0)).to_event(1), [dist.transforms.ExpTransform()]
    )
    z = fn.sample()
    torch.testing.assert_close(elementwise(fn).log_prob(z).sum(-1), fn.log_prob(z))
    assert elementwise(dist.Dirichlet(torch.ones(3))) is None
    normal = dist.MultivariateNormal(t([1.0, 2.0]), t([[2.0, 0.5], [0.5, 1.0]]))
    torch.testing.assert_close(marginals(normal).scale, t([2.0, 1.0]).sqrt())


# -- verdicts --------------------------------------------------------------------------------------------------------


def deaf(x=None):
    """A decoder that does not listen to z."""
    level = pyro.param("level", torch.zeros(3))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(level, 1.0).to_event(1), obs=x)


def test_a_decoder_that_ignores_z_is_called_collapsed():
    data = ppl_vae.load({"x": torch.randn(300, 3, generator=torch.manual_seed(0))})
    result = ppl_vae.fit(deaf, MeanField(deaf, data, hidden=(8,)), data, epochs=40, lr=0.01, compile="off")
    found = collapse(result.model, result.guide, data.train)
    assert found.collapsed == ("z",)
    assert found.verdict.startswith("Collapsed: z says nothing about a row")
    assert "beta=WarmUp" in found.verdict
    assert "FreeBits" in found.verdict
    assert found.mutual_information.value < 0.1


@pytest.mark.parametrize("kind", ["draws", "elsewhere"])
def test_noise_of_draws_is_no_activity_and_a_constant_far_from_the_prior_tells_nothing(kind):
    def guide(x=None):
        base = dist.Normal(torch.zeros(len(x), 3, dtype=F64), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            if kind == "draws":  # a distribution whose mean is not known
                pyro.sample(
                    "z", dist.TransformedDistribution(base, [dist.transforms.AffineTransform(0.0, 1.0, event_dim=1)])
                )
            else:
                pyro.sample("z", dist.Normal(3.0 + 0 * base.mean, 0.5).to_event(1))

    found = collapse(model, guide, rows(400))
    assert not found.active.any()
    assert found.collapsed == ("z",)
    assert bool((found.activity.abs() < 5 * found.activity_se + 1e-9).all())


def test_a_label_that_is_the_same_for_every_row_has_collapsed():
    def guide(x=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(t([0.98, 0.01, 0.01]).expand(len(x), 3)))
            pyro.sample("z", dist.Normal(0.6 * (x - CENTRES[y]), 0.6))

    found = collapse(styled, guide, {"x": XM.repeat(20)})
    assert found.collapsed == ("y",)
    assert found.classes["y"].used == 1
    assert "Collapsed: y says nothing" in found.verdict


def test_trained_digits_have_not_collapsed():
    data = ppl_vae.load("digits")
    vae = VAE(data, latent_dim=3, hidden=(32,))
    ppl_vae.fit(vae, MeanField(vae, hidden=(32,)), data, epochs=1, compile="off")  # its guide is made anew below
    guide = MeanField(vae, hidden=(32,))
    ppl_vae.fit(vae, guide, data, epochs=12, compile="off")
    found = collapse(vae, guide, data)
    assert found.active.all()
    assert not found.collapsed
    assert "3 of 3 latents are active" in found.verdict
    assert "nothing is wrong" in found.verdict
    axes = found.figure().axes
    assert [ax.get_title("left") for ax in axes] == ["latents", "decomposition of the KL"]


# -- every kind of latent ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PROGRAMS.keys() - {"shared by all rows", "items"}))
def test_latents_of_every_kind_are_told_of(name):
    program, fields = PROGRAMS[name], fields_of(PROGRAMS[name], rows=60)
    found = collapse(program, MeanField(program, fields, hidden=(4,)), fields, draws=3)
    assert len(found.names) == len(found.sites) == len(found.kl) == len(found.activity)
    assert -4 * found.mutual_information.se < found.mutual_information.value <= found.ceiling + 1e-5
    assert bool(torch.isfinite(found.activity).all())
    assert found.verdict
    json.dumps(found.summary())
    parts = found.mutual_information.value + found.marginal_kl.value
    error = math.hypot(found.mutual_information.se, found.marginal_kl.se, *(kl.se for kl in found.site_kl.values()))
    assert abs(parts - sum(kl.value for kl in found.site_kl.values())) < 4 * error


@pytest.mark.parametrize("make", ["GMVAE", "M2", "Hierarchical", "CVAE"])
def test_models_of_this_package(make):
    data = ppl_vae.load("digits", labels=50 if make == "M2" else None)
    small = {"hidden": (8,)}
    pair = {
        "GMVAE": lambda: GMVAE(data, clusters=3, latent_dim=2, **small),
        "M2": lambda: M2(data, latent_dim=2, **small),
        "Hierarchical": lambda: Hierarchical(data, latent_dims=(3, 2), **small),
        "CVAE": lambda: CVAE(data, latent_dim=2, learned_prior=True, **small),
    }[make]()
    found = collapse(pair, FullRank(pair, **small), data, rows=100, draws=4)
    assert found.rows == 100
    assert set(found.classes) == {"GMVAE": {"cluster"}, "M2": {"y"}}.get(make, set())
    assert math.isfinite(found.mutual_information.value)
    if make == "CVAE":
        assert math.isnan(found.marginal_kl.value)
        assert "the prior depends on the row" in found.notes[0]


# -- as a user meets it ----------------------------------------------------------------------------------------------


def test_rows_with_a_label_are_left_out_where_others_have_none():
    found = collapse(styled, styled_guide, {"x": XM.repeat(10), "y": YM.repeat(10)})
    assert found.rows == 20
    assert found.notes[0] == "30 rows in which y is observed are left out"
    known = collapse(styled, styled_guide, {"x": XM.repeat(10), "y": YM.clamp(min=0).repeat(10)})
    assert known.rows == 50
    assert not known.classes
    assert "y is observed in all rows" in known.notes[0]
    loc = 0.6 * (XM - CENTRES[YM.clamp(min=0)])  # five different posteriors, all with scale 0.6
    z = torch.linspace(-8, 8, 4001, dtype=F64)
    log_q = dist.Normal(loc, 0.6).log_prob(z[:, None]).logsumexp(1) - math.log(5)
    exact = -(log_q.exp() * log_q).sum() * 16 / 4000 - dist.Normal(t(0.0), 0.6).entropy()
    assert abs(known.mutual_information.value - float(exact)) < 4 * known.mutual_information.se


def test_a_latent_of_the_model_alone_leaves_no_kl():
    found = collapse(repeated, repeated_guide, {"x": rows(30).reshape(10, 3)})
    assert found.notes == ("no KL: flag is summed out in the model",)
    assert math.isnan(found.marginal_kl.value)
    assert math.isfinite(found.mutual_information.value)
    assert found.figure().axes


def test_the_same_seed_gives_the_same_numbers_and_nothing_else_changes():
    state = torch.get_rng_state()
    first, again, other = (collapse(chain, chain_guide, {"x": XM.repeat(4)}, seed=s).summary() for s in (0, 0, 1))
    assert first == again
    assert first != other
    assert torch.equal(state, torch.get_rng_state())


def test_missing_entries_and_dense_normals():
    x = t([[0.5, math.nan, 0.2, 1.5], [2.0, 0.3, -0.7, 0.1], [-1.2, 1.1, 0.4, -0.6]])

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.nan_to_num()[..., :2], 0.8).to_event(1))

    found = collapse(linear_gaussian, guide, x)
    assert bool(torch.isfinite(found.kl).all())
    whole = collapse(linear_gaussian, linear_gaussian_exact, x[1:])
    assert bool(torch.isnan(whole.kl).all())  # a dense normal has no KL by entry
    assert math.isfinite(whole.total_correlation["z"].value)


@pytest.mark.parametrize(
    ("program", "guide", "data", "words"),
    [
        (mixture, nothing, XM, "nothing to collapse"),
        (hierarchy, hierarchy_guide, XM, "no codes of rows"),
        (model, encoder, rows(1), "got one: pass more"),
    ],
    ids=["no latents", "global", "one row"],
)
def test_what_has_no_answer_is_refused(program, guide, data, words):
    with pytest.raises(UserError, match=words):
        collapse(program, guide, data)


@pytest.mark.parametrize("wrong", [{"rows": 1}, {"draws": 1}, {"draws": 2.5}])
def test_counts_are_checked(wrong):
    with pytest.raises(UserError, match="must be a whole number"):
        collapse(model, encoder, rows(9), **wrong)
