"""Whether a pair has densities at all: point masses in the guide, improper priors in the model.

A guide that draws a continuous latent from a point mass has no density with respect to the prior, and under an
improper prior there is no p(x): of such a pair there is no evidence and no bound of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch.distributions import biject_to

from ppl_vae.errors import NoDensity
from ppl_vae.programs.structure import Structure, TraceSites

__all__ = ["drawable", "is_improper", "is_point_mass", "point_masses", "refuse_points"]


def _base(fn: Any) -> Any:
    """The distribution that the others are wrapped around."""
    while not isinstance(fn, dist.Delta) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def is_point_mass(fn: Any) -> bool:
    """Whether a distribution is a Delta, reshaped, masked or carried elsewhere by transforms or not.

    Example:
        >>> import torch
        >>> is_point_mass(dist.Delta(torch.zeros(3)).to_event(1)), is_point_mass(dist.Normal(0.0, 1.0))
        (True, False)
    """
    return isinstance(_base(fn), dist.Delta)


def is_improper(fn: Any) -> bool:
    """Whether a distribution is an `ImproperUniform`, whose density does not integrate to one.

    Example:
        >>> from torch.distributions import constraints
        >>> is_improper(dist.ImproperUniform(constraints.real, (), (3,)))
        True
    """
    return isinstance(_base(fn), dist.ImproperUniform)


class drawable(Messenger):
    """Values for latents that cannot be drawn from their priors, which do not integrate to one."""

    def _pyro_sample(self, msg: Message) -> None:
        fn: Any = msg["fn"]
        if not msg["is_observed"] and not msg["done"] and is_improper(fn):
            free = biject_to(fn.support)
            shape = free.inverse_shape(fn.batch_shape + fn.event_shape)
            msg["value"], msg["done"] = free(0.1 * torch.randn(shape)), True


def point_masses(latents: Iterable[str], guide: TraceSites, model: TraceSites) -> frozenset[str]:
    """The continuous latents of the model that the guide draws from a point mass, by themselves or in a joint draw.

    A discrete latent may be: its point has a mass. So may a latent that is a point mass in the model too.
    """
    found = set()
    for name in latents:
        if name not in model or getattr(model[name]["fn"].support, "is_discrete", False):
            continue
        drawn_as = guide[name]["infer"].get("joint", name)
        if is_point_mass(guide.get(drawn_as, guide[name])["fn"]) and not is_point_mass(model[name]["fn"]):
            found.add(name)
    return frozenset(found)


def refuse_points(structure: Structure, what: str, *, shared: bool = False) -> None:
    """Raise `NoDensity` for a pair whose rows have latents drawn from point masses.

    Args:
        structure: of the pair.
        what: was asked for.
        shared: latents that all rows share must have a density, too.
    """
    points = sorted(structure.points if shared else structure.points - structure.global_latents)
    if not points:
        return
    sites = ", ".join(repr(name) for name in points)
    if structure.improper:
        raise NoDensity(
            f"no {what}: site {sites} is a point in the guide and its prior is flat, and a deterministic autoencoder "
            "is not a density: see ppl_vae.reconstruct(model, guide, data), or train a VAE"
        )
    raise NoDensity(
        f"no {what}: site {sites} is a point in the guide, which has no density there: use a guide that has one, such "
        "as MeanField(model), or see ppl_vae.reconstruct(model, guide, data)"
    )
