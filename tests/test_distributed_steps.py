"""A step divided among processes: the sum of their parts is the step of one process, with its draws."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import BOUNDS, F64, LOWER_BOUNDS, MODELS, PROBLEMS, is_defined, own_guide
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import ELBO, IWAE, PIWAE
from ppl_vae.checks.analysis import analyse
from ppl_vae.distributed.group import Group, Lost, joined
from ppl_vae.guides import FullRank, MeanField
from ppl_vae.programs.program import Pair
from ppl_vae.schedules import Capacity, FreeBits
from ppl_vae.training import Settings
from ppl_vae.training._distributed import DistributedStep, refuse_undivided
from ppl_vae.training._steps import make_step

SEED = 7


class Pretended(Group):
    """Process `rank` of `size`, in one: what the others say is what they said when they were asked before."""

    def __init__(self, rank: int, size: int, said: dict[tuple[int, int], torch.Tensor]) -> None:
        super().__init__(rank, size)
        self.said, self.asked = said, 0

    def every(self, values):
        self.asked += 1
        self.said[self.asked, self.rank] = values.clone()
        return [self.said.get((self.asked, r), values) for r in range(self.size)]

    def total(self, values):
        return values.copy_(torch.stack(self.every(values)).sum(0))


def step_of(pair, structure, bound, rows, **settings):
    return make_step(pair, structure, bound, None, rows, Settings(**settings))


def parts(step, batch, size):
    """What each process of so many has of the outcome and of the gradients; asked again until all have heard all."""
    said = {}
    while True:
        before, found = dict(said), []
        for rank in range(size):
            group = Pretended(rank, size, said)
            own = DistributedStep(step, group)
            step.total = group.total
            torch.manual_seed(SEED)
            found.append(own._values(own._enter(batch)))
        if said.keys() == before.keys() and all(torch.equal(said[key], before[key]) for key in said):
            step.share = step.draws = None
            return found


def assert_adds_up(step, batch, size=2, exact=1e-6):
    torch.manual_seed(SEED)
    whole = DistributedStep(step, Group())._values(batch)
    state = torch.get_rng_state()
    several = parts(step, batch, size)
    assert torch.equal(state, torch.get_rng_state())  # the next step draws as one process does
    assert whole[0].isfinite()
    for expected, *own in zip(whole, *several, strict=True):
        if expected is None:
            assert own == [None] * size
            continue
        assert (sum(own) - expected).norm() <= exact * expected.norm() + 1e-9


def _undefined(bound, problem):
    return not is_defined(bound, problem) or problem.structure.is_one_unit


PAIRS = [(b, p) for b in LOWER_BOUNDS for p in PROBLEMS if not _undefined(BOUNDS[b](4), p)]
FEW = {("ELBO", "groups of unequal size"), ("IWAE", "style, some labels"), ("ELBO, stl", "linear-Gaussian with holes")}


@pytest.mark.parametrize(
    ("bound", "problem"),
    [pytest.param(b, p, marks=() if (b, p.name) in FEW else pytest.mark.slow) for b, p in PAIRS],
    ids=str,
)
def test_parts_add_up_to_the_step_of_one_process(bound, problem):
    step = step_of(Pair(problem.model, problem.guide), problem.structure, BOUNDS[bound](4), 100)
    assert_adds_up(step, problem.batch, 2 if bound == "ELBO" else 3)


@cache
def some_digits():
    return ppl_vae.load("digits", labels=50)


def in_doubles(pair, batch):
    return pair.double(), {n: v.double() if v.is_floating_point() else v for n, v in batch.items()}


def step_of_model(model, guide, batch, bound, rows=100, **settings):
    pair, batch = in_doubles(Pair(model, guide), batch)
    return step_of(pair, analyse(pair, batch), bound, rows, **settings), batch


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "M2" else pytest.mark.slow) for n in MODELS if n != "VAE, convolutions"]
)
def test_models_of_the_table_add_up(name):
    torch.manual_seed(1)
    if name.startswith("CVAE"):  # it is given labels, as float32
        data = ppl_vae.load("digits")
        model, batch = MODELS[name](data), data.train.batch(slice(0, 7))
        pair = Pair(model, own_guide(model))
        assert_adds_up(step_of(pair, analyse(pair, batch), ELBO(), 100), batch, exact=1e-4)
        return
    model = MODELS[name](some_digits())
    step, batch = step_of_model(model, own_guide(model), some_digits().train.batch(slice(0, 7)), ELBO())
    assert_adds_up(step, batch)


def test_iwae_of_a_flow_with_dropout_and_holes_adds_up():
    """Noise inside of networks is of rows, too."""
    torch.manual_seed(1)
    x = torch.randn(40, 5)
    x[torch.rand(40, 5) < 0.2] = torch.nan
    data = ppl_vae.load(x, missing="allow")
    model = ppl_vae.models.VAE(data, latent_dim=2, hidden=(8,))
    guide = ppl_vae.guides.IAF(model, flows=1, width=8, hidden=(8,))
    guide.encoder.dropout = nn.Dropout(0.5)
    guide.encoder.register_forward_hook(lambda module, _, found: module.dropout(found))
    step, batch = step_of_model(model, guide, data.train.batch(slice(0, 9)), IWAE(5))
    assert step.pair.train() is step.pair
    assert_adds_up(step, batch, 4)


class Rates(PyroModule):
    """Latents whose samplers take more or fewer random numbers by their parameters, of which one is shared."""

    def forward(self, x=None):
        level = pyro.sample("level", dist.Gamma(torch.tensor(2.0, dtype=F64), 1.0))
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(torch.tensor(1.5, dtype=F64), 1.0))
            share = pyro.sample("share", dist.Dirichlet(torch.ones(3, dtype=F64)))
            kind = pyro.sample("kind", dist.Beta(torch.tensor(2.0, dtype=F64), 2.0))
            pyro.sample("x", dist.Normal(level * rate * share[..., 0] + kind, 1.0), obs=x)


class RatesGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 7, dtype=F64)
        self.level = nn.Parameter(torch.zeros(2, dtype=F64))

    def forward(self, x=None):
        pyro.sample("level", dist.Gamma(*self.level.exp()))
        with pyro.plate("data", len(x)):
            found = self.net(x.unsqueeze(-1)).exp()
            pyro.sample("rate", dist.Gamma(found[..., 0], found[..., 1]))
            pyro.sample("share", dist.Dirichlet(found[..., 2:5]))
            pyro.sample("kind", dist.Beta(found[..., 5], found[..., 6]))


def rates_step(bound=None, rows=6, **settings):
    torch.manual_seed(2)
    pair, batch = Pair(Rates(), RatesGuide()), {"x": torch.randn(rows, dtype=F64)}
    return step_of(pair, analyse(pair, batch), bound or ELBO(3), 100, **settings), batch


def test_samplers_that_look_at_all_rows_are_told_of_them():
    """Gamma, Dirichlet and Beta draw as many numbers for a row as their parameters ask for."""
    step, batch = rates_step()
    own = DistributedStep(step, Group(0, 2))
    own._enter(batch)
    assert own.talks == "a sampler looks at the parameters of all rows"
    step.share = step.draws = None
    assert_adds_up(step, batch, 2)


class Chosen(PyroModule):
    """A discrete latent that is drawn, in a plate inside of the rows."""

    def forward(self, x=None):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("items", 4, dim=-1):
            k = pyro.sample("k", dist.Categorical(torch.ones(3, dtype=F64) / 3))
            pyro.sample("x", dist.Normal(k.double(), 1.0), obs=x)


class ChosenGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.logits = nn.Linear(1, 3, dtype=F64)

    def forward(self, x=None):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("items", 4, dim=-1):
            probs = dist.Categorical(logits=self.logits(x.unsqueeze(-1)))
            pyro.sample("k", probs, infer={"enumerate": None})


def test_flattened_draws_are_told_apart():
    """A categorical draws [particle x row x item] in one dim."""
    torch.manual_seed(2)
    pair, batch = Pair(Chosen(), ChosenGuide()), {"x": torch.randn(5, 4, dtype=F64)}
    structure = analyse(pair, batch)
    step = step_of(pair, structure, ELBO(3), 100)
    assert_adds_up(step, batch, 2)


@pytest.mark.parametrize("schedule", [FreeBits(0.7), Capacity(5.0, 1.0, 10)], ids=str)
def test_schedules_of_means_look_at_all_rows(schedule):
    torch.manual_seed(1)
    x = torch.randn(9, 5, dtype=F64)
    model = ppl_vae.models.VAE(ppl_vae.load(x), latent_dim=2, hidden=(8,))
    step, batch = step_of_model(model, MeanField(model, hidden=(8,)), {"x": x}, ELBO(), beta=schedule)
    assert_adds_up(step, batch, 2)


def test_more_processes_than_rows():
    step, batch = rates_step(rows=3)
    assert_adds_up(step, batch, 5)


def test_rows_of_strata_keep_their_weights():
    torch.manual_seed(1)
    model = MODELS["M2"](some_digits())
    step, batch = step_of_model(
        model, own_guide(model), some_digits().train.batch(slice(0, 7)), ELBO(), label_weight=3.0
    )
    step.row_weights = torch.linspace(0.4, 1.6, 7, dtype=F64)
    assert_adds_up(step, batch, 2)


def test_piwae_and_a_full_covariance_add_up():
    torch.manual_seed(1)
    x = torch.randn(9, 5, dtype=F64)
    model = ppl_vae.models.VAE(ppl_vae.load(x), latent_dim=2, hidden=(8,))
    step, batch = step_of_model(model, FullRank(model, hidden=(8,)), {"x": x}, PIWAE(2, 3))
    assert_adds_up(step, batch, 3)


# -- what is refused ---------------------------------------------------------------------------------------------------


class Odd(PyroModule):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
            pyro.sample("x", dist.Normal(z + 0.1 * self.draw(z), 1.0), obs=x)


class OddGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc + torch.zeros(len(x), dtype=F64), 1.0))


REFUSED = {
    "an order of the rows": lambda z: torch.randperm(z.shape[-1]).double(),
    "one row of another": lambda z: torch.randint(z.shape[-1], z.shape).double(),
    "a number that depends on values": lambda z: torch.randn(int((z > 0).sum()), dtype=F64).sum(),
    "as often as values ask for": lambda z: sum(torch.randn(z.shape[-1], dtype=F64) for _ in range(int((z > 0).sum()))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_draws_that_cannot_be_divided_are_refused(name):
    pair, batch = Pair(Odd(REFUSED[name]), OddGuide()), {"x": torch.linspace(-2, 2, 8, dtype=F64)}
    step = step_of(pair, analyse(pair, batch), ELBO(), 100)
    with pytest.raises(UserError, match=r"processes cannot share.*distributed='off'"):
        for _ in range(5):
            parts(step, batch, 2)


def _own_rows(x=None):
    with pyro.plate("data", 10, subsample_size=4) as rows:
        z = pyro.sample("z", dist.Normal(torch.zeros(4, dtype=F64), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=None if x is None else x[rows])


def _own_rows_guide(x=None):
    with pyro.plate("data", 10, subsample_size=4):
        pyro.sample("z", dist.Normal(torch.zeros(4, dtype=F64), 1.0))


@pytest.mark.parametrize(
    ("bound", "problem", "words"),
    [
        (Trace_ELBO(), "linear-Gaussian", "one of Pyro's own"),
        (ELBO(), "one unit", "all data are one unit"),
        (ELBO(), "its own rows", "draws its own rows"),
    ],
    ids=["pyro", "one unit", "own rows"],
)
def test_what_has_no_rows_to_divide_is_refused(bound, problem, words):
    if problem == "its own rows":
        structure = analyse(Pair(_own_rows, _own_rows_guide), {"x": torch.randn(10, dtype=F64)})
    else:
        found = next(p for p in PROBLEMS if p.name == "linear-Gaussian")
        structure = replace(found.structure, plate=None) if problem == "one unit" else found.structure
    refuse_undivided(structure, bound, Group())
    with pytest.raises(UserError, match=rf"{words}.*train in one process, distributed='off'"):
        refuse_undivided(structure, bound, Group(0, 2))


def test_compile_on_is_refused_where_processes_talk_within_a_step():
    step, batch = rates_step(compile="on")
    own = DistributedStep(step, Group(0, 2))
    own._enter(batch)
    with pytest.raises(UserError, match="compile='on', but a sampler looks at the parameters of all rows"):
        own.accelerate()
    step, _ = rates_step(compile="auto")
    own = DistributedStep(step, Group(0, 2))
    own._enter(batch)
    own.accelerate()
    assert own.step is step
    assert ["a sampler looks" in finding.problem for finding in own.findings] == [True]


def test_the_launcher_is_known_by_its_variables(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        assert joined("auto").size == 1
        monkeypatch.setenv(name, value)
    assert joined("off").size == 1
    monkeypatch.setenv("PPL_VAE_TIMEOUT", "soon")
    with pytest.raises(UserError, match="PPL_VAE_TIMEOUT must be a number of seconds, got 'soon'"):
        joined("auto")
    monkeypatch.setenv("PPL_VAE_TIMEOUT", "0.2")
    with pytest.raises(Lost, match="do not find each other at localhost:1"):
        joined("auto")


def test_a_mean_over_rows_is_found_by_the_proof():
    class Normalised(OddGuide):
        def forward(self, x=None):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.loc + x - x.mean(), 1.0))

    pair, batch = Pair(Odd(torch.zeros_like), Normalised()), {"x": torch.linspace(-2, 5, 8, dtype=F64)}
    step = step_of(pair, analyse(pair, batch), ELBO(), 100)
    said = {}
    for _ in range(3):
        told = []
        for rank in range(2):
            group = Pretended(rank, 2, said)
            step.total = group.total
            torch.manual_seed(SEED)
            told.append(DistributedStep(step, group)._same(batch))
    assert told == [False, False]
