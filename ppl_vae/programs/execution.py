"""Run the two programs: the guide for all particles at once, then the model replayed on its draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
from pyro import poutine
from pyro.poutine import runtime
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.errors import ProgramError
from ppl_vae.programs.enumerating import enumerated_on
from ppl_vae.programs.failures import our_error
from ppl_vae.programs.gradients import Estimator, PathScale, detached, rescaled
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Batch, Programs
from ppl_vae.programs.structure import Structure

__all__ = [
    "PARTICLES",
    "LastSite",
    "PairTrace",
    "check_sites",
    "for_particles",
    "isolated",
    "mark_summed",
    "masks_as_they_were",
    "run",
    "summing",
    "traced",
]

PARTICLES = "_particles"


@dataclass(frozen=True)
class PairTrace:
    """The traces of a guide and of its model replayed on it; `observed` holds the rows of held sites.

    `scores` is the guide evaluated at its own draws with their path cut, for estimators that need its score.
    """

    structure: Structure
    particles: int
    guide: Trace
    model: Trace
    observed: Mapping[str, tuple[Tensor, Tensor]]
    scores: Trace | None = None


class masks_as_they_were(Messenger):
    """Keep the mask of a site as it is at its statement: `seen |= ...` in a loop changes it afterwards."""

    def _pyro_sample(self, msg: Message) -> None:
        if isinstance(msg["mask"], Tensor):
            msg["mask"] = msg["mask"].clone()


def traced(program: Any, batch: Batch) -> Trace:
    """The trace of a program; an error of ours that Pyro wrapped in its own comes out as it was."""
    try:
        return poutine.trace(program).get_trace(**batch)
    except (RuntimeError, ValueError, TypeError) as error:
        ours = our_error(error)
        if ours is not None:
            raise ours from ours.__cause__
        raise


def run(
    pair: Programs,
    structure: Structure,
    batch: Batch,
    particles: int = 1,
    *,
    estimator: Estimator = "reparameterised",
    path: PathScale | None = None,
) -> PairTrace:
    """Run the guide for all particles at once and replay the model on its draws.

    `path` scales the gradients that flow into the draws: those of the model, and with "dreg" also those of the
    guide's density at its draws.
    """
    holes = Holes(structure.holes, (), batch), Holes(structure.holes, structure.latents)
    depth = structure.nesting + (particles > 1)
    plain_guide = for_particles(holes[0](pair.guide), structure, particles)
    guide: Any = summing(structure.summed_guide)(plain_guide)
    model: Any = summing(structure.summed_model)(for_particles(holes[1](pair.model), structure, particles))
    if structure.masked:
        model = masks_as_they_were()(model)
    if structure.enumerates:
        guide = EnumMessenger(first_available_dim=-1 - depth)(guide)
    trace = holes[0].hold(traced(guide, batch))
    drawn = trace if path is None else rescaled(trace, path)
    replayed = enumerated_on(drawn, model) if structure.enumerates else poutine.replay(model, trace=drawn)
    model_trace = holes[1].hold(traced(replayed, batch))
    for role, seen in (("guide", trace), ("model", model_trace)):
        check_sites(structure, role, seen.nodes)
    if estimator == "reparameterised":
        return PairTrace(structure, particles, trace, model_trace, holes[1].observed)
    density, scores = drawn, detached(trace)
    if len(structure.latents) > 1:  # a later site's parameters depend on earlier draws: evaluate it at the changed ones
        scores = traced(poutine.replay(plain_guide, trace=scores), batch)
        if path is not None:
            density = traced(poutine.replay(plain_guide, trace=drawn), batch)
    return PairTrace(structure, particles, density, model_trace, holes[1].observed, scores)


def check_sites(structure: Structure, role: str, sites: Mapping[str, Mapping[str, Any]]) -> None:
    """Hold a run of one program to the structure that was read: a site that nobody has read would be weighed wrongly.

    Sites may be missing from a run (the last steps of a shorter series); Python alone is looked at, no values.
    """
    known = structure.plates_of.get(role, {})
    for name, site in sites.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        around = {frame.name for frame in site["cond_indep_stack"]} - {PARTICLES}
        if name not in known:
            raise ProgramError(
                name,
                f"site {name!r} of the {role} came with this batch, and was not there when the pair was read",
                "make the sites of a program the same for all rows (mask those that a row does not have), or let the "
                "longest row be among those on which it is read",
            )
        if around != known[name]:
            raise ProgramError(
                name,
                f"site {name!r} of the {role} is in plates {_listed(around)} in this batch, and was in "
                f"{_listed(known[name])} when the pair was read",
                "put it into the same plates whatever the rows",
            )
        is_masked = site["mask"] is not None and site["mask"] is not True
        if is_masked and name in structure.latents and name not in structure.masked:
            raise ProgramError(
                name,
                f"site {name!r} of the {role} is masked in this batch, and was not when the pair was read",
                "mask it in every batch, with True where nothing is to be left out",
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def for_particles(program: Any, structure: Structure, particles: int) -> Any:
    """All particles in one pass: a plate to the left of the program's own."""
    return pyro.plate(PARTICLES, particles, dim=-1 - structure.nesting)(program) if particles > 1 else program


