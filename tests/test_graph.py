"""Captured and compiled steps: the eager step's numbers, fresh draws, no second graph, and what cannot be captured."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import (
    BOUNDS,
    CONDITIONAL_PRIORS,
    F64,
    GUIDES,
    LOWER_BOUNDS,
    MODELS,
    PRIORS,
    PROBLEMS,
    PROGRAMS,
    fields_of,
    is_defined,
    own_guide,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.checks.analysis import analyse
from ppl_vae.evaluation import chunks
from ppl_vae.guides import CNF, MeanField, Refined
from ppl_vae.models import VAE, Multimodal
from ppl_vae.nn.networks import concatenate
from ppl_vae.programs.program import Pair
from ppl_vae.schedules import DIP, MMD, Capacity, Decomposed, FreeBits, WarmUp
from ppl_vae.speed import compiler, modes
from ppl_vae.speed.capture import Uncapturable, capture
from ppl_vae.speed.compiler import compiled, seconds_to_compile
from ppl_vae.speed.factoring import factored
from ppl_vae.speed.precision import products
from ppl_vae.training import _acceleration as acceleration
from ppl_vae.training._optimizers import NoOptimizer
from ppl_vae.training._step_graph import StepGraph
from ppl_vae.training._steps import BoundStep, StepOutcome
from ppl_vae.training.settings import Settings

ALIKE = (
    "vector",
    "matrix",
    "interval",
    "unit interval",
    "positive",
    "positive vector",
    "two layers",
    "flags within rows",
)
"""Programs of the table that a captured step cannot tell from others of it."""

BY_NAME = {p.name: p for p in PROBLEMS}


def spoken(result):
    """What a run of a few epochs says beside that it is not finished."""
    return [finding for finding in result.findings if not finding.problem.startswith("not finished")]


WARM_UP = WarmUp(10)


def step_of(model, guide, batch, bound, beta=WARM_UP, **options):
    pair = Pair(model, guide)
    structure = analyse(pair, batch)
    bound.refuse(structure)
    parameters = list(pair.parameters())
    optimizer = torch.optim.SGD(parameters, 0.1) if parameters else NoOptimizer()
    rows = 10 * len(next(iter(batch.values())))
    step = BoundStep(pair, structure, bound, optimizer, rows, Settings(beta=beta, **options))
    step.begin(batch)
    return step


def eager(graph, batch, epoch):
    """What the step itself computes: its outcome, and its gradients as `backward` leaves them."""
    step = graph.step
    with pyro.validation_enabled(False):
        step.optimizer.zero_grad(set_to_none=True)
        outcome = step.outcome(batch, *step.levels(epoch))
        if outcome.objective.requires_grad:
            (-outcome.objective).backward()
    values = [None if v is None else v.detach() for v in outcome]
    return [*values, *(p.grad for p in graph.parameters)]


def assert_same(values, expected):
    assert len(values) == len(expected)
    for a, b in zip(values, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.equal(a, b)
            assert a.stride() == b.stride()


def check(step, batch, other=None):
    """Captured on one batch, the graph is the eager step bit by bit: on other rows, parameters, epochs and seeds."""
    graph = StepGraph(step, batch)
    with torch.no_grad():
        for parameter in graph.parameters:
            parameter.add_(0.05 * torch.randn_like(parameter))
    for seed, epoch in ((1, 3.0), (2, 7.5)):
        rows = batch if other is None else other
        torch.manual_seed(seed)
        values = graph.values(rows, epoch)
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        assert_same(values, eager(graph, rows, epoch))
        assert torch.equal(after, torch.get_rng_state())
    return graph


def turned(batch):
    """Other rows of the same shapes."""
    return {n: v.roll(1, 0) for n, v in batch.items()}


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_every_problem_is_captured(problem):
    """Discrete latents inside the logarithm; in expectation they are captured with every bound below."""
    bound = BOUNDS["IWAE" if problem.structure.enumerates else "ELBO"](4)
    step = step_of(problem.model, problem.guide, problem.batch, bound)
    check(step, problem.batch, turned(problem.batch))


LIKE_IWAE = {"Renyi(0)", "Renyi(0.5)", "Renyi(2)", "CIWAE", "MIWAE", "PIWAE", "TVO"}
"""Bounds that reduce the weights of `IWAE` in another way: labels enter all of them as they enter that one."""


@pytest.mark.parametrize(
    ("problem", "name"),
    [
        *[
            pytest.param("style, some labels", name, marks=pytest.mark.slow if name in LIKE_IWAE else ())
            for name in LOWER_BOUNDS
        ],
        *[("linear-Gaussian", name) for name in LOWER_BOUNDS if name in LIKE_IWAE],
        *[("count without end", name) for name in ("ELBO", "ELBO, stl", "IWAE", "IWAE, dreg")],
        *[
            pytest.param("count without end", name, marks=pytest.mark.slow)
            for name in LOWER_BOUNDS
            if not name.startswith(("ELBO", "IWAE"))
        ],
    ],
)
def test_every_bound_is_captured(problem, name):
    bound, problem = LOWER_BOUNDS[name](4), BY_NAME[problem]
    if not is_defined(bound, problem):
        pytest.skip("refused, see test_bounds")
    model = trainable(problem.model)
    check(step_of(model, problem.guide, problem.batch, bound), problem.batch, turned(problem.batch))


def trainable(program):
    """The program with a parameter that scales x, so that gradients go through all of it."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones((), dtype=F64))

        def forward(self, x=None, y=None):
            x = torch.where(torch.isnan(x), x, torch.nan_to_num(x) * self.factor)
            return program(x) if y is None else program(x, y)

    return Scaled()


