"""Where rows, plates and the event of every site of a model are in its values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.data import Field, Schema
from ppl_vae.distributions import unwrapped
from ppl_vae.programs.density import drawable, is_point_mass
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes, Watch
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure, frames, sample_sites

__all__ = ["Layout", "event_names", "read_layouts"]


@dataclass(frozen=True)
class Layout:
    """A site of the model: where rows, its other plates and its event are in its values [plates, *event].

    `row` and the dims of `plates` (name, dim and size, from the left) are counted from the right end of the plates, as
    Pyro counts; `row` is None for a latent that all rows share, or where all data are one unit; `levels` is the number
    of categories of a single category, else 0; `field` is what is observed here.
    """

    name: str
    row: int | None
    plates: tuple[tuple[str, int, int], ...]
    event_shape: tuple[int, ...]
    levels: int = 0
    field: Field | None = None

    @property
    def dims(self) -> tuple[str, ...]:
        """A name for every dim of `arranged` values after the first."""
        rows = () if self.row is None else ("row",)
        return (*rows, *(name for name, *_ in self.plates), *event_names(self.name, len(self.event_shape)))

    @property
    def size(self) -> int:
        """How many numbers a row has here."""
        return math.prod(self.event_shape) * math.prod(size for *_, size in self.plates)

    def arranged(self, values: Tensor) -> Tensor:
        """Values [draw, plates, *event] as [draw, row, other plates, *event], without `row` where there is none."""
        edge = values.dim() - len(self.event_shape)
        rows = [] if self.row is None else [self.row]
        kept = [edge + d for d in (*rows, *(d for _, d, _ in self.plates))]
        idle = [i for i in range(1, edge) if i not in kept]  # dims of other sites' plates, of size 1
        event = list(range(edge, values.dim()))
        shape = [values.shape[i] for i in (0, *kept, *event)]
        return values.permute(0, *kept, *idle, *event).reshape(shape)

    def placed(self, values: Tensor, nesting: int) -> Tensor:
        """What `arranged` gives, or the same without plates of one element, as [draw, plates, *event] again."""
        plates = [] if self.row is None else [(self.row, values.shape[1])]
        plates += [(dim, size) for _, dim, size in self.plates]
        values = values.reshape(len(values), *(size for _, size in plates), *self.event_shape)
        order = sorted(range(len(plates)), key=lambda i: plates[i][0])
        event = range(1 + len(plates), values.dim())
        sizes = dict(plates)
        shape = [sizes.get(dim, 1) for dim in range(-nesting, 0)]
        return values.permute(0, *(1 + i for i in order), *event).reshape(len(values), *shape, *self.event_shape)


def event_names(name: str, count: int) -> tuple[str, ...]:
    """Names of the event dims of a variable.

    Example:
        >>> event_names("z", 1), event_names("x", 2)
        (('z_dim',), ('x_dim_0', 'x_dim_1'))
    """
    return (f"{name}_dim",) if count == 1 else tuple(f"{name}_dim_{i}" for i in range(count))


def read_layouts(pair: Pair, structure: Structure, schema: Schema, batch: Batch) -> dict[str, Layout]:
    """The latents and observed sites of a model, from one run."""
    watch, holes = Watch(), Holes(structure.holes, structure.latents, batch)
    with drawable():  # latents of a flat prior have shapes, too
        sites = sample_sites(traced(holes(watch(pair.model)), batch))
    found = {}
    for name, site in sites.items():
        if not is_point_mass(site["fn"]) and not isinstance(site["fn"], dist.Unit):
            value = watch.seen[name][1] if name in watch.seen else None
            found[name] = _layout(name, site, structure, schema, batch, value)
    return found


def _layout(
    name: str, site: Mapping[str, Any], structure: Structure, schema: Schema, batch: Batch, observed: Tensor | None
) -> Layout:
    fn = site["fn"]
    plates = [(f.name, int(f.dim or 0), int(f.size)) for f in frames(site) if f.name not in structure.row_plates]
    if structure.is_one_unit:  # whose statements may have dims without a plate
        held = {dim for _, dim, _ in plates}
        loose = [d for d in range(-len(fn.batch_shape), 0) if d not in held and fn.batch_shape[d] > 1]
        plates += [(f"{name}_{len(fn.batch_shape) + d}", d, int(fn.batch_shape[d])) for d in loose]
    base = unwrapped(fn)
    levels = base.probs.shape[-1] if isinstance(base, dist.Categorical) and not fn.event_shape else 0
    plates = sorted(plates, key=lambda plate: plate[1])
    row = structure.dim if structure.row_frame(site) is not None else None
    layout = Layout(name, row, tuple(plates), tuple(fn.event_shape), levels)
    if observed is None:
        return replace(layout, field=next((f for f in schema if f.name == name), None))
    value = layout.arranged(observed.unsqueeze(0))[0]
    namesake_first = sorted((f for f in schema if f.name in batch), key=lambda f: f.name != name)
    return replace(layout, field=next((f for f in namesake_first if _same(value, batch[f.name])), None))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=0, atol=0, equal_nan=True)
