"""The public functions and classes, each with one right call; and odd values to put in the place of an argument.

`calls()` gives every public callable with arguments that are right. A fuzzed call has one or two of them replaced.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
import resource
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
import torch

import ppl_vae
from ppl_vae import bounds, diagnostics, likelihoods, models, priors, schedules, sklearn
from ppl_vae import guides as guides_
from ppl_vae.guides import MeanField
from ppl_vae.models import M2, VAE, Multimodal


def in_a_folder_of_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, working in a folder that is gone afterwards: for what writes."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            return function(*args, **kwargs)

    return called


def fitted(cls: Any) -> Callable[..., Any]:
    """An estimator of scikit-learn, made and fitted in one call: its constructor only keeps its arguments."""

    def estimator(X: Any, y: Any = None, **parameters: Any) -> Any:
        return cls(**parameters).fit(X, y)

    own = list(inspect.signature(cls).parameters.values())
    rows = list(inspect.signature(estimator).parameters.values())[:2]
    estimator.__signature__ = inspect.Signature([*rows, *own])  # type: ignore[attr-defined]
    estimator.__module__, estimator.__qualname__ = "ppl_vae.sklearn", f"{cls.__name__}.fit"
    return estimator


class Call(NamedTuple):
    """A public callable under its name, and right arguments: those that it must have, and some that are small."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]


# -- what the right calls are made of ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Things:
    """A trained pair, its rows, and rows with a label."""

    data: Any
    model: Any
    guide: Any
    result: Any
    run: Path
    """The folder of that result."""
    labelled: Any
    half: Any
    half_guide: Any
    several: Any
    """Rows of fields a and b, and a label y."""
    both: Any
    both_guide: Any
    visits: Any
    """Rows of several visits each."""
    group: Any
    group_guide: Any
    holey: Any


@functools.cache
def things() -> Things:
    """Made once: the calls of a test leave them as they are, or the next one tells."""
    random = np.random.default_rng(0)
    values = random.normal(size=(40, 3)).astype("float32")
    data = ppl_vae.load(values)
    model = VAE(data, latent_dim=2, hidden=(4,))
    guide = MeanField(model, hidden=(4,))
    result = ppl_vae.fit(model, guide, data, epochs=1, compile="off")
    labelled = ppl_vae.load({"x": values, "y": np.arange(40) % 2})
    half = M2(labelled, latent_dim=2, hidden=(4,))
    half_guide = MeanField(half, hidden=(4,))
    ppl_vae.fit(half, half_guide, labelled, epochs=1, compile="off")
    holey = ppl_vae.load(np.where(values > 1, np.nan, values), missing="allow")
    several = ppl_vae.load({"a": values[:, :2], "b": values[:, 2:], "y": np.arange(40) % 2})
    both = Multimodal(several, latent_dim=2, private=2, hidden=(4,))
    both_guide = MeanField(both, hidden=(4,), experts="product")
    visits = ppl_vae.load(long_table(), group="patient", time="day")
    group = VAE(visits, latent_dim=2, hidden=(4,))
    group_guide = MeanField(group, hidden=(4,))
    return Things(
        *(data, model, guide, result, result.save(saved()), labelled, half, half_guide),
        *(several, both, both_guide, visits, group, group_guide, holey),
    )


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()  # which is gone when the process ends


def saved() -> Path:
    """Where the run is that is opened."""
    return Path(_folder().name) / "run"


def long_table() -> pandas.DataFrame:
    """Twenty patients with one to four visits each."""
    random = np.random.default_rng(1)
    count = random.integers(1, 5, 20)
    patient = np.repeat(np.arange(20), count)
    day = np.concatenate([np.arange(n) for n in count])
    return pandas.DataFrame({"patient": patient, "day": day, "dose": random.normal(size=len(day)), "sex": patient % 2})


def pair_and_rows(**more: Any) -> dict[str, Any]:
    made = things()
    return {"model": made.model, "guide": made.guide, "data": made.data.test} | more


