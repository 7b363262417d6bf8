"""Which sites observe the missing entries of which fields; and values put where entries were missing."""

from __future__ import annotations

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F

from ppl_vae.data import Field, Schema
from ppl_vae.data.convert import missing_in
from ppl_vae.distributions import OneByOne, expected_value, unwrapped
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes, Watch
from ppl_vae.programs.program import Batch, Pair, Program
from ppl_vae.programs.structure import Structure, TraceSites, sample_sites

__all__ = ["Target", "find_targets", "observes", "observing", "view_in"]


@dataclass(frozen=True, eq=False)
class Target:
    """A site that observes a field, or a part of it, in which entries may be missing.

    `values` is what the program observes there, a view of `stored` (the field's rows) or a copy of the same layout;
    `row` is the rows' dim of it, `levels` the number of levels of a single category, 0 for everything else.
    """

    field: Field
    site: str
    values: Tensor
    stored: Tensor
    row: int
    levels: int

    @property
    def name(self) -> str:
        """The field's name."""
        return self.field.name

    def expected(self, sites: TraceSites) -> Tensor:
        """E[x | z] of every particle, [particle, row, ...]; of a single category the probabilities of its levels."""
        site = sites[self.site]
        if not site["is_observed"]:  # a label that is latent where it is missing
            value = self.each(site["value"])
            return F.one_hot(value.long(), self.levels).to(torch.get_default_dtype()) if self.levels else value
        fn = unwrapped(site["fn"])
        if self.levels:
            return self.each(fn.probs, extra=1)
        if isinstance(fn, OneByOne):
            return self.each(fn.completed().to(torch.get_default_dtype()))
        try:
            mean = expected_value(fn)
        except (NotImplementedError, AttributeError):  # no mean in closed form: a draw has the same expectation
            mean = fn.sample()
        return self.each(mean)

    def draw(self, sites: TraceSites) -> Tensor:
        """x ~ p(x | z) of every particle, [particle, row, ...]."""
        site = sites[self.site]
        if not site["is_observed"]:
            return self.each(site["value"])
        fn = unwrapped(site["fn"])
        return self.each(fn.completed() if isinstance(fn, OneByOne) else fn.sample())

    def summary(self, average: Tensor) -> Tensor:
        """The average of `expected` as one value an entry: of a category without an order its likeliest level."""
        if not self.levels:
            return average
        if not self.field.ordered:
            return average.argmax(-1)
        return (average * torch.arange(self.levels, device=average.device)).sum(-1)

    def known(self, average: Tensor) -> Tensor:
        """Probabilities of the levels [row, level]: 0 and 1 where the level was observed."""
        seen = self.stored >= 0
        observed = F.one_hot(self.stored.clamp(min=0), self.levels).to(average.dtype)
        return torch.where(seen.unsqueeze(-1), observed, average)

    def fill(self, rows: Tensor, values: Tensor) -> Tensor:
        """Rows [..., row, *S] with these values [..., row, ...] where entries are missing."""
        many = values.dim() > self.values.dim()
        if not many:
            return self._filled(rows, values)
        each = rows if rows.dim() > self.stored.dim() else rows.expand(len(values), *rows.shape)
        return torch.stack([self._filled(r, v) for r, v in zip(each, values, strict=True)])

    def _filled(self, rows: Tensor, values: Tensor) -> Tensor:
        if values.is_floating_point() and not rows.is_floating_point():
            rows = rows.to(values.dtype)
        place, inside = self.spread(values.to(rows.dtype))
        return torch.where(inside & missing_in(self.field.kind, self.stored), place, rows)

    def spread(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values [row, ...] where the field has them, [row, *S], and which entries of the field these are."""
        place = torch.zeros_like(self.stored, dtype=values.dtype)
        inside = torch.zeros_like(self.stored, dtype=torch.bool)
        values = values.movedim(0, self.row)
        for whole, part in ((place, values), (inside, torch.ones_like(values, dtype=torch.bool))):
            view_in(whole, self.values, self.stored).copy_(part)
        return place, inside

    def each(self, values: Tensor, extra: int = 0) -> Tensor:
        """Values of a run as [particle, row, other dims of the site's value, ...]."""
        tail = values.shape[values.dim() - extra :]
        return values.reshape(-1, *self.values.shape, *tail).movedim(1 + self.row, 1)


def find_targets(pair: Pair, structure: Structure, schema: Schema, batch: Batch) -> list[Target]:
    """The sites of the model that observe the fields of a batch in which the structure knows of missing entries.

    A field that no site observes as it is (a label that the model does not use, a condition) is left alone.
    """
    holes = Holes(structure.holes, structure.latents, batch)
    return [t for t in observing(pair.model, holes, structure.dim, schema, batch) if t.site in structure.holes]


def observing(model: Program, holes: Holes, dim: int | None, schema: Schema, batch: Batch) -> list[Target]:
    """The sites of a model, whose data plate has this dim, that observe the fields of a batch, missing or not.

    Where all data are one unit there is no such dim.
    """
    watch = Watch()
    sites = sample_sites(traced(holes(watch(model)), batch))
    found = []
    for site, (_, values) in watch.seen.items():
        namesake_first = sorted((f for f in schema if f.name in batch), key=lambda f: f.name != site)
        field = next((f for f in namesake_first if observes(values, batch[f.name], f)), None)
        if field is not None:
            fn = sites[site]["fn"]
            row, base = 0 if dim is None else values.dim() - fn.event_dim + dim, unwrapped(fn)
            single = field.kind == "categorical" and field.shape == () and isinstance(base, dist.Categorical)
            levels = base.probs.shape[-1] if single else 0
            found.append(Target(field, site, values, batch[field.name], row, levels))
    return found


def observes(values: Tensor, stored: Tensor, field: Field) -> bool:
    """Whether a site's values are a field: a view of its rows, or a copy of them."""
    if values.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr():
        return 0 not in values.stride() or values.numel() <= 1
    if values.shape != stored.shape:
        return False
    there = ~missing_in(field.kind, stored)
    return bool((values[there] == stored[there]).all())


def view_in(whole: Tensor, values: Tensor, stored: Tensor) -> Tensor:
    """The part of a tensor like `stored` at which `values` are in `stored`."""
    if values.untyped_storage().data_ptr() != stored.untyped_storage().data_ptr():
        return whole
    return whole.as_strided(values.shape, values.stride(), values.storage_offset() - stored.storage_offset())
