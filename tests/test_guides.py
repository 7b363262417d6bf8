"""Properties of every generated guide over programs with latents of every kind."""

from __future__ import annotations

import copy
import math
import re
import textwrap
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import (
    GUIDES,
    PRECISION,
    PROGRAMS,
    X,
    alike_measurements,
    fields_of,
    gaussian_elbo,
    gaussian_evidence,
    items,
    label_and_style,
    label_then_two,
    latent_then_label,
    linear_gaussian,
    posterior_mean,
    two_layers,
    with_globals,
    within_rows,
)
from pyro import poutine

import ppl_vae
from ppl_vae import UserError, log_weights
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.checks.reading import read_pair
from ppl_vae.data import Field, as_split
from ppl_vae.guides import IAF, FullRank, MeanField, Refined, Sylvester
from ppl_vae.nn.inputs import ConvolutionalInput, SetInput, StandardisedInput
from ppl_vae.nn.sets import SetEncoder
from ppl_vae.programs.program import Pair
from ppl_vae.programs.structure import sample_sites

by_guide = pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
by_program = pytest.mark.parametrize("model", PROGRAMS.values(), ids=PROGRAMS)

# A family knows its features and the length of its vector, no site: every family with some programs, some with all. The
# other combinations are slow tests.
FAMILIES = {"MeanField", "FullRank", "IAF"}
PARTS = {"real", "positive vector", "label, then two", "within rows", "shared by all rows"}


def is_fast(family: str, program: str) -> bool:
    """Every program meets the three families, every family the programs that differ most."""
    if family == "CNF":  # solves a differential equation for every density
        return program in {"real", "label, then two"}
    return family in FAMILIES or program in PARTS


by_guide_and_program = pytest.mark.parametrize(
    ("guide", "model"),
    [
        pytest.param(guide, model, id=f"{name}-{part}", marks=() if is_fast(name, part) else pytest.mark.slow)
        for name, guide in GUIDES.items()
        for part, model in PROGRAMS.items()
    ],
)


def rows(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(1))


def posterior_sites(guide, fields):
    trace = poutine.trace(guide).get_trace(**fields)
    return {n: s for n, s in sample_sites(trace).items() if not s["is_observed"]}


@by_program
def test_a_copy_of_a_guide_draws_from_the_same_distributions(model):
    fields = fields_of(model)
    guide = MeanField(model, fields)
    sites, copies = (posterior_sites(g, fields) for g in (guide, copy.deepcopy(guide)))
    assert {n: type(s["fn"]) for n, s in sites.items()} == {n: type(s["fn"]) for n, s in copies.items()}


@by_guide_and_program
def test_a_guide_of_any_family_fits_its_model(guide, model):
    """The pair is clean, draws are in the support, every parameter learns, every latent depends on its row alone."""
    fields = fields_of(model)
    made = guide(model, fields, hidden=(8,))
    reading = read_pair(Pair(model, made), as_split(fields))
    assert list(reading.findings) == []
    structure = reading.structure
    draws_are_in_the_support(model, made, fields)
    every_parameter_has_a_gradient(Pair(model, made), structure, fields)
    every_latent_depends_on_its_row_alone(made, structure, fields)


def draws_are_in_the_support(model, made, fields):
    guided = poutine.trace(made).get_trace(**fields)
    truth = sample_sites(poutine.trace(poutine.replay(model, guided)).get_trace(**fields))
    for name, site in posterior_sites(made, fields).items():
        assert name in made.sites or site["infer"].get("is_auxiliary") or name in made.shared.sites
        assert torch.isfinite(site["fn"].log_prob(site["value"])).all()
        if name in truth:
            assert truth[name]["fn"].support.check(site["value"]).all()


