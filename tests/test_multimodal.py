"""Several fields of one row: exact evidence of any subset, experts whose density is known, what sees what."""

from __future__ import annotations

import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from cases import F64, t

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.data import Field
from ppl_vae.guides import IAF, FullRank, MeanField, Planar, Point, Spline
from ppl_vae.likelihoods import Normal
from ppl_vae.models import CVAE, M2, VAE, Multimodal
from ppl_vae.nn.experts import EXPERTS, ExpertMixture, of_all_given, product
from ppl_vae.nn.hiding import Hiding

NOISE = 0.6


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (200,), generator=generator)
    a = 0.4 * torch.randn(200, 3, generator=generator) + y[:, None]
    b = 0.4 * torch.randn(200, 2, 2, generator=generator) - y[:, None, None]
    return ppl_vae.load({"a": a, "b": b, "y": y})


@pytest.fixture(scope="module")
def linear(data):
    """x_m = W_m (z, w_m) + c_m + noise, and no label: everything is normal."""
    few = data.train.select(["a", "b"])
    data = ppl_vae.load({"a": few["a"].to(F64), "b": few["b"].to(F64)})
    torch.manual_seed(0)
    noise = dict.fromkeys(("a", "b"), Normal(scale=NOISE))
    return Multimodal(data, private=2, latent_dim=2, hidden=(), likelihoods=noise).to(F64), data


def exact(model, names):
    """Mean and covariance of the fields together: z is shared, w_m is not."""
    loadings, centres, scales = [], [], []
    for each in model._responses():
        if each.name in names:
            unit, shift = each.likelihood.unit.flatten(), each.likelihood.shift.flatten()
            weight, bias = each.network.last.weight.detach(), each.network.last.bias.detach()
            loadings.append(unit[:, None] * weight)
            centres.append(shift + unit * bias)
            scales.append(each.likelihood(each.network(torch.zeros(1, 4, dtype=F64))).base_dist.scale.flatten())
    rows = []
    for i, one in enumerate(loadings):
        own = [one[:, 2:] if i == j else torch.zeros(len(one), 2, dtype=F64) for j in range(len(loadings))]
        rows.append(torch.cat([one[:, :2], *own], 1))
    whole = torch.cat(rows)
    return torch.cat(centres), whole @ whole.T + torch.cat(scales).square().diag()


@pytest.mark.parametrize("experts", [None, *EXPERTS])
def test_the_evidence_of_any_subset_is_exact_and_the_parts_add_up(linear, experts):
    """log p(a, b), log p(a), log p(b) are normal; log p(b | a), of the conditional normal, is their difference."""
    model, data = linear
    torch.manual_seed(0)
    guide = MeanField(model, data, experts=experts, hidden=(16,)).to(F64)
    rows = data.test.batch(slice(0, 10))
    flat = {n: v.flatten(1) for n, v in rows.items()}
    subsets = [("a", "b"), ("a",), ("b",)] if experts else [("a", "b")]
    found = {}
    for names in subsets:
        result = ppl_vae.evaluate(model, guide, {n: rows[n] for n in names}, particles=4000)
        mean, covariance = exact(model, names)
        log_p = dist.MultivariateNormal(mean, covariance).log_prob(torch.cat([flat[n] for n in names], 1))
        assert bool(((result.log_evidence - log_p).abs() < 5 * result.log_evidence_se + 1e-3).all())
        found[names] = result
    if experts:
        mean, covariance = exact(model, ("a", "b"))
        gain = covariance[3:, :3] @ covariance[:3, :3].inverse()
        conditional = dist.MultivariateNormal(
            mean[3:] + (flat["a"] - mean[:3]) @ gain.T, covariance[3:, 3:] - gain @ covariance[:3, 3:]
        ).log_prob(flat["b"])
        both, one = found["a", "b"], found["a",]
        error = 5 * torch.hypot(both.log_evidence_se, one.log_evidence_se) + 1e-3
        assert bool((both.log_evidence - one.log_evidence - conditional).abs().lt(error).all())