OF_THESE_PARTS = {"one-hot label and flag", "label, then two", "simplex", "items"}
"""Programs whose parts are in others: labels, sums over them, simplices, and dims within rows."""
LIKE_OTHERS = {"Spline, coupling", "Sylvester, orthogonal", "Sylvester, triangular", "MeanField, independent", "MAF"}
"""Variants whose operations are those of other families."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in LIKE_OTHERS else ()) for n in GUIDES if n != "CNF"],
)
def test_every_guide_is_captured(name):
    batch = fields_of(PROGRAMS["positive vector"])
    # one step of a flow: the second is the first again
    once = {"flows": 1} if "flows" in getattr(GUIDES[name], "keywords", {}) else {}
    guide = GUIDES[name](PROGRAMS["positive vector"], batch, hidden=(8,), **once)
    check(step_of(PROGRAMS["positive vector"], guide, batch, ELBO(2)), batch, turned(batch))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in OF_THESE_PARTS else ()) for n in PROGRAMS if n not in ALIKE],
)
def test_every_program_is_captured(name):
    batch = fields_of(PROGRAMS[name])
    guide = MeanField(PROGRAMS[name], batch, hidden=(4,))
    graph = check(step_of(PROGRAMS[name], guide, batch, ELBO(2)), batch, turned(batch))
    graph.use(graph.captured.replaced(factored(graph.captured.module).forward))
    assert graph.proved(batch, 1.0)[1]


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


FLOWS_OF_GUIDES = {"SplineFlowPrior", "CouplingFlowPrior"}
"""Priors whose flows are captured in guides; that of FlowPrior shows that one stands in a model, too."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in FLOWS_OF_GUIDES else ()) for n in PRIORS | CONDITIONAL_PRIORS],
)
def test_every_prior_is_captured(digits, name):
    """VampPrior and exemplars run the guide's encoder inside the model, exemplars on rows that are drawn anew."""
    if name in CONDITIONAL_PRIORS:
        pytest.skip("has a model of its own in test_priors")
    model = VAE(digits, prior=PRIORS[name](), latent_dim=3, hidden=(8,))
    batch, other = digits.train.batch(slice(0, 6)), digits.train.batch(slice(6, 12))
    check(step_of(model, MeanField(model, hidden=(8,)), batch, IWAE(2)), batch, other)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if "," in n else ()) for n in MODELS])