def functions() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Public functions, with arguments that keep them small."""
    made = things()
    few = {"particles": 30}
    yield ppl_vae.load, {"source": made.data.train["x"].numpy()}
    yield ppl_vae.fit, pair_and_rows(data=made.data, epochs=1, batch_size=64, compile="off")
    yield ppl_vae.evaluate, pair_and_rows(**few)
    yield ppl_vae.log_weights, {"model": made.model, "guide": made.guide, "batch": made.data.test, "particles": 3}
    yield ppl_vae.check, pair_and_rows()
    yield ppl_vae.compare, {"pairs": {"a": (made.model, made.guide)}, "data": made.data.test, "particles": 30}
    yield ppl_vae.impute, pair_and_rows(draws=3, **few)
    yield ppl_vae.check_imputation, pair_and_rows(draws=3, **few)
    of_both = {"model": made.both, "guide": made.both_guide, "data": made.several}
    yield ppl_vae.predict, of_both | {"draws": 3}
    yield ppl_vae.reconstruct, pair_and_rows(draws=3)
    yield ppl_vae.to_arviz, pair_and_rows(draws=2, chains=2, **few)
    yield ppl_vae.posterior, pair_and_rows(draws=5, **few)
    yield ppl_vae.open_run, {"path": made.run}
    yield ppl_vae.sample, {"model": made.model, "guide": made.guide, "n": 3, "particles": 30}
    yield ppl_vae.encode, pair_and_rows(draws=2)
    yield ppl_vae.decode, {"model": made.model, "latents": {"z": np.zeros((3, 2), "float32")}}
    yield ppl_vae.traverse, pair_and_rows(row=1, steps=3)
    yield ppl_vae.interpolate, pair_and_rows(pairs=[0, 1], steps=3)
    yield ppl_vae.explain, pair_and_rows(rows=[0, 1], steps=2)
    yield ppl_vae.transfer, of_both | {"contents": [0, 1], "styles": [2], "take": ["w_a"]}
    yield ppl_vae.coherence, of_both | {"given": ["a"], "of": "b", "rows": 8}
    yield ppl_vae.wrap, {"encoder": torch.nn.Linear(3, 4), "decoder": torch.nn.Linear(2, 3)}
    yield from functions_that_write()
    yield from functions_of_groups()
    yield ppl_vae.warm_start, {"model": made.model, "guide": made.guide, "start": made.result}
    yield diagnostics.anomaly, pair_and_rows(outliers=np.arange(len(made.data.test)) % 2 == 0, **few)
    yield diagnostics.calibration, pair_and_rows(simulations=20, draws=9)
    yield diagnostics.collapse, pair_and_rows(rows=10, draws=3)
    ladder = {"chains": 2, "temperatures": 3, "steps": 1, "compile": "off"}
    yield diagnostics.annealed_evidence, pair_and_rows(**ladder)
    yield diagnostics.bidirectional, pair_and_rows(rows=4, **ladder)
    yield ppl_vae.certify, pair_and_rows(accuracy=1.0, draws=5, validate=0, compile="off")
    yield diagnostics.factors, pair_and_rows(factors={"half": np.arange(len(made.data.test)) % 2})
    yield diagnostics.factors_of_codes, {"latents": np.eye(24)[:, :2], "factors": {"half": np.arange(24) % 2}}
    yield diagnostics.gap, pair_and_rows(particles=30, steps=2, compile="off")
    yield diagnostics.loo_pit, pair_and_rows(rows=10, **few)
    yield diagnostics.predictive_check, pair_and_rows(rows=10, draws=5)
    yield diagnostics.two_sample, {"model": made.model, "data": made.data.test, "samples": 10, "permutations": 20}
    two = {"a": made.data.test["x"], "b": made.data.train["x"][:8]}
    yield diagnostics.mmd, two | {"permutations": 20}
    yield diagnostics.sliced_wasserstein, two | {"permutations": 20, "directions": 5}
    yield diagnostics.classifier_two_sample, two


def functions_that_write() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Functions and methods that leave files, in a folder that is gone afterwards."""
    made = things()
    small = {"data": "t.npy", "epochs": 1, "latent_dim": 2, "hidden": "4", "compile": "off"}
    yield (
        in_a_folder_of_its_own(with_a_table(ppl_vae.compare_grid)),
        {"guides": ["mean_field"], "seeds": 1, "out": "grid", "particles": 5, "iwae": [1], "jobs": 1} | small,
    )
    yield in_a_folder_of_its_own(made.result.save), {"path": "run"}
    moved = ppl_vae.traverse(**pair_and_rows(steps=3))
    yield in_a_folder_of_its_own(moved.save), {"path": "moved.png"}
    explained = ppl_vae.explain(**pair_and_rows(steps=2))
    yield in_a_folder_of_its_own(explained.save), {"path": "explained.npz"}


