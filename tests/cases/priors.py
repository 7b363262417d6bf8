"""The tables of priors; those that are p(z | y) by themselves."""

from __future__ import annotations

from collections.abc import Callable

from ppl_vae.priors import (
    CouplingFlowPrior,
    Diagonal,
    Exemplar,
    FlowPrior,
    LabelConditional,
    Mixture,
    Prior,
    SplineFlowPrior,
    StandardNormal,
    VampPrior,
)

PRIORS: dict[str, Callable[[], Prior]] = {
    "StandardNormal": StandardNormal,
    "Diagonal": Diagonal,
    "Mixture": lambda: Mixture(4),
    "VampPrior": lambda: VampPrior(6),
    "Exemplar": lambda: Exemplar(10),
    "FlowPrior": lambda: FlowPrior(2, (8,)),
    "SplineFlowPrior": lambda: SplineFlowPrior(2, (8,), bins=4),
    "CouplingFlowPrior": lambda: CouplingFlowPrior(2, (8,)),
}
CONDITIONAL_PRIORS: dict[str, Callable[[], Prior]] = {"LabelConditional": lambda: LabelConditional(3)}