def every_parameter_has_a_gradient(pair, structure, fields):
    bound = ELBO(4)
    bound.surrogate(bound.weigh(pair, structure, fields)).sum().backward()
    for name, parameter in pair.guide.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def every_latent_depends_on_its_row_alone(made, structure, fields):
    """Under one seed a row has the same draw whatever its neighbours are, and another one in another row's place."""

    def drawn(index):
        torch.manual_seed(0)
        found = {}
        for name, site in posterior_sites(made, {n: v[index] for n, v in fields.items()}).items():
            label = getattr(site["fn"], "logits", None)
            value = site["value"] if label is None else label
            if name not in structure.global_latents:
                dim = structure.dim - (
                    site["fn"].event_dim
                    if label is None
                    else 1
                    if site["fn"].event_dim or isinstance(site["fn"], dist.Categorical)
                    else 0
                )
                found[name] = value.movedim(dim, 0)
        return found

    first, second = drawn([2, 2, 2]), drawn([2, 3, 2])
    for name in first:
        # 1e-4: the steps with which a continuous flow is integrated depend on all rows, within its tolerance
        torch.testing.assert_close(first[name][[0, 2]], second[name][[0, 2]], atol=1e-4, rtol=1e-4)
        assert (first[name][1] - second[name][1]).abs().max() > 1e-6, f"q({name} | x) is the same for every row"


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_labels_in_some_rows_train_one_guide(name):
    guide = GUIDES[name]
    x, y = rows(8), torch.tensor([0, -1, 2, 3, -1, -1, 1, -1])
    data = ppl_vae.load({"x": x.numpy(), "y": y.numpy()}, missing="allow", test=0, validation=0)
    made = guide(label_and_style, data, hidden=(8,))
    assert made.sites.keys() == {"y", "z"}
    result = ppl_vae.fit(label_and_style, made, data, epochs=3, batch_size=4)
    assert math.isfinite(result.history[-1]["train"])
    known = log_weights(label_and_style, made, {"x": x, "y": y}, particles=20)
    assert torch.isfinite(known.log_weight).all()


@by_guide
def test_missing_entries_reach_the_encoder_as_a_mask_and_a_short_last_batch_trains(guide):
    x = rows(17)
    x[::3, 1] = torch.nan
    data = ppl_vae.load(x, missing="allow", test=0, validation=0)
    model = PROGRAMS["vector"]
    made = guide(model, data, hidden=(8,))
    assert made.encoder.input_of("x").size == 6
    result = ppl_vae.fit(model, made, data, epochs=1, batch_size=6)
    assert len(result.history) == 1
    assert all(math.isfinite(r["train"]) for r in result.history)
    assert all(torch.isfinite(p).all() for p in made.parameters())