def test_every_model_is_captured(digits, name):
    model = MODELS[name](digits)
    batch, other = digits.train.batch(slice(0, 6)), digits.train.batch(slice(6, 12))
    check(step_of(model, own_guide(model), batch, ELBO()), batch, other)


@pytest.mark.parametrize("beta", [FreeBits(0.1, WarmUp(10)), Capacity(5.0, 3.0, 10)], ids=str)
def test_what_changes_with_the_epoch_is_an_input(digits, beta):
    model = VAE(digits, latent_dim=3, hidden=(8,))
    batch = digits.train.batch(slice(0, 6))
    graph = check(step_of(model, MeanField(model, hidden=(8,)), batch, ELBO(), beta), batch)
    torch.manual_seed(0)
    early = graph.values(batch, 1.0)
    torch.manual_seed(0)
    late = graph.values(batch, 9.0)
    assert early[0] == late[0]  # the bound
    assert early[1] != late[1]  # the objective


@pytest.mark.parametrize("beta", [Decomposed(6, beta=WarmUp(10)), DIP(kind=1), DIP(kind=2), MMD(10.0)], ids=str)
def test_objectives_that_look_at_all_rows_are_captured(digits, beta):
    model = VAE(digits, latent_dim=3, hidden=(8,))
    batch, other = digits.train.batch(slice(0, 6)), digits.train.batch(slice(6, 12))
    check(step_of(model, MeanField(model, hidden=(8,)), batch, ELBO(), beta), batch, other)


def test_a_label_weight_is_captured():
    model = PROGRAMS["label and style"]
    batch = fields_of(model) | {"y": torch.tensor([-1, 0, 3, -1, 1, 2])}
    guide = MeanField(model, {"x": batch["x"]}, hidden=(4,))
    check(step_of(model, guide, batch, ELBO(), label_weight=3.0), batch, turned(batch))


def test_experts_of_fields_are_captured():
    data = ppl_vae.load({"a": torch.randn(40, 3), "b": torch.randn(40, 2, 2), "y": torch.arange(40) % 3})
    model = Multimodal(data, private=2, latent_dim=2, hidden=(8,))
    batch, other = data.train.batch(slice(0, 6)), data.train.batch(slice(6, 12))
    check(step_of(model, MeanField(model, experts="mopoe", hidden=(8,)), batch, IWAE(2)), batch, other)


def test_parameters_of_any_kind_are_inputs():
    """Of a network that a function registers, of pyro.param, of PyroParam; an unused one has no gradient."""
    torch.manual_seed(0)
    network = nn.Linear(2, 3)

    def model(x=None):
        pyro.module("network", network)
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        pyro.param("unused", torch.zeros(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(network(z), scale).to_event(1), obs=x)

    class Guide(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = nn.Linear(3, 2)
            self.scale = pyro.nn.PyroParam(torch.ones(2), constraint=dist.constraints.positive)

        def forward(self, x=None):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.loc(x), self.scale).to_event(1))

    batch = {"x": torch.randn(5, 3)}
    graph = check(step_of(model, Guide(), batch, IWAE(3)), batch, turned(batch))
    names = [n for n, _ in graph.step.pair.named_parameters()]
    gradients = graph.values(batch, 1.0)[len(StepOutcome._fields) :]
    missing = [n for n, v in zip(names, gradients, strict=True) if v is None]
    assert missing == ["model.own.unused"]


def test_a_model_that_draws_its_own_rows_is_captured():
    rows = torch.randn(40, 2)

    def model(x=None):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", 40, subsample_size=8) as index:
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[index])

    def guide(x=None):
        slope = pyro.param("slope", torch.tensor(0.3))
        with pyro.plate("data", 40, subsample_size=8) as index:
            pyro.sample("z", dist.Normal(slope * x[index], 1.0).to_event(1))

    check(step_of(model, guide, {"x": rows}, ELBO()), {"x": rows})


