"""The contract between the two programs, checked site by site on one run of each.

Every check raises `ProgramError` with the site, the problem and the remedy.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import transforms

from ppl_vae.distributions import support_of
from ppl_vae.errors import ProgramError
from ppl_vae.programs.density import is_point_mass
from ppl_vae.programs.missing import can_enumerate
from ppl_vae.programs.structure import Structure, TraceSites, frames

__all__ = [
    "check_factors",
    "check_improper",
    "check_matching",
    "check_plates",
    "check_scales",
    "check_shapes",
    "check_supports",
    "no_guide_site",
    "own_scale",
]


def check_matching(latents: list[str], guide: TraceSites, model: TraceSites, more: bool = False) -> None:
    """Every latent of the guide is a site of the model, with the same event shape; `more` allows others, too.

    A guide that was generated on longer rows draws more than the model of shorter ones has: that has no weight.
    """
    for name in latents:
        if guide[name]["infer"].get("is_auxiliary"):
            continue
        if name not in model:
            if more:
                continue
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


def check_factors(guide: TraceSites) -> None:
    """A guide is a normalised density: a pyro.factor in it would be left out of log q, or make it one that is not."""
    for name, site in guide.items():
        if isinstance(site["fn"], dist.Unit) and not site["infer"].get("_deterministic"):
            raise ProgramError(
                name,
                f"the guide has the factor {name!r}, so that its density is not normalised",
                "move it into the model, or draw the site from a distribution that includes it",
            )


def check_supports(latents: list[str], guide: TraceSites, model: TraceSites) -> None:
    """The guide draws values that the model allows, and can draw all of them."""
    for name in latents:
        if name not in model:
            continue
        if is_point_mass(model[name]["fn"]) and not is_point_mass(guide[name]["fn"]):
            raise ProgramError(
                name,
                f"site {name!r} is a point in the model (Delta) and none in the guide: its density is 0 at every draw",
                f"note the value in the model, pyro.deterministic({name!r}, ...), and leave it out of the guide",
            )
        q, p = _support(guide[name]["fn"]), _support(model[name]["fn"])
        if q is not None and p is not None and q != p:
            raise ProgramError(
                name,
                f"site {name!r} has support {q} in the guide and {p} in the model",
                f"use a distribution over {p} values in the guide, or generate the guide from the model",
            )


def check_draws(latents: list[str], guide: TraceSites) -> None:
    """What the guide draws has its gradient through the draw, or by its score, but not half of each.

    A sampler by rejection (Naesseth et al. 2017, arXiv 1610.05683) has both: without its score the gradient is biased.
    """
    for name in latents:
        fn = guide[name]["fn"]
        if not getattr(fn, "has_rsample", False) or type(fn).score_parts is TorchDistributionMixin.score_parts:
            continue
        try:
            score = fn.score_parts(guide[name]["value"]).score_function
        except (NotImplementedError, KeyError):  # no density of this value, which others say in their words
            continue
        if isinstance(score, Tensor) and bool((score != 0).any()):
            raise ProgramError(
                name,
                f"site {name!r} of the guide is {type(fn).__name__}, whose draws are reparameterised in part: the rest "
                "of its gradient is that of its score",
                "use a distribution that is reparameterised altogether (Gamma, Beta and Dirichlet are)",
            )


def _support(fn: Any) -> str | None:
    """A coarse name of a support; None where it is not known, or what is equal to it is a matter of taste."""
    support = support_of(fn)
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
        ends = support.lower_bound, support.upper_bound
        named = {"unit interval": (0.0, 1.0), "angles from -pi to pi": (-math.pi, math.pi)}
        return next((name for name, bounds in named.items() if all(map(_near, ends, bounds))), None)
    return "simplex" if support is constraint.simplex else None


def _near(bound: Any, number: float) -> bool:
    return bool(((torch.as_tensor(bound) - number).abs() < 1e-6).all())


def _ends_affine(transform: Any) -> bool:
    while isinstance(transform, transforms.IndependentTransform):
        transform = transform.base_transform
    parts = getattr(transform, "parts", None)
    return _ends_affine(parts[-1]) if parts else isinstance(transform, transforms.AffineTransform)


def check_shapes(role: str, sites: TraceSites, loose: bool = False) -> None:
    """Every dim of a log-probability is the dim of a plate around its site; `loose` where no plate has to be."""
    for name, site in sites.items():
        if site["infer"].get("_deterministic"):
            continue
        shape = _log_prob_shape(role, name, site)
        allowed = {f.dim: f.size for f in frames(site)}
        extra = [d for d in range(-len(shape), 0) if shape[d] != 1 and allowed.get(d) not in (shape[d], -1)]
        extra = [d for d in extra if d in allowed] if loose else extra
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


def _check_dims(name: str, guide: TraceSites, model: TraceSites) -> None:
    dims = {role: {f.name: f.dim for f in frames(sites[name])} for role, sites in _each(guide, model)}
    for plate in dims["guide"].keys() & dims["model"].keys():
        if dims["guide"][plate] != dims["model"][plate]:
            raise ProgramError(
                name,
                f"plate {plate!r} around site {name!r} is at dim {dims['guide'][plate]} in the guide and at dim "
                f"{dims['model'][plate]} in the model",
                f"put it at one dim in both, -1 unless there is a reason: pyro.plate({plate!r}, len(x), dim=-1)",
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


def check_plates(latents: list[str], guide: TraceSites, model: TraceSites, plates: Collection[str]) -> None:
    """A latent is inside the plate of the rows in both programs or in neither; every plate is at one dim."""
    for name in latents:
        if name not in model:
            continue
        _check_dims(name, guide, model)
        found = {r: next((f.name for f in frames(s[name]) if f.name in plates), None) for r, s in _each(guide, model)}
        if (found["guide"] is None) != (found["model"] is None):
            there, missing = ("guide", "model") if found["guide"] else ("model", "guide")
            raise ProgramError(
                name,
                f"site {name!r} is inside the data plate {found[there]!r} in the {there} but not in the {missing}",
                f"put it into the plate in the {missing} too (one per row), or into neither (shared by all rows)",
            )


def _each(guide: TraceSites, model: TraceSites) -> tuple[tuple[str, TraceSites], ...]:
    return ("guide", guide), ("model", model)


def check_scales(latents: list[str], guide: TraceSites, model: TraceSites) -> None:
    """poutine.scale on a latent is the same in both programs: a one-sided KL weight is no bound of anything."""
    for name in latents:
        if name not in model:
            continue
        scales = {r: own_scale(s[name]) for r, s in (("guide", guide), ("model", model))}
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


def own_scale(site: Mapping[str, Any]) -> float:
    """By what a program itself scales a site (`poutine.scale`), without N/B of the plates around it."""
    scale = float(torch.as_tensor(site["scale"]).double().mean())
    for frame in site["cond_indep_stack"]:
        if frame.full_size not in (None, frame.size):
            scale *= frame.size / frame.full_size
    return 1.0 if abs(scale - 1) < 1e-6 else scale


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