@contextmanager
def isolated() -> Iterator[None]:
    """Run programs inside a running program, as if nothing were around them: no handler sees their statements.

    Pyro has no such block, so its tables are emptied and filled again. They are changed in place: its functions hold
    references to the lists, and a new list would be seen by none of them.
    """
    # _PYRO_STACK: the handlers around a statement. Left there, a guide's replay would see sites of the inner model.
    # _DIM_ALLOCATOR._stack: the plates that hold a dim. An inner plate "data" would get the next free dim, not -1.
    # _ENUM_ALLOCATOR: dims and ids of enumerated sites. Inner ones would stand to the left of the outer ones, or be
    # taken for them.
    stack, enumerated = runtime._PYRO_STACK[:], dict(vars(runtime._ENUM_ALLOCATOR))
    plates = runtime._DIM_ALLOCATOR._stack[:]
    runtime._PYRO_STACK.clear()
    runtime._DIM_ALLOCATOR._stack.clear()
    try:
        yield
    finally:
        runtime._PYRO_STACK[:] = stack
        runtime._DIM_ALLOCATOR._stack[:] = plates
        vars(runtime._ENUM_ALLOCATOR).clear()
        vars(runtime._ENUM_ALLOCATOR).update(enumerated)


def mark_summed(pair: Programs, structure: Structure) -> tuple[Any, Any]:
    """Model and guide with their discrete latents marked for Pyro's own enumeration."""
    return summing(structure.summed_model)(pair.model), summing(structure.summed_guide)(pair.guide)


class summing(Messenger):
    """Mark the discrete sites that are summed out; whoever wrote the program need not."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Message) -> None:
        if msg["infer"] is None or msg["is_observed"]:
            return
        if "_dim_to_symbol" in msg["infer"]:  # a program replayed on a trace of an earlier run brings that run's notes
            msg["infer"] = {k: v for k, v in msg["infer"].items() if not k.startswith(("_dim", "_enum"))}
        if msg["name"] in self.names:
            msg["infer"]["enumerate"] = "parallel"
            msg["infer"].pop("num_samples", None)  # all values, no sample of them
        else:
            msg["infer"].pop("enumerate", None)


class LastSite(Messenger):
    """Remembers how far a program came, and the sizes of its plates."""

    def __init__(self) -> None:
        super().__init__()
        self.name: str | None = None
        self.plates: dict[str, int] = {}

    def _pyro_sample(self, msg: Message) -> None:
        if site_is_subsample(msg):  # a plate is no site of the program
            self.plates[str(msg["name"])] = msg["fn"].size
        else:
            self.name = str(msg["name"])