def test_every_call_draws_afresh_from_the_right_distribution():
    """The mean over calls is the ELBO's closed form."""
    problem = BY_NAME["linear-Gaussian"]
    graph = StepGraph(step_of(problem.model, problem.guide, problem.batch, ELBO()), problem.batch)
    draws = torch.stack([graph.values(problem.batch, 1.0)[0] for _ in range(2000)])
    assert len(draws.unique()) == len(draws)
    assert abs(draws.mean() - problem.elbo.mean()) < 4 * draws.std() / 2000**0.5


# -- what cannot be captured ----------------------------------------------------------------------------------


def test_a_step_that_looks_at_values_names_the_site_and_the_line(digits):
    model = VAE(digits, latent_dim=3, hidden=(8,))
    batch = digits.train.batch(slice(0, 6))
    with pytest.raises(Uncapturable, match=r"after site 'z': Python looks at the value of a tensor \(.*\.py:\d+\)"):
        StepGraph(step_of(model, CNF(model, hidden=(8,)), batch, ELBO()), batch)
    with pytest.raises(Uncapturable, match=r"before the first site: .* \(guides/refined.py:\d+\)"):
        StepGraph(step_of(model, Refined(MeanField(model, hidden=(8,)), steps=1), batch, ELBO()), batch)


def branching(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z = z if float(z.detach().sum()) > -1e9 else 2 * z  # always the same, but Python has to look
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


@pytest.fixture
def eagerly_captured(monkeypatch):
    """ "auto" captures at once, as if every run were long, and never compiles."""
    monkeypatch.setattr(modes, "MARGIN", 0.0)
    monkeypatch.setattr(modes, "TRIAL", 2)
    monkeypatch.setattr(modes, "NOISE", float("inf"))
    monkeypatch.setattr(modes, "seconds_to_compile", lambda graph: float("nan"))


def test_what_cannot_be_captured_trains_eagerly_and_says_so_once(eagerly_captured):
    x = torch.randn(64, 2)
    runs = []
    for mode in ("off", "auto"):
        torch.manual_seed(0)
        runs.append(ppl_vae.fit(branching, MeanField(branching, x), x, epochs=4, batch_size=8, compile=mode))
    (finding,) = runs[1].findings
    assert finding.site == "z"
    assert "after site 'z': Python looks at the value of a tensor (tests/test_graph.py" in str(finding)
    assert [r["train"] for r in runs[0].history] == [r["train"] for r in runs[1].history]
    with pytest.raises(UserError, match="compile='on', but the programs cannot be captured after site 'z'"):
        ppl_vae.fit(branching, MeanField(branching, x), x, epochs=1, compile="on")


def test_draws_that_are_not_torchs_are_found_out(eagerly_captured):
    def model(x=None):
        noise = float(np.random.default_rng().normal())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.full((2,), noise), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = torch.randn(64, 2)
    result = ppl_vae.fit(model, MeanField(model, x), x, epochs=4, batch_size=8)
    assert "other numbers than the eager one" in str(result.findings[-1])


@pytest.mark.parametrize("place", ["attribute", "global"])
def test_a_model_that_is_changed_between_epochs_stays_itself(eagerly_captured, place):
    class Model(nn.Module):
        temperature = 1.0 if place == "global" else None

        def __init__(self):
            super().__init__()
            if place == "attribute":
                self.temperature = 1.0

        def forward(self, x=None):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), self.temperature).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x, runs = torch.randn(64, 2), []
    for mode in ("off", "auto"):
        torch.manual_seed(0)
        model = Model()
        guide = MeanField(model, x)

        def cool(record, owner=model if place == "attribute" else Model):
            owner.temperature = 0.8 ** record["epoch"]

        runs.append(ppl_vae.fit(model, guide, x, epochs=4, batch_size=8, compile=mode, on_epoch=cool))
        if place == "global":
            Model.temperature = 1.0
    assert [r["train"] for r in runs[0].history] == [r["train"] for r in runs[1].history]


