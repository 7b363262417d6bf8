"""Programs of many shapes, as their authors write them: generated guides weigh them as Pyro's ELBO, draw by draw."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64
from pyro import poutine
from pyro.distributions.testing.rejection_gamma import ShapeAugmentedGamma
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.reparam import LocScaleReparam
from pyro.ops.indexing import Vindex

import ppl_vae
from ppl_vae.bounds import ELBO
from ppl_vae.data import as_one_unit, as_split
from ppl_vae.errors import ProgramError, UserError
from ppl_vae.guides import FullRank, MeanField
from ppl_vae.programs.program import Program

G = torch.Generator().manual_seed(0)
N = 12
Y = torch.randn(N, generator=G, dtype=F64)
GROUP = torch.randint(0, 4, (N,), generator=G)


def one(*shape):
    return torch.ones(shape, dtype=F64)


def normal(loc, scale=1.0):
    return dist.Normal(torch.as_tensor(loc, dtype=F64), scale)


def groups_by_index(y, g):
    mu = pyro.sample("mu", normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(one()))
    with pyro.plate("groups", 4):
        a = pyro.sample("a", normal(mu, tau))
    with pyro.plate("data", len(g)):
        pyro.sample("y", normal(a[g]), obs=y)


@poutine.reparam(config={"a": LocScaleReparam(0.0)})
def reparameterised(y, g):
    """As many groups as the rows on which a guide reads a model."""
    tau = pyro.sample("tau", dist.LogNormal(0 * one(), 1.0))
    with pyro.plate("groups", 4):
        a = pyro.sample("a", normal(0.0, tau))
    with pyro.plate("data", len(g)):
        pyro.sample("y", normal(a[..., g]), obs=y)


def topics(words):
    """A plate of topics at the dim of the documents."""
    with pyro.plate("topics", 2):
        about = pyro.sample("about", dist.Dirichlet(one(6)))
    with pyro.plate("documents", len(words), dim=-1):
        share = pyro.sample("share", dist.Dirichlet(one(2)))
        with pyro.plate("words", 8, dim=-2):
            z = pyro.sample("z", dist.Categorical(share), infer={"enumerate": "parallel"})
            pyro.sample("w", dist.Categorical(about[z]), obs=words.T)


def annotators(marks):
    with pyro.plate("annotators", 4, dim=-2), pyro.plate("classes", 3, dim=-1):
        confusion = pyro.sample("confusion", dist.Dirichlet(one(3)))
    with pyro.plate("items", len(marks), dim=-1):
        c = pyro.sample("c", dist.Categorical(one(3) / 3))
        with pyro.plate("position", 4, dim=-2):
            rows = Vindex(confusion)[..., torch.arange(4)[:, None], c, :]
            pyro.sample("marks", dist.Categorical(rows), obs=marks.T)


def one_series(y):
    move = pyro.sample("move", dist.Dirichlet(one(2, 2)).to_event(1))
    emit = pyro.sample("emit", dist.Dirichlet(one(2, 3)).to_event(1))
    x = 0
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x{t}", dist.Categorical(move[x]), infer={"enumerate": "parallel"})
        pyro.sample(f"y{t}", dist.Categorical(emit[x]), obs=y[t])


def change_point(y):
    early, late = (pyro.sample(n, dist.Gamma(2 * one(), 1.0)) for n in ("early", "late"))
    when = pyro.sample("when", dist.Categorical(one(8) / 8))
    rate = torch.where(torch.arange(8) < when.unsqueeze(-1), early.unsqueeze(-1), late.unsqueeze(-1))
    pyro.sample("y", dist.Poisson(rate).to_event(1), obs=y)


def steps_in_a_loop(y):
    mu = pyro.sample("mu", normal(0.0))
    for i in pyro.plate("data", 5):
        z = pyro.sample(f"z{i}", normal(mu))
        pyro.sample(f"y{i}", normal(z), obs=y[i])


def censored(t, seen):
    rate = pyro.sample("rate", dist.Gamma(2 * one(), 1.0))
    with pyro.plate("data", len(t)):
        with poutine.mask(mask=seen > 0):
            pyro.sample("t", dist.Exponential(rate), obs=t)
        with poutine.mask(mask=seen <= 0):
            pyro.factor("still there", -rate * t)


def any_fields(**batch):
    slope = pyro.sample("slope", normal(0.0))
    with pyro.plate("data", len(batch["y"])):
        pyro.sample("y", normal(slope * batch["g"]), obs=batch["y"])


def own_data():
    mu = pyro.sample("mu", normal(0.0))
    with pyro.plate("mine", N):
        pyro.sample("y", normal(mu), obs=Y)


def lifted(y):
    w = pyro.param("w", one())
    with pyro.plate("data", len(y)):
        pyro.sample("y", normal(w), obs=y)


PROGRAMS = {
    "groups by index": (groups_by_index, {"y": Y, "g": GROUP}, False),
    "reparameterised": (reparameterised, {"y": Y, "g": GROUP}, False),
    "topics": (topics, {"words": torch.randint(0, 6, (7, 8), generator=G)}, False),
    "annotators": (annotators, {"marks": torch.randint(0, 3, (N, 4), generator=G)}, False),
    "one series": (one_series, {"y": torch.randint(0, 3, (6,), generator=G)}, True),
    "change point": (change_point, {"y": torch.randint(0, 9, (8,), generator=G).to(F64)}, True),
    "steps in a loop": (steps_in_a_loop, {"y": Y[:5]}, True),
    "censored": (censored, {"t": Y.abs(), "seen": (GROUP > 0).to(F64)}, False),
    "any fields": (any_fields, {"y": Y, "g": GROUP}, False),
    "own data": (own_data, None, True),
    "lifted": (poutine.lift(lifted, prior={"w": normal(0.0)}), {"y": Y}, False),
}


@pytest.fixture
def doubles():
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("family", [MeanField, FullRank])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_generated_guide_weighs_a_program_as_pyros_elbo_does(name, family):
    model, data, is_one_unit = PROGRAMS[name]
    split = as_one_unit(data) if is_one_unit else as_split(data)
    batch = split.batch()
    guide = family(model, split, hidden=(4,)).double().eval()
    torch.manual_seed(0)
    assert not [f for f in ppl_vae.check(model, guide, split) if f.severity == "error"]
    drawn = poutine.trace(guide).get_trace(**batch)
    for name in [n for n, s in drawn.nodes.items() if getattr(s.get("fn"), "has_enumerate_support", False)]:
        drawn.remove_node(name)

    def held(**fields):
        return poutine.replay(guide, trace=drawn)(**fields)

    w = ppl_vae.log_weights(model, held, batch, discrete="expectation")
    found = float(w.log_weight.sum()) + (0.0 if w.log_global is None else float(w.log_global))
    program = Program(model, "model")
    elbo = TraceEnum_ELBO(max_plate_nesting=2, strict_enumeration_warning=False)
    both = (config_enumerate(lambda: program(**batch)), config_enumerate(lambda: held(**batch)))
    assert found == pytest.approx(-elbo.loss(*both), rel=1e-6)


def test_a_point_of_the_model_is_no_latent():
    def model(y):
        mu = pyro.sample("mu", dist.Delta(one()))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", normal(mu))
            pyro.sample("y", normal(z), obs=y)

    def guide(y):
        pyro.sample("mu", normal(1.0, 0.1))
        with pyro.plate("data", len(y)):
            pyro.sample("z", normal(y))

    with pytest.raises(ProgramError, match=r"pyro\.deterministic\('mu'"):
        MeanField(model, {"y": Y})
    with pytest.raises(ProgramError, match=r"pyro\.deterministic\('mu'"):
        ppl_vae.log_weights(model, guide, {"y": Y})


def test_a_plate_that_is_made_twice_and_a_mask_that_is_no_mask_have_their_remedies():
    def twice(y):
        for _ in range(2):
            with pyro.plate("items", 3, dim=-2):
                pass
        with pyro.plate("data", len(y)):
            pyro.sample("y", normal(pyro.sample("z", normal(0.0))), obs=y)

    def masked(y, m):
        with pyro.plate("data", len(y)), poutine.mask(mask=m):
            pyro.sample("y", normal(pyro.sample("z", normal(0.0))), obs=y)

    with pytest.raises(UserError, match="made once"):
        MeanField(twice, {"y": Y})
    with pytest.raises(UserError, match=r"field\.bool\(\)"):
        MeanField(masked, {"y": Y, "m": Y > 0})


def test_a_sampler_by_rejection_has_a_score_of_its_own():
    """Its gradient through the draw alone is biased: `fit` refuses it, and Pyro's SVI gets Pyro's gradient."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(0.5 * one(), one()))
            pyro.sample("x", normal(z), obs=x)

    def guide(x):
        shape = pyro.param("shape of z", 1.5 * one())
        with pyro.plate("data", len(x)):
            pyro.sample("z", ShapeAugmentedGamma(shape.expand(len(x)), one(len(x))))

    with pytest.raises(ProgramError, match="reparameterised in part"):
        ppl_vae.fit(model, guide, {"x": Y.abs()}, epochs=1)

    def prior():
        with pyro.plate("draws", 20000):
            pyro.sample("z", dist.Gamma(0.5 * one(20000), one()))

    def draws():
        shape = pyro.param("shape of draws", 1.5 * one())
        with pyro.plate("draws", 20000):
            pyro.sample("z", ShapeAugmentedGamma(shape.expand(20000), one(20000)))

    torch.manual_seed(0)
    ELBO().loss_and_grads(prior, draws)
    q = torch.tensor(1.5, dtype=F64, requires_grad=True)
    exact = torch.autograd.grad(
        torch.distributions.kl_divergence(dist.Gamma(q, one()), dist.Gamma(0.5 * one(), 1.0)), q
    )
    found = pyro.get_param_store()._params["shape of draws"].grad / 20000
    assert float(found) == pytest.approx(float(exact[0]), abs=0.03)


@pytest.mark.parametrize("family", [MeanField, FullRank])
def test_two_angles_have_their_evidence(family):
    angles = dist.SineBivariateVonMises(0 * one(), 0 * one(), one(), one(), 0.1 * one())

    def model(x):
        with pyro.plate("data", len(x)):
            d = pyro.sample("d", angles)
            pyro.sample("x", normal(d.cos()).to_event(1), obs=x)

    x = torch.rand(3, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    side = torch.linspace(-torch.pi, torch.pi, 201, dtype=F64)[:-1]
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    on_grid = angles.log_prob(grid) + normal(grid.cos()).to_event(1).log_prob(x[:, None, None])
    exact = on_grid.logsumexp((1, 2)) + 2 * (side[1] - side[0]).log()
    torch.manual_seed(0)
    guide = family(model, {"x": x}, hidden=(4,)).double()
    assert "angles, cut at pi: d" in repr(guide)
    found = ppl_vae.evaluate(model, guide, {"x": x}, particles=5000, compile="off")
    assert bool(((found.log_evidence - exact).abs() < 4 * found.log_evidence_se + 1e-3).all())
