"""The public functions and classes, each with one right call; and odd values to put in the place of an argument.

`calls()` gives every public callable with arguments that are right. A fuzzed call has one or two of them replaced.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from calls_of_objects import functions_of_rows, methods
from things import in_a_folder_of_its_own, long_table, pair_and_rows, things, with_a_table

import ppl_vae
from ppl_vae import bounds, diagnostics, likelihoods, models, priors, schedules, sklearn
from ppl_vae import guides as guides_


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


def functions() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Public functions, with arguments that keep them small."""
    made = things()
    few = {"particles": 30}
    yield ppl_vae.load, {"source": made.data.train["x"].numpy()}
    yield in_a_folder_of_its_own(ppl_vae.fit), pair_and_rows(data=made.data, epochs=1, batch_size=64, compile="off")
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
    yield ppl_vae.draw, {"model": made.model, "guide": made.guide, "data": made.data.test}
    yield from functions_that_write()
    yield from functions_of_rows()
    yield from methods()
    yield from functions_of_groups()
    yield ppl_vae.warm_start, {"model": made.model, "guide": made.guide, "start": made.result}
    yield diagnostics.anomaly, pair_and_rows(outliers=np.arange(len(made.data.test)) % 2 == 0, **few)
    yield diagnostics.calibration, pair_and_rows(simulations=20, draws=9)
    yield diagnostics.local_calibration, pair_and_rows(simulations=50, draws=20, permutations=19)
    yield diagnostics.collapse, pair_and_rows(rows=10, draws=3)
    ladder = {"chains": 2, "temperatures": 3, "steps": 1, "compile": "off"}
    yield diagnostics.annealed_evidence, pair_and_rows(**ladder)
    yield diagnostics.bidirectional, pair_and_rows(rows=4, **ladder)
    yield ppl_vae.certify, pair_and_rows(accuracy=1.0, draws=5, validate=0, compile="off")
    yield (
        diagnostics.factors,
        pair_and_rows(data=made.data.train, factors={"half": np.arange(len(made.data.train)) % 2}),
    )
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


def functions_of_groups() -> Iterator[tuple[Any, dict[str, Any]]]:
    """The functions that read rows, with rows of several visits each."""
    made = things()
    yield ppl_vae.load, {"source": long_table(), "group": "patient", "time": "day"}
    rows = {"model": made.group, "guide": made.group_guide, "data": made.visits.test}
    yield in_a_folder_of_its_own(ppl_vae.fit), rows | {"data": made.visits, "epochs": 1, "compile": "off"}
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
