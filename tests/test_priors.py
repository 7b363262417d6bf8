"""Properties of every prior: a proper density, its draws, its gradients, the evidence under it."""

from __future__ import annotations

import copy
import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import CONDITIONAL_PRIORS, LOWER_BOUNDS, PRIORS
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.data import Field, Schema
from ppl_vae.guides import MAF, MeanField
from ppl_vae.models import VAE
from ppl_vae.priors import Diagonal, Exemplar, LabelConditional, Mixture, StandardNormal, VampPrior
from ppl_vae.priors.normal_mixture import NormalMixture

by_prior = pytest.mark.parametrize("make", PRIORS.values(), ids=PRIORS)
by_density = pytest.mark.parametrize(
    "make", [*PRIORS.values(), *CONDITIONAL_PRIORS.values()], ids=[*PRIORS, "p(z | y)"]
)
by_size = pytest.mark.parametrize("size", [1, 2])
every_prior_once = pytest.mark.parametrize(  # in one of two dimensions; the other one is a slow test
    ("make", "size"),
    [
        pytest.param(make, size, id=f"{name}-{size}", marks=() if i % 2 + 1 == size else pytest.mark.slow)
        for i, (name, make) in enumerate(PRIORS.items())
        for size in (1, 2)
    ],
)


def rows(count=60, columns=3):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.0, 2.0, -1.0])


