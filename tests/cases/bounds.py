"""The table of bounds: a constructor from the number of particles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases.problem import Problem
from ppl_vae.bounds import CIWAE, CUBO, ELBO, IWAE, MIWAE, PIWAE, TVO, Renyi

LOWER_BOUNDS: dict[str, Callable[[int], Any]] = {
    "ELBO": lambda k: ELBO(k),
    "ELBO, analytic KL": lambda k: ELBO(k, analytic_kl=True),
    "ELBO, stl": lambda k: ELBO(k, estimator="stl"),
    "IWAE": lambda k: IWAE(k),
    "IWAE, dreg": lambda k: IWAE(k, estimator="dreg"),
    "Renyi(0)": lambda k: Renyi(0.0, k),
    "Renyi(0.5)": lambda k: Renyi(0.5, k),
    "Renyi(2)": lambda k: Renyi(2.0, k),
    "MIWAE": lambda k: MIWAE(2, k // 2),
    "MIWAE, dreg": lambda k: MIWAE(2, k // 2, estimator="dreg"),
    "PIWAE": lambda k: PIWAE(2, k // 2),
    "CIWAE": lambda k: CIWAE(0.5, k),
    "TVO": lambda k: TVO(5, k),
}
UPPER_BOUNDS: dict[str, Callable[[int], Any]] = {"CUBO": lambda k: CUBO(2.0, k)}
BOUNDS = LOWER_BOUNDS | UPPER_BOUNDS


def is_defined(bound: Any, problem: Problem) -> bool:
    """Whether a bound is defined for a problem; where not, it has to refuse it (tested too)."""
    discrete = problem.name in {
        "mixture, classifier",
        "mixture, some labels",
        "style and label",
        "style, some labels",
        "chain, classifiers",
    }
    if isinstance(bound, PIWAE) and ("scored" in problem.tags or discrete):
        return False
    return not (bound.estimator == "dreg" and discrete)