def test_words_and_bounds_that_make_no_sense_are_refused(digits):
    model = VAE(digits, latent_dim=3, hidden=(8,))
    for word in ("maybe", False, None):
        with pytest.raises(UserError, match=f"unknown value of compile {word!r} .known: auto, off, on"):
            ppl_vae.fit(model, MeanField(model), digits, epochs=1, compile=word)
    with pytest.raises(UserError, match="Pyro's own reads its loss back"):
        ppl_vae.fit(model, MeanField(model), digits, pyro.infer.Trace_ELBO(), epochs=1, compile="on")


# -- fit --------------------------------------------------------------------------------------------------------


def small(digits, **options):
    torch.manual_seed(0)
    model = VAE(digits, latent_dim=4, hidden=(16,))
    return ppl_vae.fit(
        model, MeanField(model, hidden=(16,)), digits, batch_size=96, beta=WarmUp(2), optimizer=None, **options
    )


def numbers(result):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in result.history]


def test_a_captured_run_is_the_eager_run_bit_for_bit_and_resumes_exactly(
    digits, eagerly_captured, monkeypatch, tmp_path
):
    """11 batches an epoch: 10 of 96 rows, and a short one that is captured too."""
    captured = []
    real = acceleration.StepGraph
    monkeypatch.setattr(
        acceleration, "StepGraph", lambda step, batch: captured.append(len(batch["x"])) or real(step, batch)
    )
    runs = [small(digits, epochs=4, compile=mode) for mode in ("off", "auto")]
    assert captured == [96, 40]  # no second graph for another beta, or epoch
    assert numbers(runs[0]) == numbers(runs[1])
    small(digits, epochs=3, checkpoint=tmp_path)
    assert numbers(small(digits, epochs=4, checkpoint=tmp_path, resume=True)) == numbers(runs[0])


