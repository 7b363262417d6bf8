"""Discrete latents in a run: their values, and the probabilities of their classifier."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from ppl_vae.diagnostics._common.simulation import entries
from ppl_vae.distributions import probabilities, unwrapped
from ppl_vae.programs.structure import Structure

TraceSite = Mapping[str, Any]

__all__ = ["class_probabilities", "class_value", "levels_of"]


def levels_of(fn: Any) -> int:
    """The number of classes of a latent without an order, else 0."""
    base = unwrapped(fn)
    if isinstance(base, dist.Categorical | dist.OneHotCategorical):
        return int(base.probs.shape[-1])
    return 2 * isinstance(base, dist.Bernoulli)


def class_value(site: TraceSite) -> Tensor:
    """A site's value; one-hot vectors as the number of their class."""
    one_hot = isinstance(unwrapped(site["fn"]), dist.OneHotCategorical)
    return site["value"].argmax(-1, keepdim=True) if one_hot else site["value"]


def class_probabilities(structure: Structure, site: TraceSite, particles: int) -> Tensor:
    """The probabilities of the classes of a site, [particle, row, entry, level]."""
    event = site["fn"].event_dim + (not isinstance(unwrapped(site["fn"]), dist.OneHotCategorical))
    shaped = {**site, "fn": SimpleNamespace(event_dim=event)}
    found = entries(structure, shaped, probabilities(site["fn"]), particles)
    return found.unflatten(-1, (-1, levels_of(site["fn"])))