def with_a_table(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with rows in the file t.npy beside it."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        np.save("t.npy", things().data.train["x"].numpy())
        return function(*args, **kwargs)

    return called


def functions_of_groups() -> Iterator[tuple[Any, dict[str, Any]]]:
    """The functions that read rows, with rows of several visits each."""
    made = things()
    yield ppl_vae.load, {"source": long_table(), "group": "patient", "time": "day"}
    rows = {"model": made.group, "guide": made.group_guide, "data": made.visits.test}
    yield ppl_vae.fit, rows | {"data": made.visits, "epochs": 1, "compile": "off"}
    yield ppl_vae.evaluate, rows | {"particles": 30}
    yield ppl_vae.impute, rows | {"particles": 30, "draws": 2}
    yield ppl_vae.reconstruct, rows | {"draws": 2}


SCHEDULES = {
    schedules.WarmUp: {"epochs": 3},
    schedules.Cyclical: {"epochs": 3},
    schedules.Cosine: {"lr": 0.1, "epochs": 3},
    schedules.FreeBits: {"nats": 1.0},
    schedules.Capacity: {"gamma": 1.0, "stop": 2.0, "epochs": 3},
    schedules.Decomposed: {},
    schedules.FactorTC: {},
    schedules.DIP: {},
    schedules.MMD: {},
}
NEEDED = {"features": 3, "variance": 0.5, "cutpoints": 3, "labels": 2}
"""What a class must be given, if it is."""


def classes() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Public classes that people make objects of."""
    made = things()
    for name in models.__all__:
        cls = getattr(models, name)
        if inspect.isclass(cls) and not inspect.isabstract(cls) and "data" in inspect.signature(cls).parameters:
            labelled = ("M2", "CVAE", "M1", "M1M2", "Multimodal", "Regression", "InformationBottleneck")
            some = made.labelled if name in labelled else made.holey if name == "NotMIWAE" else made.data
            yield cls, {"data": some} | _small(cls)
    for name in guides_.__all__:
        cls = getattr(guides_, name)
        if inspect.isclass(cls) and not inspect.isabstract(cls) and "model" in inspect.signature(cls).parameters:
            yield cls, {"model": made.model} | _small(cls)
    for module in (priors, likelihoods, bounds):
        for name in module.__all__:
            cls = getattr(module, name)
            if inspect.isclass(cls) and not inspect.isabstract(cls) and not getattr(cls, "__abstract__", False):
                yield cls, {n: v for n, v in NEEDED.items() if n in required(cls)}
    yield from SCHEDULES.items()
    yield from estimators()


def estimators() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every estimator for scikit-learn, with rows to be fitted to."""
    made = things()
    X, y = made.data.train["x"].numpy(), np.arange(len(made.data.train))
    targets = {"SemiSupervisedVAEClassifier": y % 2, "VAERegressor": y / len(y)}
    for name in sklearn.__all__:
        cls = getattr(sklearn, name)
        small = {"latent_dim": 2, "hidden": (4,), "epochs": 1, "random_state": 0}
        yield fitted(cls), {"X": X, "y": targets.get(name)} | small


def required(cls: Any) -> set[str]:
    """The arguments without which it cannot be made."""
    return {p.name for p in inspect.signature(cls).parameters.values() if p.default is p.empty}


def _small(cls: Any) -> dict[str, Any]:
    usual = {"hidden": (4,), "latent_dim": 2}
    return {name: value for name, value in usual.items() if name in inspect.signature(cls).parameters}


def called(some: Iterable[tuple[Any, dict[str, Any]]]) -> list[Call]:
    """Functions or classes and their arguments, with their names."""
    return [Call(f"{f.__module__}.{f.__qualname__}", f, a) for f, a in some]


@functools.cache
def calls() -> list[Call]:
    """All of them."""
    return called([*functions(), *classes()])


# -- odd values ----------------------------------------------------------------------------------------------------


class Odd:
    """A thing of no kind."""

    def __repr__(self) -> str:
        return "<odd>"


class Own(Exception):
    """What a function of the user's raises: it comes through as it is."""


def fails(*args: Any, **kwargs: Any) -> None:
    """A function of the user's that does not work."""
    raise Own("mine")


def _odd() -> dict[str, Any]:
    made = things()
    x = made.data.test["x"]
    return {
        "None": None,
        "True": True,
        "empty text": "",
        "text": "nonsense",
        "escape codes": "\x1b]0;title\x07",
        "long text": "x" * 10_000,
        "bytes": b"x",
        "-1": -1,
        "0": 0,
        "1": 1,
        "2.5": 2.5,
        "-0.1": -0.1,
        "nan": float("nan"),
        "inf": float("inf"),
        "1e308": 1e308,
        "10**12": 10**12,
        "10**30": 10**30,
        "-10**30": -(10**30),
        "1j": 1j,
        "np.int64": np.int64(2),
        "np.float32": np.float32(0.5),
        "np.bool": np.bool_(True),
        "np.array(2)": np.array(2),
        "np.array of numbers": np.array([1, 2]),
        "np.array of words": np.array(["a", "b"]),
        "np.array of objects": np.array([Odd(), Odd()], dtype=object),
        "np.array of nothing": np.zeros((0, 3)),
        "np.array of NaN": np.full((4, 3), np.nan),
        "np.array of inf": np.full((4, 3), np.inf),
        "np.array complex": np.ones((4, 3), dtype=complex),
        "torch.tensor(2)": torch.tensor(2),
        "tensor of no rows": torch.zeros(0, 3),
        "tensor of another shape": torch.zeros(3, 7, 7),
        "tensor of one column more": torch.zeros(5, 4),
        "tensor of doubles": x.double(),
        "a row": x[0],
        "frame of nothing": pandas.DataFrame(),
        "frame of others": pandas.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"]}),
        "series": pandas.Series([1.0, 2.0]),
        "[]": [],
        "()": (),
        "[1, 'a']": [1, "a"],
        "(0,)": (0,),
        "(10**9, 10**9)": (10**9, 10**9),
        "{}": {},
        "{'x': 3}": {"x": 3},
        "dict of others": {"nobody": x},
        "dict of unequal rows": {"x": x, "y": torch.zeros(3)},
        "{1: 2}": {1: 2},
        "set": {1, 2},
        "object": Odd(),
        "class": Odd,
        "function": lambda *args, **kwargs: None,
        "function that fails": fails,
        "module": ppl_vae,
        "generator": (i for i in range(3)),
        "Path": Path("no/such/file"),
        "slice": slice(3),
        "another model": made.half,
        "another guide": made.half_guide,
        "data": made.data,
        "labelled rows": made.labelled.test,
        "layer": torch.nn.Linear(3, 3),
        "dtype": torch.float16,
    }


@functools.cache
def odd() -> dict[str, Any]:
    """Odd values by name."""
    return _odd()


class Case(NamedTuple):
    """One fuzzed call."""

    call: Call
    changes: tuple[tuple[str, str], ...]
    """Which argument has which odd value, by its name."""

    def __str__(self) -> str:
        return f"{self.call.name}({', '.join(f'{name}={value}' for name, value in self.changes)})"

    def run(self) -> Any:
        """Make the call."""
        arguments = self.call.arguments | {name: odd()[value] for name, value in self.changes}
        return self.call.function(**arguments)


def single(some: Iterable[Call]) -> list[Case]:
    """Every parameter of these callables with every odd value."""
    found = []
    for call in some:
        parameters = inspect.signature(call.function).parameters.values()
        named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        names = dict.fromkeys([*named, *call.arguments])
        found += [Case(call, ((name, value),)) for name in names for value in odd()]
    return found


@functools.cache
def sampled(count: int, seed: int) -> list[Case]:
    """Some of these, every fourth with a second one of the same callable."""
    chance = random.Random(seed)
    cases = single(calls())
    of: dict[str, list[Case]] = {}
    for case in cases:
        of.setdefault(case.call.name, []).append(case)
    found = []
    for i, case in enumerate(chance.sample(cases, count)):
        other = chance.choice(of[case.call.name])
        changes = dict(case.changes) | (dict(other.changes) if i % 4 == 0 else {})
        found.append(Case(case.call, tuple(changes.items())))
    return found


# -- what may become of a call ---------------------------------------------------------------------------------------


class Slow(BaseException):
    """A call that did not come back."""


@contextmanager
def limited(seconds: int, gigabytes: float = 4.0) -> Iterator[None]:
    """Inside, what computes for longer is ended, and more memory than this is refused as on a small machine.

    Processor time counts, whatever else the machine does; a call that waits for ever is ended by the clock.
    """

    def ring(*_: Any) -> None:
        raise Slow

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    usual, most = resource.getrlimit(resource.RLIMIT_AS)
    before = {each: signal.signal(each, ring) for each in (signal.SIGPROF, signal.SIGALRM)}
    resource.setrlimit(resource.RLIMIT_AS, (taken + int(gigabytes * 2**30), most))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(30 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for each, handler in before.items():
            signal.signal(each, handler)
        resource.setrlimit(resource.RLIMIT_AS, (usual, most))