# -- experts -----------------------------------------------------------------------------------------------------------


def test_a_product_of_experts_is_the_posterior_where_they_are_likelihoods():
    """z ~ N(0, I), x_m = z + noise_m: the posterior multiplies N(x_m, noise_m^2) with the prior."""
    x, noise = t([[0.5, -1.0], [2.0, 0.3], [-0.4, 1.1]]), t([0.5, 1.5])
    experts = [dist.Normal(x[:, m : m + 1], noise[m]).to_event(1) for m in (0, 1)]
    seen = [torch.tensor([True, True, False]), torch.tensor([True, False, False])]
    found = product(experts, seen, prior=True)
    there = torch.stack(seen, 1).to(F64)
    precision = 1 + (there / noise.square()).sum(1)
    torch.testing.assert_close(found.variance[:, 0], 1 / precision)
    torch.testing.assert_close(found.mean[:, 0], (there * x / noise.square()).sum(1) / precision)
    alone = product(experts, seen, prior=False)
    torch.testing.assert_close(alone.mean[1], x[1, :1])
    torch.testing.assert_close(alone.variance[2], torch.ones(1, dtype=F64))  # no factor at all


def mixture(requires_grad=False):
    locs = t([[-1.0], [0.5], [2.0]]).requires_grad_(requires_grad)
    parts = [dist.Normal(locs[k], t([s])).to_event(1) for k, s in enumerate((0.5, 1.0, 0.3))]
    return locs, ExpertMixture(parts, t([0.0, 0.0, -math.inf]))


def test_the_density_of_a_mixture_is_exact_and_its_draws_have_it():
    _, fn = mixture()
    z = torch.linspace(-8, 8, 4001, dtype=F64)[:, None]
    by_hand = (dist.Normal(-1.0, 0.5).log_prob(z).exp() / 2 + dist.Normal(0.5, 1.0).log_prob(z).exp() / 2).log()
    torch.testing.assert_close(fn.log_prob(z), by_hand[:, 0])
    assert float((fn.log_prob(z).exp() * 16 / 4000).sum()) == pytest.approx(1)
    torch.manual_seed(0)
    draws = fn.rsample((40000,))
    assert draws.shape == (40000, 1)
    variance = (0.25 + 1.0 + 1.0 + 0.25) / 2 - 0.0625
    assert float(fn.mean) == pytest.approx(-0.25)
    assert float(draws.mean()) == pytest.approx(-0.25, abs=4 * (variance / 40000) ** 0.5)
    assert float(draws.var()) == pytest.approx(variance, rel=0.05)
    wide = fn.expand((5,))
    assert wide.rsample((2,)).shape == (2, 5, 1)
    assert wide.log_prob(torch.zeros(5, 1, dtype=F64)).shape == (5,)


def test_the_gradient_through_a_draw_is_that_of_the_expectation():
    """E[z^2] = sum_k w_k (m_k^2 + s_k^2), so that its gradient in m_k is 2 w_k m_k."""
    locs, fn = mixture(requires_grad=True)
    torch.manual_seed(0)
    fn.rsample((200000,)).square().mean().backward()
    assert locs.grad[:, 0].tolist() == pytest.approx([-1.0, 0.5, 0.0], abs=0.02)


def rows_with_holes(data):
    rows = {n: v.clone() for n, v in data.test.batch(slice(0, 4)).items()}
    rows["a"][0], rows["b"][1], rows["y"][2] = torch.nan, torch.nan, -1
    for name in rows:
        rows[name][3] = -1 if name == "y" else torch.nan
    return rows