class Normalised(nn.Module):
    """A guide by hand with running means, which move at every step."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double()

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.network(x), 0.7).to_event(1))


@pytest.mark.parametrize("mode", ["auto", pytest.param("on", marks=pytest.mark.slow)])
def test_running_means_move_once_a_step(eagerly_captured, mode):
    problem, x, states = BY_NAME["linear-Gaussian"], torch.randn(96, 4, dtype=F64), []
    for compile in ("off", mode):
        torch.manual_seed(0)
        guide = Normalised()
        ppl_vae.fit(problem.model, guide, x, epochs=5, batch_size=16, compile=compile)
        states.append(guide.state_dict())
    assert states[0]["network.1.num_batches_tracked"] == states[1]["network.1.num_batches_tracked"]
    for a, b in zip(states[0].values(), states[1].values(), strict=True):
        torch.testing.assert_close(a, b, atol=0 if mode == "auto" else 1e-9, rtol=0)


def test_short_runs_are_not_captured(digits, monkeypatch):
    monkeypatch.setattr(acceleration, "StepGraph", None)
    small(digits, epochs=3)


def test_a_way_that_is_slower_is_left(digits, eagerly_captured, monkeypatch):
    real, ticks = StepGraph.replay, itertools.count()  # a clock of its own: a step takes one, a replay four
    monkeypatch.setattr(modes, "NOISE", 1.1)
    monkeypatch.setattr(modes.ShapeRuns, "now", lambda *_: float(next(ticks)))
    monkeypatch.setattr(StepGraph, "replay", lambda *a: [next(ticks) for _ in range(3)] and real(*a))
    made = []
    init = acceleration.GraphStep.__init__
    monkeypatch.setattr(acceleration.GraphStep, "__init__", lambda self, *a: made.append(self) or init(self, *a))
    result = small(digits, epochs=3)
    assert {runs.mode for runs in made[0].by_shape.values()} == {"eager"}
    assert not spoken(result)


# -- the compiler ------------------------------------------------------------------------------------------------


def test_without_a_compiler_training_goes_on_captured_and_says_so_once(digits, eagerly_captured, monkeypatch):
    import torch._inductor.config as inductor

    monkeypatch.setattr(modes, "seconds_to_compile", lambda graph: 0.0)
    monkeypatch.setattr(compiler, "_kept", OrderedDict())
    missing = {"cpp.cxx": "no-such-compiler"}
    with inductor.patch(missing):
        result = small(digits, epochs=2)
    (finding,) = spoken(result)
    assert "there is no C++ compiler on this machine" in str(finding)
    with (
        inductor.patch({"cpp.cxx": "no-such-compiler"}),
        pytest.raises(UserError, match="compile='on', but there is no C\\+\\+ compiler"),
    ):
        small(digits, epochs=1, compile="on")


@pytest.mark.slow
def test_a_graph_is_compiled_once_and_the_numbers_written_in_it_tell_it_from_others():
    from torch._inductor.codecache import PyCodeCache

    def made(number, rows=3):
        layer = nn.Linear(2, 1)
        x = torch.ones(rows, 2)
        graph = compiled(capture(layer, lambda x: [layer(x) + torch.tensor(number)], [x]), [x])
        assert torch.allclose(graph(x)[0], layer(x) + number)
        return len(PyCodeCache.modules)

    before = made(2.0)
    assert made(2.0) == before  # other weights, the same code
    other = made(3.0)
    assert other > before
    assert made(2.0, rows=4) > other


@pytest.mark.slow
def test_a_compiled_run_has_the_eager_numbers_up_to_rounding(digits):
    on = small(digits, epochs=3, compile="on")
    off = small(digits, epochs=3, compile="off")
    assert not on.findings
    for a, b in zip(on.history, off.history, strict=True):
        assert a["train"] == pytest.approx(b["train"], rel=1e-4)
        assert a["validation"] == pytest.approx(b["validation"], rel=1e-4)
    assert numbers(small(digits, epochs=3, compile="on")) == numbers(on)  # and is the same run again


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_that_many_rows_share_are_multiplied_once(precision):
    """[x, label] with the label summed out: less arithmetic, forwards and backwards, and the same numbers."""
    dtype, error = (F64, 1e-12) if precision == "float32" else (torch.float32, 0.1)
    network = nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)

    def flat(x, y):
        joined = concatenate([x, y.unsqueeze(1)])  # [label, row, feature]
        with torch.enable_grad(), products(precision)():
            value = network(joined).square().sum()
            return [value.detach(), *torch.autograd.grad(value, list(network.parameters()))]

    inputs = [torch.randn(6, 8, dtype=dtype), torch.randn(3, 4, dtype=dtype)]
    graph = capture(network, flat, inputs)
    faster = graph.replaced(factored(graph.module).forward)
    work = []
    for form in (graph, faster):
        with FlopCounterMode(display=False) as counter:
            form(*inputs)
        work.append(counter.get_total_flops())
    rows, small = 18 * 12, 6 * 8 + 3 * 4
    assert work[0] - work[1] == 2 * 2 * 5 * (rows - small)
    for a, b in zip(graph(*inputs), faster(*inputs), strict=True):
        torch.testing.assert_close(a, b, atol=error, rtol=error)


COMPILED = {
    "labels summed out, some observed": ("style, some labels", lambda: ELBO(2)),
    "IWAE, dreg": ("linear-Gaussian", lambda: IWAE(5, estimator="dreg")),
    "missing entries": ("linear-Gaussian with holes", lambda: IWAE(3)),
    "score function": ("count without end", lambda: ELBO(4)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_steps_have_the_eager_draws_and_numbers(name):
    problem, bound = COMPILED[name]
    problem = BY_NAME[problem]
    step = step_of(trainable(problem.model), problem.guide, problem.batch, bound())
    graph = StepGraph(step, problem.batch)
    graph.use(compiled(graph.captured, graph.inputs(problem.batch, 1.0)))
    assert seconds_to_compile(graph.captured) < 5  # it is on disk now
    seen = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        values = graph.values(turned(problem.batch), 4.0)
        torch.manual_seed(seed)
        for a, b in zip(values, eager(graph, turned(problem.batch), 4.0), strict=True):
            if b is not None:
                torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)
        seen.append(values[0])
    assert seen[0] != seen[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["IAF", "Spline", "Mixture"])
def test_compiled_flows_have_the_eager_numbers(name):
    batch = fields_of(PROGRAMS["positive vector"])
    guide = GUIDES[name](PROGRAMS["positive vector"], batch, hidden=(8,))
    graph = StepGraph(step_of(PROGRAMS["positive vector"], guide, batch, ELBO(2)), batch)
    graph.use(compiled(graph.captured, graph.inputs(batch, 1.0)))
    assert graph.proved(turned(batch), 2.0)[1]


# -- evaluation --------------------------------------------------------------------------------------------------


def count_encoder(guide):
    """How many times a guide's encoder is run."""
    calls = []
    guide.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("prior", [pytest.param("StandardNormal", marks=pytest.mark.slow), "VampPrior"])
