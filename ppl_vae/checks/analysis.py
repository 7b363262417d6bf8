"""Read the structure of a pair from one run, and refuse programs that break the contract, by site name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.checks import contract, row_plates
from ppl_vae.checks.masks import check_masks, masked_latents
from ppl_vae.checks.particles import try_particles
from ppl_vae.data import WholeBatch
from ppl_vae.errors import UserError
from ppl_vae.programs.density import drawable, is_improper, is_point_mass, point_masses
from ppl_vae.programs.execution import masks_as_they_were, traced
from ppl_vae.programs.missing import Holes, Watch, can_enumerate
from ppl_vae.programs.program import Batch, Programs
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import Structure, frames, sample_sites

__all__ = [
    "ENUMERATION_LIMIT",
    "Observation",
    "analyse",
    "observe",
    "observed_structure",
    "outline",
    "read",
]

ENUMERATION_LIMIT = 1024
"""Finite supports with more values than this are sampled, with a score-function gradient, not summed out."""


@dataclass(frozen=True)
class Observation:
    """One run of each program: their sample sites, the guide's latents, and what was done about holes.

    `values` are the distribution and value of every observed site as the model has them, holes and all.
    """

    guide: dict[str, dict[str, Any]]
    model: dict[str, dict[str, Any]]
    latents: list[str]
    holes: dict[str, str]
    rows: int | None
    values: dict[str, tuple[Any, Tensor]]

    @property
    def programs(self) -> tuple[tuple[str, dict[str, dict[str, Any]]], ...]:
        """Both programs by role."""
        return ("guide", self.guide), ("model", self.model)


def analyse(pair: Programs, batch: Batch) -> Structure:
    """Run a pair on a batch and read its structure; refuse programs that break the contract.

    The state of the random number generators is left as it was.

    Raises:
        ProgramError: naming the site, what is wrong with it, and the remedy.
    """
    return observed_structure(pair, batch)[1]


def outline(pair: Programs, batch: Batch) -> Structure:
    """As `analyse`, from one run alone: nothing is said yet of particles that run together (`broadcasts`).

    Raises:
        ProgramError: as `analyse` does, but for what shows only with particles or summed values.
    """
    with preserved_randomness(), torch.no_grad(), pyro.validation_enabled(False):
        return read(pair, batch, _checked(pair, batch))


def observed_structure(pair: Programs, batch: Batch) -> tuple[Observation, Structure]:
    """As `analyse`, with the run from which the structure was read."""
    with preserved_randomness(), torch.no_grad(), pyro.validation_enabled(False):
        seen = _checked(pair, batch)
        return seen, try_particles(pair, batch, read(pair, batch, seen))[0]


def _checked(pair: Programs, batch: Batch) -> Observation:
    seen = observe(pair, batch)
    for check in contract_checks(pair, batch, seen):
        check()
    return seen


def contract_checks(
    pair: Programs, batch: Batch, seen: Observation, *, follows: bool = True, more: bool | None = None
) -> list[Callable[[], None]]:
    """What the contract asks of an observation, one check each: every one raises where it is broken.

    `follows` says that the guide leaves masks to the model, `more` that it may draw sites that the model of these rows
    does not have, as a generated guide may.
    """
    more = is_generated(pair) if more is None else more
    rows = {f.name for f in _row_plates(pair, batch, seen)}
    # the entries of one unit belong together, whether a plate says that they are independent or not
    loose = not rows and not any(
        _summable(s["fn"]) for _, t in seen.programs for s in t.values() if not s["is_observed"]
    )
    return [
        lambda: contract.check_factors(seen.guide),
        lambda: contract.check_matching(seen.latents, seen.guide, seen.model, more),
        lambda: contract.check_supports(seen.latents, seen.guide, seen.model),
        lambda: contract.check_draws(seen.latents, seen.guide),
        lambda: contract.check_plates(seen.latents, seen.guide, seen.model, rows),
        lambda: contract.check_shapes("guide", seen.guide, loose),
        lambda: contract.check_shapes("model", seen.model, loose),
        lambda: contract.check_scales(seen.latents, seen.guide, seen.model),
        lambda: check_masks(seen.latents, seen.guide, seen.model, follows),
        lambda: contract.check_improper(read(pair, batch, seen)),
    ]


def is_generated(pair: Programs) -> bool:
    """Whether the guide is one that was generated from a model, which follows whatever the model does."""
    return bool(getattr(getattr(pair.guide, "program", None), "follows_masks", False))


def observe(pair: Programs, batch: Batch) -> Observation:
    """Run the guide, then the model on its draws, noting what they do with missing entries."""
    guide_holes = Holes(None, batch=batch)
    guide = sample_sites(traced(guide_holes(pair.guide), batch))
    latents = [name for name, site in guide.items() if not site["is_observed"]]
    holes = Holes(None, latents, batch)
    watch = Watch()
    replayed = poutine.replay(masks_as_they_were()(holes(watch(pair.model))), trace=_as_trace(guide, latents))
    model = sample_sites(traced(replayed, batch))
    first = next((v for v in batch.values() if v.dim()), None)
    rows = None if first is None else len(first)
    return Observation(guide, model, latents, guide_holes.found | holes.found, rows, watch.seen)


def _as_trace(sites: Mapping[str, dict[str, Any]], names: list[str]) -> Trace:
    trace = Trace()
    for name in names:
        trace.add_node(name, **sites[name])
    return trace


def read(pair: Programs, batch: Batch, seen: Observation) -> Structure:
    """The structure behind an observation.

    Raises:
        ProgramError: for programs without a plate of the rows, or with a latent that nobody draws.
    """
    guide, model, latents = seen.guide, seen.model, seen.latents
    plates = _row_plates(pair, batch, seen)
    frame = plates[0] if plates else None
    rows = frozenset(f.name for f in plates)
    inside = {r: {n for n, s in sites.items() if not rows or rows & _plates(s)} for r, sites in seen.programs}
    everywhere = [*guide.values(), *model.values()]
    local = inside["guide"] & set(latents)
    summed_guide = {n for n in local if _summable(guide[n]["fn"])}
    summed_model, absent = set(), set()
    for name, site in model.items():
        if site["is_observed"] or name in latents:
            continue
        if name in inside["model"] and _summable(site["fn"]):
            summed_model.add(name)
        elif name in pair.model.arguments and name not in batch:
            absent.add(name)
        else:
            raise contract.no_guide_site(name, site, name in inside["model"])
    drawn = set(latents) - summed_guide
    inner = {f.name for s in everywhere for f in s["cond_indep_stack"] if f.full_size not in (None, f.size)} - rows
    return Structure(
        plate=None if frame is None else frame.name,
        dim=-1 if frame is None else int(frame.dim or -1),
        nesting=_nesting(everywhere, is_one_unit=frame is None),
        latents=tuple(latents),
        observed=tuple(n for n, s in model.items() if s["is_observed"]),
        row_plates=rows,
        plates_of={role: {n: _plates(s) for n, s in sites.items()} for role, sites in seen.programs},
        dims_of={n: s["value"].dim() for n, s in (model | guide).items() if not s["is_observed"]},
        holes=seen.holes,
        masked=masked_latents(Holes(None, latents, batch)(pair.model), batch, guide, model, summed_model),
        scaled=frozenset(n for _, sites in seen.programs for n, s in sites.items() if contract.own_scale(s) != 1),
        summed_guide=frozenset(summed_guide),
        summed_model=frozenset(summed_model),
        scored=frozenset(n for n in drawn if not getattr(guide[n]["fn"], "has_rsample", False)),
        absent=frozenset(absent),
        auxiliary=frozenset(n for n in latents if guide[n]["infer"].get("is_auxiliary")),
        global_latents=frozenset(set(latents) - local),
        points=_points(pair, batch, seen, drawn),
        improper=frozenset(n for n in local if rows and n in model and is_improper(model[n]["fn"])),
        inner_subsample=frozenset(inner),
        rows_total=None if frame is None or frame.full_size in (None, frame.size) else frame.full_size,
    )


def _points(pair: Programs, batch: Batch, seen: Observation, drawn: set[str]) -> frozenset[str]:
    """The latents that the guide draws from point masses.

    Pyro's AutoGuides put a point at what another draw of theirs says: that is a draw, and differs from run to run.
    """
    found = point_masses(drawn, seen.guide, seen.model)
    others = [s for n, s in seen.guide.items() if s["infer"].get("is_auxiliary") and not is_point_mass(s["fn"])]
    if not found or not others:
        return found
    again = sample_sites(traced(Holes(None, batch=batch)(pair.guide), batch))
    return frozenset(n for n in found if n in again and torch.equal(again[n]["value"], seen.guide[n]["value"]))


def _plates(site: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(f.name for f in site["cond_indep_stack"])


def _nesting(sites: Iterable[Mapping[str, Any]], is_one_unit: bool) -> int:
    """How many dims plates use; of one unit also those that its statements use without a plate."""
    dims = [-(f.dim or 0) for s in sites for f in frames(s)]
    if is_one_unit:
        dims += [len(s["fn"].batch_shape) for s in sites]
    return max(dims, default=1)


def _row_plates(pair: Programs, batch: Batch, seen: Observation) -> list[CondIndepStackFrame]:
    """The plates of the rows; none where all data are one unit."""
    if isinstance(batch, WholeBatch):
        return []
    others = row_plates.other_number(seen.model, batch, seen.rows)
    if others is None:
        return row_plates.row_plates(seen.model, seen.rows)
    found = None
    with suppress(UserError), drawable():
        found = sample_sites(traced(Holes(None, batch=others)(pair.model), others))
    return row_plates.row_plates(seen.model, seen.rows, found)


def _summable(fn: Any) -> bool:
    return can_enumerate(fn) and fn.enumerate_support(expand=False).shape[0] <= ENUMERATION_LIMIT
