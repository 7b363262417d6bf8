"""The contract between the two programs, checked site by site on one run of each.

Every check raises `ProgramError` with the site, the problem and the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor
from torch.distributions import transforms

from ppl_vae.errors import ProgramError
from ppl_vae.programs.missing import can_enumerate
from ppl_vae.programs.structure import Structure, TraceSites, frames

__all__ = [
    "check_improper",
    "check_matching",
    "check_plates",
    "check_scales",
    "check_shapes",
    "check_supports",
    "data_plate",
    "no_guide_site",
]


def data_plate(model: TraceSites) -> CondIndepStackFrame:
    """The outermost plate around the observed sites; "data" if there is one of that name.

    Raises:
        ProgramError: if nothing is observed, or not all of it in one plate.
    """
    observed = {n: s for n, s in model.items() if s["is_observed"] and not isinstance(s["fn"], dist.Unit)}
    if not observed:
        raise ProgramError(
            None,
            "the model observes nothing",
            "give one of its pyro.sample statements obs=x, where x is an argument named after a data field",
        )
    for name, site in observed.items():
        if not frames(site):
            shape = tuple(site["value"].shape)
            raise ProgramError(
                name,
                f"the observed site {name!r} (value {shape}) is in no plate, so that no bound can tell rows apart",
                f"put the statements of a row under `with pyro.plate('data', len({name})):`",
            )
    shared = set.intersection(*({f.name for f in frames(s)} for s in observed.values()))
    if not shared:
        raise ProgramError(
            None, f"the observed sites {', '.join(observed)} share no plate", "put them into one data plate"
        )
    plates = {f.name: f for s in observed.values() for f in frames(s) if f.name in shared}
    return plates["data"] if "data" in plates else min(plates.values(), key=lambda f: f.counter)


def check_matching(latents: list[str], guide: TraceSites, model: TraceSites) -> None:
    """Every latent of the guide is a site of the model, with the same event shape."""
    for name in latents:
        if guide[name]["infer"].get("is_auxiliary"):
            continue
        if name not in model:
            raise ProgramError(
                name,
                f"site {name!r} is in the guide but not in the model, which has {', '.join(model)}",
                "rename it, or remove it from the guide",
            )
        q, p = guide[name]["fn"], model[name]["fn"]
        if q.event_dim != p.event_dim:
            raise ProgramError(
                name,
                f"site {name!r} has event dims {q.event_dim} in the guide and {p.event_dim} in the model",
                f"add .to_event({abs(q.event_dim - p.event_dim)}) in the "
                + ("guide" if q.event_dim < p.event_dim else "model"),
            )
        if q.event_shape != p.event_shape:
            raise ProgramError(
                name,
                f"site {name!r} has event shape {tuple(q.event_shape)} in the guide and "
                f"{tuple(p.event_shape)} in the model",
                "make them equal",
            )


def check_supports(latents: list[str], guide: TraceSites, model: TraceSites) -> None:
    """The guide draws values that the model allows, and can draw all of them."""
    for name in latents:
        if name not in model:
            continue
        q, p = _support(guide[name]["fn"]), _support(model[name]["fn"])
        if q is not None and p is not None and q != p:
            raise ProgramError(
                name,
                f"site {name!r} has support {q} in the guide and {p} in the model",
                f"use a distribution over {p} values in the guide, or generate the guide from the model",
            )


def _support(fn: Any) -> str | None:
    """A coarse name of a support; None where it is not known, or what is equal to it is a matter of taste."""
    support = fn.support
    if isinstance(fn, dist.Delta):
        return None  # Pyro says that all reals are in it, whatever its point is
    if isinstance(fn, dist.TransformedDistribution) and fn.transforms and _ends_affine(fn.transforms[-1]):
        return None  # torch takes the image of an affine map to be all of R, whatever it is applied to
    if getattr(support, "is_discrete", False):
        return "discrete"
    while isinstance(support, torch.distributions.constraints.independent):
        support = support.base_constraint
    constraint = torch.distributions.constraints
    if support is constraint.real:
        return "real"
    if getattr(support, "lower_bound", None) is not None and getattr(support, "upper_bound", None) is None:
        bound = support.lower_bound
        return "positive" if not isinstance(bound, Tensor) and bound == 0 else None
    if isinstance(support, type(constraint.unit_interval)):
        same = (support.lower_bound, support.upper_bound) == (0.0, 1.0)
        return "unit interval" if same else None
    return "simplex" if support is constraint.simplex else None


def _ends_affine(transform: Any) -> bool:
    parts = getattr(transform, "parts", None)
    return _ends_affine(parts[-1]) if parts else isinstance(transform, transforms.AffineTransform)


def check_shapes(role: str, sites: TraceSites) -> None:
    """Every dim of a log-probability is the dim of a plate around its site."""
    for name, site in sites.items():
        shape = _log_prob_shape(role, name, site)
        allowed = {f.dim: f.size for f in frames(site)}
        extra = [d for d in range(-len(shape), 0) if shape[d] != 1 and allowed.get(d) != shape[d]]
        if not extra:
            continue
        plates = ", ".join(f"{f.name!r} of size {f.size} at dim {f.dim}" for f in frames(site)) or "no plate"
        remedy = (
            f"declare event dims with .to_event({len([d for d in extra if d not in allowed])})"
            if any(d not in allowed for d in extra)
            else f"make the size of dim {extra[0]} {allowed[extra[0]]}"
        )
        raise ProgramError(
            name,
            f"site {name!r} of the {role} has a log-probability of shape {shape}, but it is in {plates}",
            f"{remedy}, or put the statement into the plate",
        )


def _check_dim(name: str, guide: TraceSites, model: TraceSites, frame: CondIndepStackFrame) -> None:
    dims = {
        r: [f.dim for f in frames(s[name]) if f.name == frame.name] for r, s in (("guide", guide), ("model", model))
    }
    if all(dims.values()) and dims["guide"] != dims["model"]:
        raise ProgramError(
            name,
            f"plate {frame.name!r} around site {name!r} is at dim {dims['guide'][0]} in the guide and at dim "
            f"{dims['model'][0]} in the model",
            f"put it at one dim in both, -1 unless there is a reason: pyro.plate({frame.name!r}, len(x), dim=-1)",
        )


def _log_prob_shape(role: str, name: str, site: Mapping[str, Any]) -> tuple[int, ...]:
    try:
        return tuple(site["fn"].log_prob(site["value"]).shape)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ProgramError(
            name,
            f"the log-probability of site {name!r} of the {role} cannot be computed for a value of shape "
            f"{tuple(site['value'].shape)} ({' '.join(str(error).split())[:160]})",
            "make the site's event and batch dims those of its value in both programs",
        ) from error


def check_plates(
    latents: list[str], guide: TraceSites, model: TraceSites, frame: CondIndepStackFrame, rows: int
) -> None:
    """A latent is inside the data plate in both programs or in neither, and the plate follows the rows."""
    if frame.full_size in (None, frame.size) and frame.size != rows:
        raise ProgramError(
            frame.name,
            f"plate {frame.name!r} has size {frame.size}, but the batch has {rows} rows",
            f"size it by its rows, pyro.plate({frame.name!r}, len(x)): batch size belongs to inference",
        )
    for name in latents:
        if name not in model:
            continue
        _check_dim(name, guide, model, frame)
        inside = {r: any(f.dim == frame.dim for f in frames(s[name])) for r, s in (("guide", guide), ("model", model))}
        if inside["guide"] != inside["model"]:
            there, missing = ("guide", "model") if inside["guide"] else ("model", "guide")
            raise ProgramError(
                name,
                f"site {name!r} is inside the data plate {frame.name!r} in the {there} but not in the {missing}",
                f"put it into the plate in the {missing} too (one per row), or into neither (shared by all rows)",
            )


def check_scales(latents: list[str], guide: TraceSites, model: TraceSites) -> None:
    """poutine.scale on a latent is the same in both programs: a one-sided KL weight is no bound of anything."""
    for name in latents:
        if name not in model:
            continue
        scales = {r: _own_scale(s[name]) for r, s in (("guide", guide), ("model", model))}
        if abs(scales["guide"] - scales["model"]) > 1e-6:
            raise ProgramError(
                name,
                f"site {name!r} is scaled by {scales['model']:g} in the model and {scales['guide']:g} in the guide",
                "scale it in both or in neither; for a KL weight use fit(beta=...), which weighs both",
            )


def check_improper(structure: Structure) -> None:
    """A latent of the rows with an improper prior is a point in the guide: else the bound is one of nothing."""
    for name in sorted(structure.improper - structure.points):
        raise ProgramError(
            name,
            f"site {name!r} has an improper prior in the model and a density in the guide: there is no p(x) to bound",
            "use a guide of points, Point(model), or give the model a prior that integrates to one",
        )


def _own_scale(site: Mapping[str, Any]) -> float:
    scale = float(torch.as_tensor(site["scale"]).float().mean())
    for frame in frames(site):
        if frame.full_size not in (None, frame.size):
            scale *= frame.size / frame.full_size
    return scale


def no_guide_site(name: str, site: Mapping[str, Any], inside: bool) -> ProgramError:
    """The error for a latent of the model that the guide lacks and that cannot be summed out."""
    if can_enumerate(site["fn"]) and not inside:
        return ProgramError(
            name,
            f"the discrete latent {name!r} is outside the data plate: summing it out would couple all rows",
            "put it inside the plate, or give it a guide site",
        )
    return ProgramError(
        name,
        f"site {name!r} ({type(site['fn']).__name__}) is in the model but not in the guide, and cannot be summed out",
        f"add pyro.sample({name!r}, ...) to the guide, or generate the guide from the model",
    )