def test_evaluation_runs_what_no_draw_enters_once_for_each_row(digits, eagerly_captured, monkeypatch, prior):
    """The same numbers, bit for bit, with graphs: the larger part of the operations in the first of the two."""
    made = []
    split = chunks.split_at_draws
    monkeypatch.setattr(chunks, "split_at_draws", lambda *a: made.append(split(*a)) or made[-1])
    torch.manual_seed(0)
    model = VAE(digits, prior=PRIORS[prior](), latent_dim=3, hidden=(8,))
    guide = MeanField(model, hidden=(8,))
    found = []
    for mode in ("off", "auto"):
        calls = count_encoder(guide)
        result = ppl_vae.evaluate(model, guide, digits.test["x"][:50], 400, compile=mode, floats_at_once=2**18)
        found.append((result, len(calls)))
    (eager_result, many), (result, few) = found
    assert few < many / 3
    for name in ("elbo", "log_evidence", "log_evidence_se", "ess", "rate", "distortion"):
        assert torch.equal(getattr(result, name), getattr(eager_result, name))
    once, each = made[0]
    products = [sum("mm" in str(n.target) for n in part.module.graph.nodes) for part in (once, each)]
    assert products[0] >= 2
    assert products[1] == (2 if prior == "StandardNormal" else 4)  # the decoder, and z with all components


LIKE_OTHER_PROBLEMS = {
    "linear-Gaussian",
    "mixture, classifier",
    "style and label",
    "style, label collapsed",
    "chain, classifiers",
    "repeated measurements",
    "Beta-Binomial",
}
"""Problems whose discrete latents, missing entries and lengths are those of others."""


@pytest.mark.parametrize(
    "problem",
    [pytest.param(p, id=str(p), marks=pytest.mark.slow if str(p) in LIKE_OTHER_PROBLEMS else ()) for p in PROBLEMS],
)
def test_evaluation_in_graphs_has_the_eager_numbers(problem, eagerly_captured, monkeypatch):
    made = []
    init = chunks.Chunks.__init__
    monkeypatch.setattr(chunks.Chunks, "__init__", lambda self, *a: made.append(self) or init(self, *a))
    runs = [
        ppl_vae.evaluate(problem.model, problem.guide, problem.batch, 40, compile=mode, floats_at_once=300)
        for mode in ("off", "auto")
    ]
    assert torch.equal(runs[0].log_evidence, runs[1].log_evidence)
    assert torch.equal(runs[0].elbo, runs[1].elbo)
    assert not made[1].modes.closed
    assert "captured" in {mode for runs in made[1].by_shape.values() for mode in runs.seconds}


@pytest.mark.slow
def test_compiled_evaluation_has_the_eager_numbers_up_to_rounding(digits):
    model = VAE(digits, latent_dim=3, hidden=(8,))
    guide = MeanField(model, hidden=(8,))
    on, off = (ppl_vae.evaluate(model, guide, digits.test["x"][:20], 50, compile=mode) for mode in ("on", "off"))
    torch.testing.assert_close(on.log_evidence, off.log_evidence, atol=1e-3, rtol=1e-5)
    with pytest.raises(UserError, match="compile='on', but the programs cannot be captured"):
        ppl_vae.evaluate(model, Refined(guide, steps=1), digits.test["x"][:20], 50, compile="on")
