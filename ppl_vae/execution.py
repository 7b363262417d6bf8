"""Run the two programs: the guide for all particles at once, then the model replayed on its draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.missing import Holes
from ppl_vae.program import Batch, Pair
from ppl_vae.structure import Structure

__all__ = ["Run", "mark_summed", "run"]

PARTICLES = "_particles"


@dataclass(frozen=True)
class Run:
    """The traces of a guide and of its model replayed on it; `observed` holds the rows of held sites."""

    structure: Structure
    particles: int
    guide: Trace
    model: Trace
    observed: Mapping[str, tuple[Tensor, Tensor]]


def run(pair: Pair, structure: Structure, batch: Batch, particles: int = 1) -> Run:
    """Run the guide for all particles at once and replay the model on its draws."""
    holes = Holes(structure.holes, (), batch), Holes(structure.holes, structure.latents)
    guide: Any = _Sum(structure.summed_guide)(holes[0](pair.guide))
    model: Any = _Sum(structure.summed_model)(holes[1](pair.model))
    depth = structure.nesting
    if particles > 1:
        guide = pyro.plate(PARTICLES, particles, dim=-1 - depth)(guide)
        model = pyro.plate(PARTICLES, particles, dim=-1 - depth)(model)
        depth += 1
    if structure.enumerates:
        guide = EnumMessenger(first_available_dim=-1 - depth)(guide)
        model = EnumMessenger()(model)
    guide_trace = poutine.trace(guide).get_trace(**batch)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**batch)
    return Run(structure, particles, guide_trace, model_trace, holes[1].observed)


def mark_summed(pair: Pair, structure: Structure) -> tuple[Any, Any]:
    """Model and guide with their discrete latents marked for Pyro's own enumeration."""
    return _Sum(structure.summed_model)(pair.model), _Sum(structure.summed_guide)(pair.guide)


class _Sum(Messenger):
    """Mark the discrete sites that are summed out; whoever wrote the program need not."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Message) -> None:
        if msg["infer"] is None or msg["is_observed"]:
            return
        if msg["name"] in self.names:
            msg["infer"]["enumerate"] = "parallel"
        else:
            msg["infer"].pop("enumerate", None)
