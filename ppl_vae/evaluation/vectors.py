"""Continuous latents of a pair as vectors of real numbers, and back; with the joint draws they are cut from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.autoguide.sites import Site, read_site
from ppl_vae.errors import ProgramError
from ppl_vae.evaluation.shared_draws import SharedDraws, placed_shared
from ppl_vae.programs.execution import run
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure, TraceSites, sample_sites

__all__ = ["Vectors", "joint_draws", "placed_values"]


def joint_draws(sites: TraceSites) -> dict[str, list[str]] | str:
    """The pieces of each of a guide's joint draws, in their order; or the auxiliary site that is none of these."""
    found: dict[str, list[str]] = {}
    for name, site in sites.items():
        joint = site["infer"].get("joint")
        if site["infer"].get("is_auxiliary"):
            if joint != name:
                return name
            found[name] = []
        elif joint is not None:
            found[joint].append(name)
    return found


@dataclass(frozen=True)
class Vectors:
    """Some latents as vectors: `sites` in the guide's order, `joint` the guide's draws from which they are cut."""

    sites: Mapping[str, Site]
    joint: Mapping[str, list[str]]
    nesting: int

    @classmethod
    def of(cls, pair: Pair, structure: Structure, batch: Batch, names: Collection[str]) -> Vectors | None:
        """Read on a few rows; None where a latent has no such vector, or the guide draws what nobody can place."""
        drawn = run(pair, replace(structure, summed_guide=frozenset(), summed_model=frozenset()), batch)
        guide, model = sample_sites(drawn.guide), sample_sites(drawn.model)
        wanted = {n: s for n, s in guide.items() if n in names}
        joint, own = joint_draws(wanted), [n for n in wanted if n in model and n not in structure.auxiliary]
        if isinstance(joint, str) or not own or any(getattr(model[n]["fn"].support, "is_discrete", False) for n in own):
            return None
        try:
            sites = {n: read_site(n, model[n], structure.row_plates) for n in own}
        except ProgramError:
            return None
        return cls(sites, joint, structure.nesting)

    def vectors(self, values: Mapping[str, Tensor]) -> tuple[Float[Tensor, "draw d"], Float[Tensor, " draw"]]:
        """Shared latents [draw, plates, *event] as vectors, and log |d value / d vector|, in double precision."""
        parts, total = [], torch.zeros(())
        for name, site in self.sites.items():
            vector, stretch = site.vector(values[name].double())
            parts.append(vector.reshape(len(vector), -1))
            total = total + (stretch.reshape(len(vector), -1).sum(1) if isinstance(stretch, Tensor) else stretch)
        found = torch.cat(parts, 1)
        return found, total.to(found).expand(len(found))

    def values(self, vectors: Float[Tensor, "draw d"], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Vectors of shared latents as values of every site of the guide, in the shape and precision of others."""
        found = {}
        pieces = vectors.split([site.width for site in self.sites.values()], 1)
        for (name, site), piece in zip(self.sites.items(), pieces, strict=True):
            placed = piece.reshape(len(piece), *[1] * self.nesting, piece.shape[-1])
            value = site.unpacked(placed).value.to(like[name])
            found[name] = value.expand(len(piece), *like[name].shape[1:])
        for name, vector in self.whole(found).items():
            found[name] = vector.reshape(len(vectors), *like[name].shape[1:]).to(like[name])
        return found

    def whole(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The guide's joint draws of which these values are the pieces."""
        return {
            name: torch.cat([self.sites[n].vector(values[n])[0] for n in pieces], -1)
            for name, pieces in self.joint.items()
        }


def placed_values(
    pair: Pair, structure: Structure, batch: Batch, like: SharedDraws, values: Mapping[str, Tensor], chosen: Tensor
) -> SharedDraws:
    """Chosen draws [draw, plates, *event] of the model's shared latents, as draws on which programs can be run.

    Raises:
        NotImplementedError: where the guide's own joint draws cannot be made of them.
    """
    vectors = Vectors.of(pair, structure, batch, structure.global_latents)
    if vectors is None:
        raise NotImplementedError("what all rows share is not all continuous")
    few = {n: values[n][chosen.to(values[n].device)] for n in vectors.sites}
    shaped = {n: v.reshape(len(chosen), *like.values[n].shape[1:]) for n, v in few.items()}
    u, _ = vectors.vectors(shaped)
    return placed_shared(pair, structure, batch, like, vectors.values(u, like.values))
