"""One run of a generated guide: draw the sites of a block from a distribution over the vector of all their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppl_vae.autoguide.sites import Site
from ppl_vae.autoguide.supports import model_distribution
from ppl_vae.nn.heads import is_normal
from ppl_vae.programs.program import Program

__all__ = ["GuideRun", "draw", "unpack"]


@dataclass
class GuideRun:
    """What is known in one run of a guide: the fields, the values drawn so far, the plates that are open.

    `site` gives a site with the support that it has in this run, for which the model is asked where it moves.
    """

    program: Program
    sites: Mapping[str, Site]
    fields: Mapping[str, Tensor]
    values: dict[str, Tensor] = field(default_factory=dict)
    entered: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Site] = field(default_factory=dict)

    def site(self, name: str) -> Site:
        """A site as the model has it in this run, given the latents before it."""
        site = self.sites[name]
        if not site.moving:
            return site
        if name not in self.asked:
            self.asked[name] = site.at(model_distribution(self.program, name, self.values, self.fields))
        return self.asked[name]

    def features(self, name: str) -> Tensor:
        """The value of a site as features for the latents that come after it."""
        return self.site(name).features(self.values[name])


def draw(name: str, names: Sequence[str], head: Any, run: GuideRun) -> None:
    """Draw the sites of a block from the distribution of their vector, or of their logits; `name` is the block's."""
    site = run.sites[names[0]]
    alone = len(names) == 1 and (site.classified is not None or not site.plates or _stays(head))
    if not alone:
        with site.inside(run.entered, elements=False):
            vector = pyro.sample(name, head, infer={"is_auxiliary": True, "joint": name})
        pieces = vector.split([run.sites[n].width for n in names], dim=-1)
        for each, piece in zip(names, pieces, strict=True):
            site = run.site(each)
            with site.inside(run.entered):
                run.values[each] = pyro.sample(each, site.unpacked(piece), infer={"joint": name})
        return
    site = run.site(names[0])
    posterior = site.classifier(head) if site.classified is not None else site.constrained(head)
    with site.inside(run.entered):
        run.values[site.name] = pyro.sample(site.name, posterior)


def unpack(names: Sequence[str], vector: Tensor, run: GuideRun) -> None:
    """Give the sites of a block their values from a drawn vector, without Pyro statements."""
    for name, piece in zip(names, vector.split([run.sites[n].width for n in names], dim=-1), strict=True):
        run.values[name] = run.site(name).unpacked(piece).value


def _stays(head: Any) -> bool:
    """Whether a distribution over a vector is one over the elements of inner plates, laid out anew."""
    return is_normal(head) or isinstance(head, dist.Delta)