@pytest.mark.parametrize("experts", EXPERTS)
def test_the_density_of_a_guide_of_experts_is_that_of_its_parts(data, experts):
    """log q(z, w | x) by hand from the heads of the fields, for rows that lack one field each, or all."""
    torch.manual_seed(0)
    guide = MeanField(Multimodal(data, private=2, latent_dim=3, hidden=(8,)), experts=experts, hidden=(8,))
    rows = rows_with_holes(data)
    values = {"z": torch.randn(4, 3), "w_a": torch.randn(4, 2), "w_b": torch.randn(4, 2)}
    features = guide.encoder(rows)
    parts = features[:, : sum(guide.encoder.sizes)].split(guide.encoder.sizes, -1)
    seen = torch.tensor([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    assert torch.equal(features[:, -3:] > 0, seen)
    standard = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    experts_of_z = [head(parts[m]) for m, head in enumerate(guide.heads[0].each)]
    total = []
    for row in range(4):
        here = [experts_of_z[m] for m in range(3) if seen[row, m]]
        here = [dist.Normal(e.mean[row], e.base_dist.scale[row]).to_event(1) for e in here]
        flags = [torch.tensor(True)] * len(here)
        if experts == "product" or not here:
            log_q = (
                product(here, flags, prior=True).log_prob(values["z"][row])
                if here
                else standard.log_prob(values["z"][row])
            )
        elif experts == "mixture":
            log_q = torch.stack([e.log_prob(values["z"][row]) for e in here]).logsumexp(0) - math.log(len(here))
        else:
            pairs = product(here, flags, prior=False)
            log_q = torch.stack([e.log_prob(values["z"][row]) for e in (*here, pairs)]).logsumexp(0) - math.log(3)
        total.append(log_q)
        for number, name in ((1, "w_a"), (2, "w_b")):
            head, m = guide.heads[number].each[0], number - 1
            own = head(torch.cat([parts[m], values["z"]], -1))
            if experts == "product":
                own = product([own], [seen[:, m]], prior=True)
            alone = (
                own.log_prob(values[name])[row]
                if seen[row, m]
                else dist.Normal(0.0, 1.0).log_prob(values[name][row]).sum()
            )
            total[-1] = total[-1] + alone
    torch.testing.assert_close(guide.log_prob(values, **rows), torch.stack(total), atol=1e-4, rtol=1e-4)


def test_private_latents_see_their_own_field_alone(data):
    torch.manual_seed(0)
    guide = FullRank(Multimodal(data, private=2, latent_dim=3, hidden=(8,)), experts="mixture", hidden=(8,))
    assert [(b.sites, b.given, guide.tied[i]) for i, b in enumerate(guide.drawn)] == [
        (("z",), (), (0, 1, 2)),
        (("w_a",), ("z",), (0,)),
        (("w_b",), ("z",), (1,)),
    ]
    rows = data.test.batch(slice(0, 4))
    other = rows | {"b": rows["b"] + 1.0}
    values = {"z": torch.randn(4, 3), "w_a": torch.randn(4, 2), "w_b": torch.randn(4, 2)}
    moved = [
        guide.heads[i](torch.cat([guide.encoder(r), values["z"]], -1)).log_prob(values["w_a"])
        for r in (rows, other)
        for i in (1,)
    ]
    assert torch.equal(*moved)


def test_what_is_asked_of_a_mopoe_guide_comes_from_all_fields_of_a_row_together(data):
    """Means are those of the product of the fields of a row; the density, by which draws are weighed, the mixture's."""
    torch.manual_seed(0)
    model = Multimodal(data, private=0, latent_dim=3, hidden=(8,))
    guide = MeanField(model, experts="mopoe", hidden=(8,))
    rows = rows_with_holes(data)
    features = guide.encoder(rows)
    parts = features[:, : sum(guide.encoder.sizes)].split(guide.encoder.sizes, -1)
    experts = [head(parts[m]) for m, head in enumerate(guide.heads[0].each)]
    seen = torch.tensor([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    together = product(experts, [*seen.T], prior=False)
    torch.testing.assert_close(ppl_vae.encode(model, guide, rows).values["z"], together.mean)
    draws = ppl_vae.encode(model, guide, rows, draws=4000).values["z"]
    error = together.stddev / 4000**0.5
    assert bool(((draws.mean(0) - together.mean).abs() < 4.5 * error).all())
    assert bool(((draws.std(0) / together.stddev - 1).abs() < 4.5 / 8000**0.5).all())
    before = guide.log_prob({"z": together.mean}, **rows)
    with of_all_given():
        assert not torch.allclose(guide.log_prob({"z": together.mean}, **rows), before)
    assert torch.equal(guide.log_prob({"z": together.mean}, **rows), before)


@pytest.mark.parametrize("experts", [None, "mopoe"])
def test_fields_hidden_in_training_may_be_missing_later_and_the_bound_stays_one(linear, experts):
    """The mean bound of guides that see less is below the exact log p of whole rows; evaluation hides nothing."""
    model, data = linear
    torch.manual_seed(0)
    guide = MeanField(model, data, experts=experts, hidden=(16,), hide=0.5).to(F64)
    rows = data.test.batch(slice(0, 10))
    flat = torch.cat([v.flatten(1) for v in rows.values()], 1)
    mean, covariance = exact(model, ("a", "b"))
    log_p = dist.MultivariateNormal(mean, covariance).log_prob(flat).mean()
    assert guide.encoder.training
    many = {n: v.repeat(100, *(1,) * (v.dim() - 1)) for n, v in rows.items()}  # a hundred ways of hiding each
    bounds = -t([IWAE(4).loss(model, guide, **many) for _ in range(4)]) / 1000
    assert float(bounds.mean()) < float(log_p) + 0.05
    guide.eval()
    assert torch.equal(guide.encoder(rows), guide.encoder(rows))
    one = {"a": rows["a"]}
    found = ppl_vae.evaluate(model, guide, one, particles=4000)
    mean, covariance = exact(model, ("a",))
    log_p = dist.MultivariateNormal(mean, covariance).log_prob(rows["a"].flatten(1))
    assert bool(((found.log_evidence - log_p).abs() < 5 * found.log_evidence_se + 1e-3).all())


def test_each_field_is_hidden_as_often_as_said_and_never_all_of_a_row():
    fields = [Field("a", "real", (2,)), Field("y", "categorical", (), 3), Field("b", "unit", (2, 2))]
    torch.manual_seed(0)
    batch = {"a": torch.ones(40000, 2), "y": torch.ones(40000, dtype=torch.long), "b": torch.ones(40000, 2, 2)}
    shown = Hiding(fields, 0.4)(batch)
    gone = torch.stack([shown["a"].isnan().all(1), shown["y"] < 0, shown["b"].isnan().flatten(1).all(1)])
    assert torch.equal(gone[0], shown["a"].isnan().any(1))
    assert not bool(gone.all(0).any())
    share = (0.4 - 0.4**3) * torch.ones(3)  # rows that would lose all keep all
    assert bool(((gone.double().mean(1) - share).abs() < 4 * (share * (1 - share) / 40000).sqrt()).all())
    assert torch.equal(batch["a"], torch.ones(40000, 2))


TRAINED_WITH = {"elbo": ELBO(), "iwae": IWAE(3), "dreg": IWAE(3, estimator="dreg")}


@pytest.mark.parametrize(
    ("experts", "bound"),
    [
        pytest.param(experts, bound, id=f"{experts}-{name}", marks=() if i == j else pytest.mark.slow)
        for i, experts in enumerate(EXPERTS)
        for j, (name, bound) in enumerate(TRAINED_WITH.items())
    ],
)
def test_every_bound_trains_every_kind_of_experts_from_whole_rows_for_rows_with_holes(data, experts, bound):
    torch.manual_seed(0)
    model = Multimodal(data, private=2, latent_dim=2, hidden=(16,))
    guide = MeanField(model, experts=experts, hidden=(16,))
    result = ppl_vae.fit(model, guide, data, bound=bound, epochs=10, lr=0.03, compile="off")
    assert result.history[-1]["train"] > result.history[0]["train"] + 1
    found = ppl_vae.evaluate(model, guide, data.test, particles=100)
    assert bool((found.elbo < found.log_evidence + 1e-3).all())
    assert bool(ppl_vae.evaluate(model, guide, rows_with_holes(data), particles=20).log_evidence.isfinite().all())
    assert ppl_vae.predict(model, guide, {"b": data.test["b"]}, "y", draws=8).probs.shape == (len(data.test), 3)


def test_labels_drawn_by_experts():
    """A label that is latent where it is missing: logits add up, or probabilities are averaged."""
    data = ppl_vae.load("digits", labels=100)
    rows = data.train.batch(slice(0, 6))
    for how in EXPERTS:
        torch.manual_seed(0)
        model = M2(data, latent_dim=2, hidden=(8,))
        guide = MeanField(model, experts=how, hidden=(8,))
        logits = guide.heads[0](guide.encoder(rows))
        alone = guide.heads[0].each[0](guide.encoder(rows)[:, : guide.encoder.sizes[0]])
        torch.testing.assert_close(logits.softmax(-1), alone.softmax(-1))
        assert ppl_vae.check(model, guide, data) == []


@pytest.mark.parametrize(
    "family", [pytest.param(IAF, marks=pytest.mark.slow), Spline, FullRank, MeanField, partial(IAF, flows=1)]
)
def test_a_mixture_is_of_any_family_with_a_density(data, family):
    torch.manual_seed(0)
    model = Multimodal(data, private={"a": 1}, latent_dim=2, hidden=(8,))
    guide = family(model, experts="mixture", hidden=(8,))
    ppl_vae.fit(model, guide, data, epochs=1, compile="off")
    assert bool(ppl_vae.evaluate(model, guide, {"a": data.test["a"]}, particles=5).log_evidence.isfinite().all())


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda data: Multimodal(data, private={"c": 2}), "unknown field 'c'"),
        (lambda data: Multimodal(data, private=-1), "private must be a whole number of at least 0"),
        (lambda data: Multimodal(data, likelihoods={"c": "normal"}), "unknown field 'c'"),
        (lambda data: Multimodal(data, decoders={"c": "conv"}), "unknown field 'c'"),
        (lambda data: Multimodal(ppl_vae.load(torch.randn(9, 2))), "Multimodal is of several fields"),
        (lambda data: MeanField(Multimodal(data), experts="moe"), "unknown value of experts 'moe'"),
        (lambda data: FullRank(Multimodal(data), experts="product"), "multiplies normals"),
        (lambda data: IAF(Multimodal(data), experts="mopoe"), "multiplies normals"),
        (lambda data: Point(Multimodal(data), experts="mixture"), "drawn from a point"),
        (lambda data: MeanField(CVAE(data, given="y"), experts="product"), "'y' is a condition"),
        (lambda data: MeanField(Multimodal(data), hide=1.0), r"in \[0, 1\), got 1.0"),
        (lambda data: MeanField(Multimodal(data), hide=-0.1), "hide"),
        (lambda data: MeanField(VAE(ppl_vae.load(torch.randn(20, 2))), hide=0.5), "the encoder reads 1: leave it out"),
        (lambda data: MeanField(Multimodal(data), hide=0.5, encoder=torch.nn.Identity()), "hide is of the default"),
        (lambda data: MeanField(Multimodal(data), experts="product", encoder=torch.nn.Identity()), "dict of modules"),
    ],
)
def test_what_cannot_be_put_together_is_refused(data, make, words):
    with pytest.raises(UserError, match=words):
        make(data)


def test_a_family_without_densities_of_foreign_draws_is_refused(data):
    with pytest.raises(UserError, match="without an inverse"):
        Planar(Multimodal(data), experts="mixture")
