"""Whatever a model or guide raises becomes one line with the site, the shapes and a remedy that fits."""

from __future__ import annotations

import itertools

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import ppl_vae
from ppl_vae.bounds import ELBO
from ppl_vae.errors import ProgramError, UserError
from ppl_vae.guides import MeanField
from ppl_vae.programs.failures import remedy_for

ROWS = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


def raising(error):
    def fault():
        raise error

    return fault


FAULTS = {
    "RuntimeError": (lambda: torch.ones(2) + torch.ones(3), "event dims"),
    "KeyError": (lambda: {}["mean"], "mend that line"),
    "IndexError": (lambda: torch.ones(2)[torch.ones(2) / 2], "field.long()"),
    "AttributeError": (lambda: torch.ones(2).nothing, "mend that line"),
    "ZeroDivisionError": (lambda: 1 / 0, "away from 0"),
    "NotImplementedError": (raising(NotImplementedError("no such thing")), "what is missing"),
    "AssertionError": (raising(AssertionError()), "mend that line"),
    "NameError": (lambda: undefined, "mend that line"),  # noqa: F821
    "TypeError": (lambda: len(3), "mend that line"),
    "ValueError": (raising(ValueError("Expected parameter scale to satisfy the constraint Positive")), "softplus"),
    "LinAlgError": (lambda: torch.linalg.cholesky(-torch.eye(2)), "diagonal"),
    "dtype": (lambda: torch.ones(2) @ torch.ones(2, dtype=torch.float64), "one type"),
    "RecursionError": (raising(RecursionError("too deep")), "mend that line"),
    "StopIteration": (lambda: next(iter(())), "mend that line"),
    "FileNotFoundError": (raising(FileNotFoundError("weights.pt")), "mend that line"),
}


def failing(fault, where, after=0):
    """A model and a guide, one of which fails after its site z, from the run number `after` on."""
    runs = itertools.count()

    def fail(program):
        if program == where and next(runs) >= after:
            fault()

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            fail("model")
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x=None):
        scale = pyro.param("scale", torch.tensor(0.7))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, scale).to_event(1))
            fail("guide")

    return model, guide


CALLS = {
    "fit": lambda model, guide: ppl_vae.fit(model, guide, ROWS, epochs=1, compile="off"),
    "evaluate": lambda model, guide: ppl_vae.evaluate(model, guide, ROWS, particles=2),
    "log_weights": lambda model, guide: ppl_vae.log_weights(model, guide, ROWS),
    "impute": lambda model, guide: ppl_vae.impute(model, guide, ROWS.masked_fill(ROWS > 1, torch.nan), draws=2),
    "pyro": lambda model, guide: ELBO().loss(model, guide, x=ROWS),
}


@pytest.mark.parametrize("where", ["model", "guide"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_exception_is_a_line(fault, call, where):
    cause, remedy = FAULTS[fault]
    with pytest.raises(ProgramError) as told:
        CALLS[call](*failing(cause, where))
    text = str(told.value)
    assert told.value.site == "z"
    assert f"the {where} fails at or after site 'z'" in text
    assert remedy in told.value.remedy
    assert "(20, 3)" in text or "(8, 3)" in text or "(4, 3)" in text
    assert "\n" not in text
    assert "test_failures.py:" in text
    if fault not in ("RuntimeError", "ValueError", "dtype", "LinAlgError"):
        assert fault in text


def test_the_same_while_a_guide_is_made_and_in_check():
    for fault, (cause, remedy) in FAULTS.items():
        model, guide = failing(cause, "model")
        with pytest.raises(ProgramError, match="the model fails at or after site 'z'"):
            MeanField(model, ROWS)
        found = ppl_vae.check(model, guide, ROWS)
        assert [f.site for f in found] == ["z"], fault
        assert remedy in found[0].remedy


def test_an_input_that_is_missing_after_the_end_of_a_row_is_named():
    """Groups have fewer members than places: their inputs are NaN there, which is no matter of plates or scales."""

    def model(dose, pain):
        with pyro.plate("groups", len(pain), dim=-2):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
            with pyro.plate("visits", pain.shape[1], dim=-1):
                pyro.sample("pain", dist.Normal(u + dose, 1.0), obs=pain)

    visits = pd.DataFrame({"patient": [0, 0, 0, 1, 1, 2, 3, 4, 4], "dose": range(9), "pain": range(9)}, dtype=float)
    data = ppl_vae.load(visits, group="patient", kinds=dict.fromkeys(("dose", "pain"), "real"), test=0, validation=0)
    with pytest.raises(ProgramError, match=r"dose, pain have missing entries .*an input has to be filled") as told:
        MeanField(model, data)
    assert "\n" not in str(told.value)
    MeanField(lambda dose, pain: model(dose.nan_to_num(), pain), data)


@pytest.mark.parametrize("bound", [ELBO(), Trace_ELBO()], ids=["ours", "pyro"])
@pytest.mark.parametrize("where", ["model", "guide"])
def test_a_later_batch_is_named_and_the_weights_are_put_back(bound, where):
    rows = ROWS.clone()
    rows[-1] = 7.0

    def fault(x):
        if len(x) == 4 and bool((x == 7.0).any()):
            raise KeyError("seven")

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            fault(x if where == "model" else ROWS)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x=None):
        scale = pyro.param("scale", torch.tensor(0.7))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, scale).to_event(1))
            fault(x if where == "guide" else ROWS)

    with pytest.raises(ProgramError, match=rf"at epoch 1, step \d the {where} fails .*KeyError: 'seven'.*x \(4, 3\)"):
        ppl_vae.fit(model, guide, rows, bound, epochs=2, batch_size=4, compile="off")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_who_wants_to_stop_stops(stop):
    for call in CALLS.values():
        with pytest.raises(stop):
            call(*failing(raising(stop()), "model"))


