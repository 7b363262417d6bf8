"""Read the structure of a pair from one run, and refuse programs that break the contract, by site name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace

from ppl_vae.errors import UserError
from ppl_vae.execution import run
from ppl_vae.missing import Holes, can_enumerate
from ppl_vae.program import Batch, Pair
from ppl_vae.structure import Structure, frames, sample_sites

__all__ = ["ENUMERATION_LIMIT", "analyse", "data_plate", "preserved_randomness"]

ENUMERATION_LIMIT = 1024
"""Finite supports with more values than this are sampled, with a score-function gradient, not summed out."""


def analyse(pair: Pair, batch: Batch) -> Structure:
    """Run a pair once on a batch and read its structure; refuse programs that break the contract.

    The state of the random number generators is left as it was.

    Raises:
        UserError: naming the site, what is wrong with it, and the remedy.
    """
    with preserved_randomness(), torch.no_grad(), pyro.validation_enabled(False):
        guide_holes = Holes(None, batch=batch)
        guide = sample_sites(poutine.trace(guide_holes(pair.guide)).get_trace(**batch))
        drawn = [name for name, site in guide.items() if not site["is_observed"]]
        holes = Holes(None, drawn, batch)
        replayed = poutine.replay(holes(pair.model), trace=_as_trace(guide, drawn))
        model = sample_sites(poutine.trace(replayed).get_trace(**batch))
        structure = _read(pair, batch, guide, model, guide_holes.found | holes.found)
        if not _broadcasts(pair, batch, structure):
            structure = replace(structure, broadcasts=False)
    return structure


class preserved_randomness:  # noqa: N801 - used like torch.no_grad
    """Give the random number generators back as they were."""

    def __enter__(self) -> None:
        self.fork = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
        self.fork.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self.fork.__exit__(*exception)


def _as_trace(sites: Mapping[str, dict[str, Any]], names: list[str]) -> Trace:
    trace = Trace()
    for name in names:
        trace.add_node(name, **sites[name])
    return trace


def _read(
    pair: Pair,
    batch: Batch,
    guide: dict[str, dict[str, Any]],
    model: dict[str, dict[str, Any]],
    holes: dict[str, str],
) -> Structure:
    frame = data_plate(model)
    latents = [name for name, site in guide.items() if not site["is_observed"]]
    _check_sites(latents, guide, model)
    everywhere = [*guide.values(), *model.values()]
    nesting = max([-f.dim for s in everywhere for f in frames(s)], default=1)
    _check_shapes(guide, model, frame)
    local = {n for n in latents if any(f.dim == frame.dim for f in frames(guide[n]))}
    summed_guide = {n for n in local if _summable(guide[n]["fn"])}
    summed_model, absent = set(), set()
    for name, site in model.items():
        if site["is_observed"] or name in latents:
            continue
        inside = any(f.dim == frame.dim for f in frames(site))
        if inside and _summable(site["fn"]):
            summed_model.add(name)
        elif name in pair.model.arguments and name not in batch:
            absent.add(name)
        else:
            raise _no_guide_site(name, site, inside)
    scored = {
        n for n in latents if n not in summed_guide and not getattr(guide[n]["fn"], "has_rsample", False)
    }
    return Structure(
        plate=frame.name,
        dim=int(frame.dim or -1),
        nesting=nesting,
        latents=tuple(latents),
        observed=tuple(n for n, s in model.items() if s["is_observed"]),
        holes=holes,
        summed_guide=frozenset(summed_guide),
        summed_model=frozenset(summed_model),
        scored=frozenset(scored),
        absent=frozenset(absent),
        global_latents=frozenset(set(latents) - local),
        inner_subsample=frozenset(
            f.name for s in everywhere for f in frames(s) if f.dim != frame.dim and f.full_size not in (None, f.size)
        ),
        rows_total=frame.full_size if frame.full_size != frame.size else None,
    )


def _summable(fn: Any) -> bool:
    return can_enumerate(fn) and fn.enumerate_support(expand=False).shape[0] <= ENUMERATION_LIMIT


def _no_guide_site(name: str, site: Mapping[str, Any], inside: bool) -> UserError:
    kind = type(site["fn"]).__name__
    if can_enumerate(site["fn"]) and not inside:
        return UserError(
            f"the discrete latent {name!r} is outside the data plate: summing it out would couple all rows; "
            "put it inside the plate, or give it a guide site"
        )
    return UserError(
        f"site {name!r} ({kind}) is in the model but not in the guide, and it cannot be summed out: "
        f"add pyro.sample({name!r}, ...) to the guide, or generate the guide from the model"
    )


def data_plate(model: Mapping[str, Mapping[str, Any]]) -> CondIndepStackFrame:
    """The outermost plate around the observed sites; "data" if there is one of that name.

    Raises:
        UserError: if nothing is observed, or not all of it in one plate.
    """
    observed = {n: s for n, s in model.items() if s["is_observed"] and type(s["fn"]).__name__ != "Unit"}
    if not observed:
        raise UserError(
            "the model observes nothing: give one of its pyro.sample statements obs=x, "
            "where x is an argument named after a data field"
        )
    for name, site in observed.items():
        if not frames(site):
            shape = tuple(site["value"].shape)
            raise UserError(
                f"the observed site {name!r} (value {shape}) is in no plate: put the statements of a row "
                f"under `with pyro.plate('data', len({name})):`; without it no bound can tell rows apart"
            )
    shared = set.intersection(*({f.name for f in frames(s)} for s in observed.values()))
    if not shared:
        raise UserError(
            f"the observed sites {', '.join(observed)} share no plate: put them into one data plate"
        )
    plates = {f.name: f for s in observed.values() for f in frames(s) if f.name in shared}
    return plates["data"] if "data" in plates else min(plates.values(), key=lambda f: f.counter)


def _check_sites(
    latents: list[str], guide: Mapping[str, Mapping[str, Any]], model: Mapping[str, Mapping[str, Any]]
) -> None:
    for name in latents:
        if guide[name]["infer"].get("is_auxiliary"):
            continue
        if name not in model:
            raise UserError(
                f"site {name!r} is in the guide but not in the model, which has {', '.join(model)}: "
                "rename it, or remove it from the guide"
            )
        q, p = guide[name]["fn"], model[name]["fn"]
        if q.event_dim != p.event_dim:
            raise UserError(
                f"site {name!r} has event dims {q.event_dim} in the guide and {p.event_dim} in the model: "
                f"add .to_event({max(q.event_dim, p.event_dim)}) to the one that lacks it"
            )
        if q.event_shape != p.event_shape:
            raise UserError(
                f"site {name!r} has event shape {tuple(q.event_shape)} in the guide and "
                f"{tuple(p.event_shape)} in the model: make them equal"
            )


def _check_shapes(
    guide: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Mapping[str, Any]],
    frame: CondIndepStackFrame,
) -> None:
    for role, sites in (("guide", guide), ("model", model)):
        for name, site in sites.items():
            shape = tuple(site["fn"].log_prob(site["value"]).shape)
            allowed = {f.dim: f.size for f in frames(site)}
            for dim in range(-len(shape), 0):
                size = shape[dim]
                if size == 1 or allowed.get(dim) == size:
                    continue
                remedy = (
                    f"declare event dims with .to_event({-dim if dim not in allowed else 1})"
                    if dim not in allowed or len(shape) > -min(allowed)
                    else f"make its size {allowed[dim]}"
                )
                raise UserError(
                    f"site {name!r} of the {role} has a log-probability of shape {shape}, but its plates "
                    f"allow {dict(sorted(allowed.items())) or 'none'} (dim: size): {remedy}"
                )


def _broadcasts(pair: Pair, batch: Batch, structure: Structure) -> bool:
    """Whether both programs accept a particle dim to the left of their plates."""
    try:
        traces = run(pair, structure, batch, particles=2)
        for trace in (traces.guide, traces.model):
            for site in sample_sites(trace).values():
                dims = site["fn"].log_prob(site["value"]).dim()
                if dims > structure.nesting + 1 and not structure.enumerates:
                    return False
    except (RuntimeError, ValueError, IndexError):
        return False
    return True