def test_what_cannot_be_represented_is_refused_by_name():
    def endless(x=None):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Poisson(2.0))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def subsampled(x=None):
        with pyro.plate("data", len(x)), pyro.plate("inner", 30, subsample_size=3, dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def shared_label(x=None):
        y = pyro.sample("y", dist.Categorical(torch.ones(3)))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    with pytest.raises(UserError, match=r"'c' is Poisson.*by hand"):
        MeanField(endless, torch.zeros(4))
    with pytest.raises(UserError, match=r"'z' is in plate 'inner', which is subsampled"):
        MeanField(subsampled, rows())
    with pytest.raises(UserError, match=r"'y' is Categorical shared by all rows"):
        MeanField(shared_label, torch.zeros(4))
    with pytest.raises(UserError, match="has not seen data"):
        MeanField(endless)(x=torch.zeros(4))


def test_wrong_options_are_refused_by_name():
    model = PROGRAMS["vector"]
    with pytest.raises(UserError, match="unknown latent site or option 'hiden': did you mean 'hidden'"):
        MeanField(model, rows(), hiden=(8,))
    with pytest.raises(UserError, match=r"the family of 'z' must be a guide class.*got int"):
        MeanField(model, rows(), z=3)
    with pytest.raises(UserError, match="unknown value of conditioning"):
        MeanField(model, rows(), conditioning="structurd")
    with pytest.raises(UserError, match="init_scale must be positive"):
        MeanField(model, rows(), init_scale=0.0)
    with pytest.raises(UserError, match="flows must be a whole number of at least 1, got 0"):
        IAF(model, rows(), flows=0)
    with pytest.raises(UserError, match="unknown basis 'housholder': did you mean 'householder'"):
        Sylvester(model, rows(), basis="housholder")
    with pytest.raises(UserError, match=r"encoder must be a module.*features \[4, F\]; for x \(4, 3\) it fails"):
        MeanField(model, rows(), encoder=torch.nn.Linear(5, 2))
    with pytest.raises(UserError, match="Refined takes a generated guide"):
        Refined(lambda x: None)


# -- order and conditioning --------------------------------------------------------------------------------------


def blocks(model, guide=MeanField, **options):
    fields = fields_of(model)
    return [(b.sites, b.given) for b in guide(model, fields, hidden=(4,), **options).blocks]


def test_the_guide_follows_the_dependencies_of_the_model():
    assert blocks(two_layers) == [(("top",), ()), (("z",), ("top",))]
    assert blocks(two_layers, FullRank) == [(("top", "z"), ())]
    assert blocks(label_then_two) == [
        (("y",), ()),
        (("scale",), ("y",)),
        (("shift",), ("scale",)),
    ]  # x sees the label through the scale alone
    assert blocks(label_then_two, FullRank) == [(("y",), ()), (("scale", "shift"), ("y",))]
    assert blocks(latent_then_label, FullRank) == [(("z", "w"), ()), (("y",), ("z", "w"))]
    assert blocks(label_then_two, conditioning="independent") == [(("y",), ()), (("scale",), ()), (("shift",), ())]
    # within a measurement the label comes first, as it does within a row
    assert blocks(within_rows) == [(("z",), ()), (("flag",), ("z",)), (("u",), ("z", "flag"))]
    assert blocks(with_globals) == [(("z",), ("scale", "loading"))]


def test_causes_of_different_observations_stay_apart_and_those_of_one_are_tied():
    def apart(x=None):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("first", dist.Normal(a, 1.0), obs=x[:, 0])
            pyro.sample("second", dist.Normal(b, 1.0), obs=x[:, 1])

    def tied(x=None):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("first", dist.Normal(a + b, 1.0), obs=x[:, 0])

    assert blocks(apart) == [(("a",), ()), (("b",), ())]
    assert blocks(tied) == [(("a",), ()), (("b",), ("a",))]


def test_a_site_can_have_a_family_of_its_own():
    model = label_then_two
    made = MeanField(model, rows(), hidden=(4,), y=lambda f, n: torch.nn.Sequential(torch.nn.Linear(f, n)), shift=IAF)
    assert [type(h).__name__ for h in made.heads] == ["Sequential", "DiagonalNormal", "Flowing"]
    assert ppl_vae.check(model, made, rows()) == []
    joint = FullRank(model, rows(), hidden=(4,), families={"shift": IAF(flows=1)})
    assert [b.sites for b in joint.blocks] == [("y",), ("scale",), ("shift",)]
    assert ppl_vae.check(model, joint, rows()) == []


# -- encoders ----------------------------------------------------------------------------------------------------


def test_the_encoder_fits_the_shape_of_the_fields():
    def picture(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = z.sum(-1)[..., None, None].expand(*z.shape[:-1], 16, 16)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(2), obs=x)

    made = MeanField(picture, torch.randn(10, 16, 16))
    assert isinstance(made.encoder.input_of("x"), ConvolutionalInput)
    assert ppl_vae.check(picture, made, torch.randn(10, 16, 16)) == []
    assert isinstance(MeanField(alike_measurements, rows()).encoder, SetEncoder)
    assert not isinstance(MeanField(items, rows()).encoder, SetEncoder)  # difficulties differ
    assert isinstance(MeanField(within_rows, rows()).encoder, SetEncoder)


def test_measurements_with_parameters_of_their_own_are_not_taken_to_be_alike():
    def skills(x=None):
        easy = pyro.param("easy", torch.zeros(3, 1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("item", 3, dim=-2):
                pyro.sample("x", dist.Normal(z + easy, 1.0), obs=x.T)

    assert isinstance(MeanField(skills, rows()).encoder.input_of("x"), StandardisedInput)


@pytest.mark.parametrize("shape", [(3, 16, 20), (16, 20, 3), (16, 20)])
def test_convolutions_read_channels_on_either_side_and_mark_missing_pixels(shape):
    field = Field("x", "real", shape, missing=True)
    made = ConvolutionalInput(field)
    x = torch.randn(2, 5, *shape)
    x[0, 0] = torch.nan
    assert made(x).shape == (2, 5, 32 * 4 * 5)
    assert torch.isfinite(made(x)).all()
    assert torch.allclose(made(x)[1, 2], made(x[1, 2]), atol=1e-5)
    planes = made.flat(x[1, 2])
    if made.last:
        assert torch.equal(planes.unflatten(-1, (2, *shape[:2], 3)).movedim(-1, -3)[0, 1], x[1, 2][..., 1])


def test_a_user_may_bring_an_encoder():
    model = PROGRAMS["vector"]
    made = MeanField(model, rows(), encoder=torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh()))
    assert made.encoder.size == 5
    assert ppl_vae.check(model, made, rows()) == []


# -- noise -------------------------------------------------------------------------------------------------------


def test_noise_of_the_stated_deviation_is_added_in_training_to_what_was_observed():
    for layer, shape in ((StandardisedInput, (200,)), (SetInput, (200, 1))):
        x = 5 + 3 * torch.randn(300, *shape, generator=torch.manual_seed(0))
        x[:, 0] = torch.nan
        field = Field("x", "real", shape, missing=True)
        split = ppl_vae.data.Split(ppl_vae.data.Schema((field,)), "rows", {"x": x})
        made, plain = layer(field, split, noise=0.3), layer(field, split)
        if layer is SetInput:
            made.load_state_dict(plain.state_dict())
            assert not torch.equal(made(x), plain(x))
        else:
            added = made(x) - plain(x)
            assert (added[:, :1] == 0).all()
            assert (added[:, 200:] == 0).all()  # the mask
            seen = added[:, 1:200]
            assert abs(float(seen.mean())) < 4 * 0.3 / math.sqrt(seen.numel())
            assert abs(float(seen.std()) - 0.3) < 4 * 0.3 / math.sqrt(2 * seen.numel())
        assert torch.equal(made.eval()(x), plain.eval()(x))


def test_a_guide_with_noise_gives_weights_that_average_to_the_evidence():
    """E exp(log w) = p(x) under the guide of each noisy row, so that its ELBO stays below the evidence."""
    torch.manual_seed(0)
    made = MeanField(linear_gaussian, X.float(), hidden=(4,), noise=0.5).double()
    ppl_vae.fit(linear_gaussian, made, X, epochs=100, lr=1e-2)
    exact = gaussian_evidence(X)
    noisy = made.train()
    with torch.no_grad():
        log_w = torch.stack([ppl_vae.log_weights(linear_gaussian, noisy, {"x": X}, 200).log_weight for _ in range(40)])
    again = log_w.mean(1)
    assert (again.std(0) > 0.01).all()  # every call reads other noise
    ratio = (log_w - exact).exp().mean(1)
    assert ((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / math.sqrt(40)).all()
    assert (again.mean(0) < exact).all()
    found = ppl_vae.evaluate(linear_gaussian, noisy, X, particles=2000)
    assert (found.elbo > again.mean(0) - 0.02).float().mean() > 0.8  # evaluation is without noise


def test_noise_that_cannot_be_is_refused():
    for options, words in (
        ({"noise": -1.0}, "noise must be at least 0 and finite"),
        ({"noise": 0.5, "encoder": torch.nn.Linear(3, 5)}, "FieldEncoder"),
    ):
        with pytest.raises(UserError, match=words):
            MeanField(PROGRAMS["vector"], rows(), **options)


# -- refined -----------------------------------------------------------------------------------------------------


def test_refining_closes_the_gap_that_the_encoder_leaves():
    """An untrained encoder, and the closed form of the best mean-field normal of every row."""
    torch.manual_seed(0)
    made = MeanField(linear_gaussian, X.float(), hidden=(4,)).double()
    refined = Refined(made, steps=150, lr=0.1, particles=64)
    elbo = ppl_vae.evaluate(linear_gaussian, refined, X, particles=4000).elbo
    best = gaussian_elbo(X, posterior_mean(X), PRECISION.diagonal() ** -0.5)
    assert (elbo < best + 0.02).all()
    torch.testing.assert_close(elbo, best, atol=0.03, rtol=0)


def test_a_guide_that_was_trained_on_is_refined_anew():
    """A fused optimizer changes parameters without raising their version."""
    x = rows()
    made = MeanField(PROGRAMS["vector"], x, hidden=(4,))
    refined = Refined(made, steps=5, particles=2)
    first = refined._offsets({"x": x})
    assert refined._offsets({"x": x}) is first
    ppl_vae.fit(PROGRAMS["vector"], made, x, epochs=2)
    assert refined._offsets({"x": x}) is not first


def test_refining_works_inside_every_bound_and_leaves_generators_alone():
    x = rows()
    made = MeanField(label_then_two, x, hidden=(4,))
    refined = Refined(made, steps=3, particles=2)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    refined._offsets({"x": x})
    assert torch.equal(before, torch.random.get_rng_state())
    assert ppl_vae.check(label_then_two, refined, x) == []
    for bound in (ELBO(3), IWAE(3)):
        assert math.isfinite(float(bound.loss(label_then_two, refined, x=x)))


# -- joint draws in the engine -----------------------------------------------------------------------------------


def test_a_joint_draw_has_one_rate():
    x = rows()
    w = log_weights(two_layers, FullRank(two_layers, x, hidden=(4,)), x, particles=5)
    assert w.by_site.keys() == {"top,z"}
    torch.testing.assert_close(w.by_site["top,z"], w.rate)
    one_by_one = log_weights(two_layers, MeanField(two_layers, x, hidden=(4,)), x, particles=5)
    assert one_by_one.by_site.keys() == {"top", "z"}


def test_pyros_elbo_of_a_joint_draw_is_ours_and_its_mean_field_elbo_is_refused():
    x = rows()
    made = FullRank(label_then_two, x, hidden=(4,))
    ours = ELBO(2000).loss(label_then_two, made, x=x)
    pyros = pyro.infer.TraceEnum_ELBO(2000, vectorize_particles=True, max_plate_nesting=1)
    marked = pyro.infer.config_enumerate(made)
    assert float(ours) == pytest.approx(pyros.loss(label_then_two, marked, x=x), rel=0.02)
    with pytest.raises(UserError, match=r"draws top,z together.*use bound=.elbo."):
        ppl_vae.fit(
            two_layers, FullRank(two_layers, x, hidden=(4,)), x, bound=pyro.infer.TraceMeanField_ELBO(), epochs=1
        )


def test_particles_of_a_summed_label_are_compared_with_each_on_its_own():
    """A guide that mixes its particles is found out, also where a label is summed out before it."""

    def mixing(x=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(len(x), 2)))
            z = pyro.sample("z", dist.Normal(1.0 * y + x.mean(), 1.0))
            pyro.sample("w", dist.Normal(z.mean(), 1.0))

    def model(x=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(2)))
            z = pyro.sample("z", dist.Normal(1.0 * y, 1.0))
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal((z + w).unsqueeze(-1).expand(*z.shape, 3), 1.0).to_event(1), obs=x)

    findings = ppl_vae.check(model, mixing, rows())
    assert any("do not broadcast over particles" in f.problem for f in findings)


def test_the_family_of_the_contributing_page_works():
    page = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"
    block = next(b for b in re.findall(r"   ```python\n(.*?)   ```", page.read_text(), re.S) if "class Student" in b)
    space = {"__name__": "student"}
    exec(compile(textwrap.dedent(block), "CONTRIBUTING.md", "exec"), space)
    for model in (label_then_two, within_rows, PROGRAMS["simplex"]):
        made = space["Student"](model, rows(), hidden=(4,))
        assert ppl_vae.check(model, made, rows()) == []
