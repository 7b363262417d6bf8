"""Which entries of a latent count in the weight, where the model masks some.

What the model masks has no part in the weight: log p and log q of a masked entry are both left out, as long as nothing
that counts depends on it. Where something does (the state before the first step that counts), both stay, as if there
were no mask: a program draws a masked latent from its prior, which integrates to one, so that the evidence is that of
the program as it draws. They stay, too, where the guide draws the latent together with others, so that its density is
one number with theirs, and where its values are summed out: a sum of 1 over K values would be K.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.programs.structure import TraceSites, frames

__all__ = ["batch_mask", "counting"]

Dependants = Mapping[str, "tuple[str, ...] | None"]
"""Of every masked latent the sites that depend on it; None where all of its entries count."""


def batch_mask(site: Mapping[str, Any]) -> Tensor | None:
    """Which entries of a site count by its masks, `poutine.mask` and the distribution's own; None if there is none.

    A mask within an event (`.mask(...).to_event(1)`) is none of whole entries.

    Example:
        >>> site = {"fn": dist.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False])), "mask": None}
        >>> batch_mask(site)
        tensor([ True, False])
    """
    own = site["fn"]._mask if isinstance(site["fn"], dist.MaskedDistribution) else None
    masks = [torch.as_tensor(mask) for mask in (own, site["mask"]) if mask is not None and mask is not True]
    return None if not masks else masks[0] if len(masks) == 1 else masks[0] & masks[1]


def counting(model: TraceSites, dependants: Dependants) -> dict[str, Tensor | None]:
    """Of each masked latent the entries that count in the weight, broadcastable to its batch shape; None if all do.

    What depends on a latent comes after it in the program, so the sites are gone through from the last one on: each
    once, however long the chain is that they make.
    """
    found: dict[str, Tensor | None] = {}
    for name in reversed([*model]):
        if name in dependants:
            below = dependants[name]
            mask = None if below is None else batch_mask(model[name])
            dims = {frame.dim for frame in frames(model[name])}
            for other in below or ():
                if mask is None or other not in model:
                    break
                theirs = found[other] if other in dependants else batch_mask(model[other])
                mask = None if theirs is None else mask | _over(theirs, dims)
            found[name] = mask
    return found


def _over(mask: Tensor, dims: set[int | None]) -> Tensor:
    """Whether any entry counts, along dims of plates that the latent is not in."""
    for dim in range(-mask.dim(), 0):
        if dim not in dims and mask.shape[dim] > 1:
            mask = mask.any(dim, keepdim=True)
    return mask