def shaken(module, by=0.25):
    """As after some training: no parameter where it began."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module


def pair_of(make, size=2, data=None):
    torch.manual_seed(0)
    data = ppl_vae.load(rows(), test=0, validation=0) if data is None else data
    model = VAE(data, prior=make(), latent_dim=size, hidden=(8,))
    return model, MeanField(model, hidden=(8,))


def density_of(make, size=2):
    """A shaken density in float64, in eval mode."""
    if isinstance(make(), LabelConditional):
        return shaken(make().build(size)).double()(torch.tensor(1))
    model, guide = pair_of(make, size)
    shaken(guide), shaken(model.prior)
    guide.double()
    return model.double().eval().prior()


def grid_of(size, end=50.0, points=None):
    """Points of a square grid [n, size], and the volume that each stands for."""
    points = points or {1: 40_001, 2: 601}[size]
    axis = torch.linspace(-end, end, points, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * size).reshape(-1, size)
    return grid, float(axis[1] - axis[0]) ** size


@functools.cache
def quadrature_of(make, size):
    """A density, the points of a grid, and the mass that each of them stands for."""
    fn = density_of(make, size)
    grid, volume = grid_of(size)
    log_p = fn.log_prob(grid)
    assert log_p.dtype == torch.float64
    return fn, grid, log_p.exp() * volume


# -- a proper density ----------------------------------------------------------------------------------------


@by_density
@by_size
@torch.no_grad()
def test_a_density_integrates_to_one(make, size):
    assert float(quadrature_of(make, size)[2].sum()) == pytest.approx(1.0, abs=2e-3)


@by_density
@torch.no_grad()
def test_draws_are_those_of_the_density(make):
    """E over draws of r(z) / p(z) is 1 for a narrower density r, and the moments are those of the quadrature."""
    fn, grid, mass = quadrature_of(make, 2)
    z = fn.sample((20_000,))
    mean = (mass.unsqueeze(-1) * grid).sum(0)
    spread = (mass.unsqueeze(-1) * (grid - mean).square()).sum(0).sqrt()
    for power in (1, 2):
        found = ((z - mean) / spread).pow(power)
        error = (found.mean(0) - (power - 1)) / (found.std(0) / len(z) ** 0.5)
        assert error.abs().max() < 4
    narrow = dist.Normal(mean, spread / 3).to_event(1)
    ratio = (narrow.log_prob(z) - fn.log_prob(z)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(z) ** 0.5


@by_density
@torch.no_grad()
def test_a_plate_and_particles_broadcast(make):
    fn = density_of(make)
    assert fn.event_shape == (2,)
    assert fn.has_enumerate_support is False
    with pyro.plate("particles", 5, dim=-2), pyro.plate("data", 7):
        z = pyro.sample("z", fn)
    assert z.shape == (5, 7, 2)
    wide = fn.expand([7])
    assert wide.batch_shape == (7,)
    log_p = wide.log_prob(z)
    assert log_p.shape == (5, 7)
    torch.testing.assert_close(log_p[3, 4], fn.log_prob(z[3, 4]))
    torch.testing.assert_close(wide.expand([5, 7]).log_prob(z), log_p)


def test_a_mixture_is_that_of_torch():
    logits, loc, scale = torch.randn(6), torch.randn(6, 3), torch.rand(6, 3) + 0.01
    each = dist.Normal(loc, scale).to_event(1)
    expected = dist.MixtureSameFamily(dist.Categorical(logits=logits), each)
    z = torch.cat([loc, 3 * torch.randn(50, 3)]).double()
    found = NormalMixture(logits.double(), loc.double(), scale.double()).log_prob(z)
    torch.testing.assert_close(found, expected.log_prob(z), rtol=1e-5, atol=1e-5)
    single = NormalMixture(logits, loc, scale).log_prob(z.float())
    torch.testing.assert_close(single, found.float(), rtol=1e-5, atol=1e-5)


# -- in a pair -----------------------------------------------------------------------------------------------


@by_prior
def test_a_pair_is_clean(make):
    model, guide = pair_of(make)
    assert ppl_vae.check(model, guide, rows()) == []
    names = [n for part in (model, guide) for n, _ in part.named_parameters()]
    tensors = {id(p) for part in (model, guide) for p in part.parameters()}
    assert len(tensors) == len(names), "a parameter is registered twice"


@by_prior
@pytest.mark.parametrize("bound", [ELBO(2), IWAE(4), IWAE(4, estimator="dreg"), ELBO(2, estimator="stl")], ids=repr)
def test_every_parameter_gets_a_gradient(make, bound):
    model, guide = pair_of(make)
    for part in (model.prior, model.decoder, guide):  # networks beside linear maps are 0 at first
        shaken(part, 0.1)
    bound.differentiable_loss(model, guide, x=rows(20)).backward()
    for part in (model, guide):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


@by_prior
def test_any_bound_can_be_taken(make):
    model, guide = pair_of(make)
    for name, bound in LOWER_BOUNDS.items():
        loss = bound(4).differentiable_loss(model, guide, x=rows(20))
        loss.backward()
        assert torch.isfinite(loss), name
    for bound in (Trace_ELBO(), TraceMeanField_ELBO()):
        assert math.isfinite(ppl_vae.fit(model, guide, rows(), bound, epochs=1).history[0]["train"])
    assert all(torch.isfinite(p).all() for part in (model, guide) for p in part.parameters())


@by_prior
def test_a_seed_gives_the_same_run(make):
    results = []
    for _ in range(2):
        model, guide = pair_of(make)
        results.append(ppl_vae.fit(model, guide, rows(), IWAE(2), epochs=2, seed=3).history[-1]["train"])
    assert results[0] == results[1]


@by_prior
def test_a_run_folder_rebuilds_it(make, tmp_path):
    data = ppl_vae.load(rows(), test=10, validation=10)
    model, guide = pair_of(make, data=data)
    result = ppl_vae.fit(model, guide, data, epochs=2)
    run = ppl_vae.open_run(result.save(tmp_path / "run"))
    assert type(run.model.prior) is type(model.prior)
    expected, found = (ppl_vae.evaluate(*p, data.test, particles=20) for p in ((model, guide), (run.model, run.guide)))
    torch.testing.assert_close(found.log_evidence, expected.log_evidence)
    torch.testing.assert_close(found.elbo, expected.elbo)


@by_prior
def test_an_interrupted_run_goes_on_exactly(make, tmp_path):
    data = ppl_vae.load(rows(), test=10, validation=10)

    def train(epochs, **options):
        torch.manual_seed(1)
        return ppl_vae.fit(*pair_of(make, data=data), data, epochs=epochs, batch_size=20, **options)

    whole = train(4)
    train(2, checkpoint=tmp_path / "c")
    resumed = train(4, checkpoint=tmp_path / "c", resume=True)
    assert [r["train"] for r in resumed.history] == [r["train"] for r in whole.history]
    assert [r["validation"] for r in resumed.history] == [r["validation"] for r in whole.history]


@by_prior
def test_a_copy_is_a_pair_of_its_own(make):
    pair = nn.ModuleList(pair_of(make))
    other = copy.deepcopy(pair)
    before = ppl_vae.evaluate(*other, rows(), particles=5).log_evidence
    shaken(pair)
    torch.testing.assert_close(ppl_vae.evaluate(*other, rows(), particles=5).log_evidence, before)


def clusters():
    """Two far clusters, which a decoder tells apart by z."""
    x = 0.3 * rows(100) + 3 * torch.tensor([1.0, -1.0]).repeat(50).unsqueeze(-1)
    return ppl_vae.load(x, test=0, validation=0)


@every_prior_once
def test_the_evidence_is_computed_under_the_learned_prior(make, size):
    """Importance sampling agrees with quadrature over z. (Under the prior of the model, not N(0, I).)"""
    data = clusters()
    model, guide = pair_of(make, size, data)
    shaken(model.decoder), shaken(guide)  # away from factor analysis, under which N(0, I) is the right prior
    shaken(model.prior, 0.5)  # far from N(0, I), so that the test has power; model and guide then learn around it
    ppl_vae.fit(model, guide, data, IWAE(8), epochs=20, batch_size=25, lr=2e-2)
    x = data.train["x"][:6]
    found = ppl_vae.evaluate(model, guide, x, particles=10_000)
    grid, volume = grid_of(size, end=15.0, points={1: 3001, 2: 401}[size])
    grid = grid.float()
    with torch.no_grad():
        of_grid = model.likelihood(model.decoder(grid))
        log_p = torch.stack([of_grid.log_prob(row) for row in x])
        exact = (log_p + model.prior().log_prob(grid)).logsumexp(-1) + math.log(volume)
        # the delta-method errors of skewed weights have an error of their own: a floor for them
        error = 4 * found.log_evidence_se + 2e-3
        assert ((found.log_evidence - exact).abs() < error).all()
        wrong = (log_p + StandardNormal().build(size)().log_prob(grid)).logsumexp(-1) + math.log(volume)
    if not isinstance(model.prior, StandardNormal):
        assert (found.log_evidence - wrong).abs().mean() > 2 * error.mean()


@pytest.mark.slow
@by_prior
def test_a_prior_that_learns_has_no_worse_evidence_than_the_standard_normal(make):
    data = clusters()

    def evidence(prior):
        model, guide = pair_of(prior, data=data)
        ppl_vae.fit(model, guide, data, epochs=80, batch_size=25, lr=5e-3)
        return ppl_vae.evaluate(model, guide, data.train, particles=50).log_evidence.mean()

    assert evidence(make) > evidence(StandardNormal) - 0.1


# -- p(z | y) --------------------------------------------------------------------------------------------------


def test_a_label_conditional_prior_is_summed_over_hidden_labels():
    prior = LabelConditional(3).build(2)
    shaken(prior)

    def model(x=None, y=None):
        pyro.module("prior", prior)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])), obs=y)
            z = pyro.sample("z", prior(y))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    x, y = rows(8, 3)[:, :2], torch.tensor([0, 1, 2, -1, -1, 2, 0, -1])
    data = ppl_vae.load({"x": x.numpy(), "y": y.numpy()}, missing="allow", test=0, validation=0)
    guide = MeanField(model, data, hidden=(8,))
    assert ppl_vae.check(model, guide, data) == []
    x, y = data.train["x"], data.train["y"]  # in the order of the split
    loc, variance = prior.loc, (2 * prior.log_scale).exp() + 0.25
    each = dist.Normal(loc, variance.sqrt()).to_event(1).log_prob(x.unsqueeze(1))
    joint = each + torch.tensor([0.2, 0.3, 0.5]).log()
    exact = torch.where(y >= 0, joint.gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1), joint.logsumexp(-1))
    found = ppl_vae.evaluate(model, guide, data.train, particles=4000)
    assert ((found.log_evidence - exact).abs() < 4 * found.log_evidence_se + 2e-3).all()


def test_a_label_conditional_prior_wants_its_label():
    with pytest.raises(UserError, match="called without y: call it as prior"):
        LabelConditional(3).build(2)()


@pytest.mark.parametrize("make", [StandardNormal, Diagonal, lambda: Mixture(3)])
def test_a_prior_that_does_not_know_labels_is_the_same_for_all(make):
    prior = make().build(2)
    z = torch.randn(5, 2)
    torch.testing.assert_close(prior(torch.zeros(5)).log_prob(z), prior().log_prob(z))


# -- priors made of the guide's encoder --------------------------------------------------------------------------


@pytest.mark.parametrize("guide", [MeanField, MAF])
def test_pseudo_inputs_and_encoder_learn_through_the_prior(guide):
    torch.manual_seed(0)
    model = VAE(rows_data := ppl_vae.load(rows(), test=0, validation=0), prior=VampPrior(6), latent_dim=2, hidden=(8,))
    made = guide(model, hidden=(8,))
    assert (made.normal_head("z") is None) == (guide is MAF)
    assert (model.prior.head is not None) == (guide is MAF)
    shaken(made, 0.1)  # a guide that begins at factor analysis has networks that are 0 at first
    model.prior().log_prob(torch.randn(10, 2)).sum().backward()
    assert model.prior.pseudo["x"].raw.grad.abs().sum() > 0
    for name, parameter in made.encoder.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert ppl_vae.check(model, made, rows_data) == []


def test_a_vamp_prior_is_the_mean_of_the_guides_posteriors():
    model, guide = pair_of(lambda: VampPrior(6))
    shaken(guide), shaken(model.prior)
    z, u = torch.randn(10, 2), model.prior.pseudo["x"]()
    site = pyro.poutine.trace(guide).get_trace(x=u).nodes["z"]["fn"]
    expected = site.log_prob(z.unsqueeze(1)).logsumexp(-1) - math.log(6)
    torch.testing.assert_close(model.prior().log_prob(z), expected)
    site = guide.heads[0](guide.encoder({"x": u}))
    torch.testing.assert_close(site.log_prob(z.unsqueeze(1)).logsumexp(-1) - math.log(6), expected)


def test_components_are_computed_once_for_all_particles():
    model, guide = pair_of(lambda: VampPrior(6))
    seen = []
    guide.encoder.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    ppl_vae.bounds.IWAE(8).differentiable_loss(model, guide, x=rows(20))
    seen.clear()
    ppl_vae.log_weights(model, guide, {"x": rows(20)}, particles=64)
    assert seen.count(6) <= seen.count(20)


FIELDS = {
    "unit": torch.rand(30, 4),
    "binary": torch.bernoulli(torch.full((30, 4), 0.4)),
    "categorical": torch.randint(0, 5, (30, 2, 2)),
    "count": torch.poisson(torch.full((30, 3), 4.0)),
    "positive": torch.rand(30, 3) + 0.1,
    "real": 1000 * torch.randn(30, 3) + 500,
}


@pytest.mark.parametrize("kind", FIELDS)
def test_pseudo_inputs_begin_at_training_rows_and_stay_in_the_support(kind):
    x = FIELDS[kind].float() if kind != "categorical" else FIELDS[kind]
    data = ppl_vae.load({"x": x}, kinds={"x": kind}, test=5, validation=5)
    model = VAE(data, prior=VampPrior(25), latent_dim=2, hidden=(8,))
    MeanField(model, hidden=(8,))
    pseudo = model.prior.pseudo["x"]
    distance = torch.cdist(pseudo().detach().reshape(25, -1), data.train["x"].reshape(20, -1).float())
    width = x.float().max() - x.float().min()
    assert distance.min(-1).values.max() < 0.05 * width
    if kind in ("unit", "real", "positive"):  # others have equal rows
        assert len(distance.argmin(-1).unique()) == 20, "every row before one twice"
    shaken(model.prior, 5.0)
    u = pseudo()
    if kind not in ("real", "positive"):
        assert u.min() >= 0
        assert u.max() <= {"unit": 1, "binary": 1, "categorical": 4, "count": x.max()}[kind]
    if kind == "positive":
        assert u.min() > 0
    assert torch.isfinite(model.prior().log_prob(torch.zeros(2)))


def test_pseudo_inputs_come_from_training_rows_alone():
    """17. Test and validation rows do not reach the initialisation of a VampPrior."""
    x = rows(60)
    for split in ("validation", "test"):
        data = ppl_vae.load(x, test=20, validation=20)
        getattr(data, split)["x"].fill_(1e6)
        model, _ = pair_of(lambda: VampPrior(50), data=data)
        assert model.prior.pseudo["x"]().abs().max() < 100
        model, _ = pair_of(lambda: Exemplar(50), data=data)
        assert torch.equal(model.prior.rows_x, data.train["x"])


def test_missing_entries_and_labels_of_pseudo_inputs():
    x, y = rows(40), torch.arange(40) % 3 - 1
    x[::2, 1] = torch.nan
    data = ppl_vae.load({"x": x.numpy(), "y": y.numpy()}, missing="allow", test=0, validation=0)

    class Labelled(VAE):
        def forward(self, x=None, y=None):
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Categorical(torch.ones(2)), obs=y)
                z = pyro.sample("z", self.prior())
                pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)

    for prior in (VampPrior(40), Exemplar(10)):
        model = Labelled(data, prior=prior, latent_dim=2, hidden=(8,))
        guide = MeanField(model, data, hidden=(8,))
        result = ppl_vae.fit(model, guide, data, epochs=2)
        assert math.isfinite(result.history[-1]["train"])
    model = Labelled(data, prior=VampPrior(40), latent_dim=2, hidden=(8,))
    model.prior.attach(guide, tuple(data.schema), data.train)
    assert torch.isfinite(model.prior.pseudo["x"]()).all()
    assert sorted(model.prior.pseudo["y"]().unique().tolist()) == [-1, 0, 1]


def test_a_guide_written_by_hand_is_introduced():
    data = ppl_vae.load(rows(), test=0, validation=0)
    net = nn.Linear(3, 2)

    def guide(x=None):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x), 0.5).to_event(1))

    for prior in (VampPrior(6), Exemplar(10)):
        model = VAE(data, prior=prior, latent_dim=2, hidden=(8,))
        with pytest.raises(UserError, match=r"of site 'z' .* has met no guide yet: .*encode_with"):
            model(n=3)
        assert any("encode_with" in str(f) for f in ppl_vae.check(model, guide, data))
        model.prior.encode_with(lambda fields: dist.Normal(net(fields["x"]), 0.5).to_event(1), data)
        assert ppl_vae.check(model, guide, data) == []
        assert math.isfinite(ppl_vae.fit(model, guide, data, IWAE(2), epochs=2).history[-1]["train"])
    model.prior.encode_with(lambda fields: dist.Normal(net(fields["x"]), 0.5), data)
    with pytest.raises(UserError, match=r"expected an encoder that gives Normal\(...\).to_event\(1\)"):
        model(n=3)


def test_a_later_guide_takes_the_place_of_an_earlier_one():
    model, first = pair_of(lambda: VampPrior(6))
    for later in (MAF(model, hidden=(4,)), MeanField(model, hidden=(4,))):
        assert ppl_vae.check(model, MeanField(model, hidden=(4,)), rows()) == []
        later.setup(model.data)
        assert model.prior.networks[0] is later.encoder
        assert ppl_vae.check(model, later, rows()) == []
    assert model.prior.networks[0] is not first.encoder


# -- exemplars -----------------------------------------------------------------------------------------------


def test_exemplars_are_all_training_rows_in_evaluation_and_never_the_row_itself_in_training():
    data = ppl_vae.load(rows(30), test=0, validation=0)
    model, guide = pair_of(lambda: Exemplar(30), data=data)
    x = data.train["x"]
    guide(x=x)
    with pyro.plate("data", 30):
        training = model.prior()
    left_out = torch.isinf(training.logits)
    assert (left_out.sum(-1) == 1).all()
    own = training.components[0][left_out.nonzero()[:, 1]]
    torch.testing.assert_close(own, guide.heads[0](guide.encoder({"x": x})).mean)
    with torch.no_grad():
        assert torch.equal(model.prior().logits, torch.zeros(30))
    evaluated = model.eval().prior()
    torch.testing.assert_close(evaluated.components[0], guide.heads[0](guide.encoder({"x": x})).mean)
    assert torch.equal(evaluated.logits, torch.zeros(30))
    shaken(guide)
    torch.testing.assert_close(model.prior().components[0], guide.heads[0](guide.encoder({"x": x})).mean)


def test_a_guide_that_ran_alone_does_not_disturb_a_simulation():
    model, guide = pair_of(lambda: Exemplar(30))
    guide(x=rows(5))
    assert model(n=9).shape == (9, 3)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(UserError, match="Mixture: components must be a whole number of at least 1, got 0"):
        Mixture(0)
    with pytest.raises(UserError, match=r"VampPrior: components .* got 2\.5"):
        VampPrior(2.5)
    with pytest.raises(UserError, match="latent_dim must be a whole number of at least 1"):
        Mixture(3).build(0)


def test_a_rebuilt_prior_knows_its_size_without_rows():
    schema = Schema((Field("x", "real", (3,)),))
    model = VAE(schema, prior=VampPrior(6), latent_dim=2, hidden=(8,))
    MeanField(model, hidden=(8,))
    assert model.prior.pseudo["x"]().shape == (6, 3)
