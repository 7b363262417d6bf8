"""Latents that a model masks: who leaves out what, so that log w has both of their densities or neither."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ppl_vae.distributions import is_masked
from ppl_vae.errors import ProgramError
from ppl_vae.programs.density import is_point_mass
from ppl_vae.programs.hidden import all_dependencies
from ppl_vae.programs.structure import TraceSites
from ppl_vae.weights.masks import batch_mask

__all__ = ["check_masks", "masked_latents"]


def check_masks(latents: Collection[str], guide: TraceSites, model: TraceSites, follows: bool) -> None:
    """A latent is masked in both programs, in the same entries, or in neither: the two densities belong together.

    Where the model alone masks it the weight still has neither density there; but whoever wrote the guide has
    overlooked the mask, unless it `follows` the model's, as a generated guide does.

    Raises:
        ProgramError: for a mask on one side only.
    """
    for name in latents:
        if name not in model:
            continue
        q, p = _where(guide[name]), _where(model[name])
        if (q is None and (p is None or follows)) or (q is not None and p is not None and _equal(q, p)):
            continue
        there, missing = ("model", "guide") if q is None else ("guide", "model")
        how = "in other entries than" if q is not None and p is not None else "but not"
        raise ProgramError(
            name,
            f"site {name!r} is masked in the {there} {how} in the {missing}",
            "put the same poutine.mask(mask=...) around it in both programs, or generate the guide from the model",
        )


def masked_latents(
    program: Any, batch: Mapping[str, Tensor], guide: TraceSites, model: TraceSites, summed: Collection[str]
) -> dict[str, tuple[str, ...] | None]:
    """The latents that a model masks, each with the sites that depend on it, by whose masks its entries count.

    None says that all of its entries count: it is summed out in the model, or drawn in one piece with others or as a
    function of an auxiliary draw, or masked within an event (see `ppl_vae.weights.masks`). A latent that the guide
    masks, too, goes by its own mask alone, as in Pyro.
    """
    latents = [n for n, s in model.items() if not s["is_observed"] and (n in guide or n in summed)]
    masked = [n for n in latents if _has_mask(model[n])]
    if not masked:
        return {}
    parents = all_dependencies(program, batch, [*model], masked)
    found: dict[str, tuple[str, ...] | None] = {}
    for name in masked:
        alone = name in guide and guide[name]["infer"].get("joint", name) == name
        alone = alone and not _is_drawn_elsewhere(name, guide)
        if not alone or (is_masked(model[name]["fn"]) and batch_mask(model[name]) is None):
            found[name] = None
        elif _has_mask(guide[name]):
            found[name] = ()
        else:
            found[name] = tuple(site for site, above in parents.items() if name in above)
    return found


def _is_drawn_elsewhere(name: str, guide: TraceSites) -> bool:
    """Whether a latent is a point whose density is that of an auxiliary site, which no mask of its name reaches.

    So are the latents of Pyro's `AutoNormal` and its relatives. A guide that is masked as a whole masks both.
    """
    others = any(s["infer"].get("is_auxiliary") and not is_point_mass(s["fn"]) for s in guide.values())
    return others and is_point_mass(guide[name]["fn"]) and not _has_mask(guide[name])


def _has_mask(site: Mapping[str, Any]) -> bool:
    return (site["mask"] is not None and site["mask"] is not True) or is_masked(site["fn"])


def _where(site: Mapping[str, Any]) -> Tensor | None:
    """Which entries count; None where all do in these rows."""
    mask = batch_mask(site)
    return None if mask is None or bool(mask.all()) else mask


def _equal(a: Tensor, b: Tensor) -> bool:
    try:
        return torch.equal(*torch.broadcast_tensors(a, b))
    except RuntimeError:
        return False
