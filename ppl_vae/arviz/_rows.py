"""Rows as the model draws them given its latents, as it makes them alone, and as they are observed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.arviz._layouts import Layout
from ppl_vae.programs.density import drawable
from ppl_vae.programs.execution import for_particles, traced
from ppl_vae.programs.missing import Holes, Watch
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.simulating import unobserved
from ppl_vae.programs.structure import Structure, sample_sites
from ppl_vae.weights.completion import Sites, fixed, replayed

__all__ = ["Rows", "cat", "gathered", "latents_of", "picked_rows"]


def latents_of(structure: Structure) -> set[str]:
    """The latents of a model, those that it sums out among them, without sites that the guide alone has."""
    return {*structure.latents, *structure.summed_model} - structure.auxiliary


@dataclass(frozen=True)
class Rows:
    """What a model says of the rows of a batch, some draws at a time; values are [draw, plates, *event]."""

    pair: Pair
    structure: Structure
    layouts: Mapping[str, Layout]
    at_once: int

    @property
    def shown(self) -> list[str]:
        """Sites of the model that are data, there or absent."""
        names = {*self.structure.observed, *self.structure.absent, *self.structure.holes}
        return [name for name in self.layouts if name in names]

    def predicted(self, batch: Batch, latents: Mapping[str, Tensor], draws: int) -> Iterator[dict[str, Tensor]]:
        """x ~ p(x | z) for drawn latents."""
        for start in range(0, draws if self.shown else 0, self.at_once):
            k = min(self.at_once, draws - start)
            some = {name: value[start : start + k] for name, value in latents.items()}
            for sites in replayed(self.pair, self.structure, batch, some, k):
                yield {name: self.whole(sites[name]["fn"].sample(), name) for name in self.shown}

    def simulated(
        self, batch: Batch, names: Iterable[str], draws: int, given: Mapping[str, Tensor] | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """z ~ p(z), x ~ p(x | z) as the model alone says, under the conditions of the rows, latents given or drawn."""
        program, names = unobserved()(self.pair.model), list(names)
        size = self.at_once if self.structure.broadcasts else 1
        for start in range(0, draws, size):
            k = min(size, draws - start)
            known = {name: value[start : start + k] for name, value in (given or {}).items()}
            held = poutine.replay(program, trace=fixed(self.structure, known, k))
            sites: Sites = sample_sites(traced(for_particles(held, self.structure, k), batch))
            yield {name: self.whole(sites[name]["value"], name) for name in names}

    def whole(self, value: Tensor, name: str) -> Tensor:
        """A site's value with all of its dims."""
        dims = self.structure.nesting + 1 + len(self.layouts[name].event_shape)
        return value.reshape((1,) * (dims - value.dim()) + tuple(value.shape))

    def data(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the model observes, by site, and the other fields: conditions, and labels that the pair does not use."""
        watch, holes = Watch(), Holes(self.structure.holes, self.structure.latents, batch)
        with drawable():  # what is looked at does not depend on the latents, whose priors may be flat
            traced(holes(watch(self.pair.model)), batch)
        seen = {name: watch.seen[name][1] for name in self.layouts if name in watch.seen}
        used = {value.untyped_storage().data_ptr() for value in seen.values()}
        fields = {layout.field.name for name, layout in self.layouts.items() if name in seen and layout.field}
        others = {n: v for n, v in batch.items() if n not in fields and v.untyped_storage().data_ptr() not in used}
        observed = {name: self.layouts[name].arranged(value.unsqueeze(0)).cpu() for name, value in seen.items()}
        return observed, {name: value.unsqueeze(0).cpu() for name, value in others.items()}


def gathered(parts: Iterable[Mapping[str, Tensor]], layouts: Mapping[str, Layout]) -> dict[str, Tensor]:
    """Variables [draw, row, other plates, *event] from parts with some draws each."""
    found: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, value in part.items():
            value = value if value.is_floating_point() else value.to(torch.int32)  # half the memory
            found.setdefault(name, []).append(layouts[name].arranged(value).cpu())
    return cat(found)


def cat(parts: Mapping[str, Sequence[Tensor]], dim: int = 0) -> dict[str, Tensor]:
    """Variables from their pieces."""
    return {name: torch.cat(list(values), dim) for name, values in parts.items()}


def picked_rows(value: Tensor, chosen: Tensor, row: int) -> Tensor:
    """Of a latent [particle, plates, *event] the chosen particle of every row, [draw, plates, *event]."""
    index = chosen.to(value.device)
    each = value.movedim(row, 1)
    rows = torch.arange(index.shape[1], device=value.device)
    each = each.expand(-1, len(rows), *each.shape[2:])
    return each[index, rows].movedim(1, row)