def test_an_error_of_ours_comes_as_it_is():
    for call in CALLS.values():
        with pytest.raises(UserError, match=r"^mine(: see the message)?$"):
            call(*failing(raising(UserError("mine")), "guide"))


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


def test_a_last_batch_of_one_row_joins_the_one_before_it():
    rows, model = torch.randn(65, 5), Normalised()
    result = ppl_vae.fit(model, MeanField(model, rows, hidden=(8,)), rows, epochs=2, batch_size=32, compile="off")
    assert torch.isfinite(torch.tensor(result.history[-1]["train"]))


def test_batches_of_one_row_are_a_line_with_the_remedy():
    rows, model = torch.randn(9, 5), Normalised()
    with pytest.raises(ProgramError, match="batch_size="):
        ppl_vae.fit(model, MeanField(model, rows, hidden=(8,)), rows, epochs=1, batch_size=1, compile="off")


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("z"), ValueError()]
)
def test_every_error_has_a_remedy(error):
    assert remedy_for(error)


def test_a_first_gradient_that_is_not_finite_is_named_before_training():
    def model(x=None):
        power = pyro.param("power", torch.zeros(()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            norm = (z * power).square().sum(-1, keepdim=True).sqrt()  # the slope of a root at 0
            pyro.sample("x", dist.Normal(norm.expand(z.shape), 1.0).to_event(1), obs=x)

    guide = MeanField(model, ROWS, hidden=(8,))
    (found,) = (f for f in ppl_vae.check(model, guide, ROWS) if f.severity == "error")
    assert "power has a gradient that is not finite" in found.problem
    assert "clamp" in found.remedy
    with pytest.raises(ProgramError, match="not finite on the first rows"):
        ppl_vae.fit(model, guide, ROWS, epochs=1)


def eight(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def series(y):
    z = 0.0
    for t in range(20):
        z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
        pyro.sample(f"y{t}", dist.Normal(z, 1.0), obs=y[t])


SCHOOLS = {"y": torch.zeros(8), "sigma": torch.ones(8)}
"""A program whose plate has a number as its size, as many statisticians write it."""


def at_zero(y, sigma):
    pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("schools", 8):
        pyro.sample("theta", dist.Normal(torch.zeros(8), 1.0))


@pytest.mark.parametrize(
    "call",
    [
        lambda: MeanField(eight, SCHOOLS),
        lambda: ppl_vae.fit(eight, at_zero, SCHOOLS, epochs=1),
        lambda: ppl_vae.log_weights(eight, at_zero, {n: v[:4] for n, v in SCHOOLS.items()}),
        lambda: ppl_vae.predict(eight, at_zero, SCHOOLS, "y"),
        lambda: ppl_vae.fit(series, MeanField(series), {"y": torch.zeros(20)}, epochs=1),
    ],
    ids=["guide", "fit", "weights", "predict", "series"],
)
def test_a_program_of_a_fixed_size_is_told_of_one_unit(call):
    with pytest.raises(ProgramError) as caught:
        call()
    assert "or load(..., rows=None)" in caught.value.remedy
    assert "to_event" not in str(caught.value)


def test_a_program_of_a_fixed_size_runs_as_one_unit():
    assert MeanField(eight, ppl_vae.load(SCHOOLS, rows=None)).ready
