"""Encoders of fields that have an entry for every step of a row, or for every member: what they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ppl_vae.errors import absent_field
from ppl_vae.nn.encoders import FieldEncoder
from ppl_vae.nn.inputs import entries_of, entry_of, input_layer

if TYPE_CHECKING:
    from ppl_vae.data import Field, Split

__all__ = ["EntryEncoder", "Timing", "place_of"]


@dataclass(frozen=True)
class Timing:
    """The fields of the steps, each with the entry that belongs to step 0, and what says how long a row is.

    `observed` are those of them that are observed; others are inputs, and say nothing of where a row ends. There are
    `steps` where the fields are as long as their schema says. `lengths` is a field of whole numbers [row] and what has
    to be added to it, `mask` a field [row, entry] of what counts.
    """

    starts: dict[str, int]
    observed: frozenset[str]
    steps: int
    lengths: tuple[str, int] | None = None
    mask: str | None = None


class EntryEncoder(FieldEncoder):
    """A field encoder some of whose fields have entries along their first axis, each read by one network for all.

    Shapes: fields [B, *shape] -> what is known at each entry [T, B, G].

    Args:
        fields: the fields that are read.
        train: the training rows; without them nothing is standardised.
        timing: which of them have entries, and which entry is which.
        noise: as of `FieldEncoder`.
    """

    def __init__(self, fields: Sequence[Field], train: Split | None, timing: Timing, noise: float = 0.0) -> None:
        nn.Module.__init__(self)
        # how long a row is shows in which of its entries are there: a number that no training row had says no more
        fields = [f for f in fields if timing.lengths is None or f.name != timing.lengths[0]]
        self.names = tuple(f.name for f in fields)
        layers = []
        for f in fields:
            entry, rows = (entry_of(f), entries_of(f, train)) if f.name in timing.starts else (f, train)
            layers.append(input_layer(entry, noise=noise)(entry, rows))
        self.inputs = nn.ModuleList(layers)
        self.timing = timing
        self.more = timing.steps - next(f.shape[0] - timing.starts[f.name] for f in fields if f.name in timing.observed)
        sizes = {name: int(layer.size) for name, layer in zip(self.names, layers, strict=True)}  # type: ignore[arg-type]
        self.constant = sum(size for name, size in sizes.items() if name not in timing.starts)
        self.own = sum(sizes.values()) + 1

    def of_steps(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features of the rows [B, F], and of their entries [T, B, G]."""
        raise NotImplementedError

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Features of the rows alone."""
        return self.of_steps(batch)[0]

    def _own(self, batch: Mapping[str, Tensor], seen: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What is known at each step itself, [T, B, ...], and what is known of the rows."""
        starts = self.timing.starts
        constant = [self._input(name, batch) for name in self.names if name not in starts]
        parts = [c.expand(len(seen), *c.shape) for c in constant]
        marks = seen.unsqueeze(-1).to(torch.get_default_dtype())
        for name in (n for n in self.names if n in starts):
            part = self.input_of(name)(self._entries(batch[name], name, len(seen)))
            parts.append(part * marks if name in self.timing.observed else part)
        return torch.cat([*parts, marks.to(parts[-1].dtype)], -1), constant

    def _seen(self, batch: Mapping[str, Tensor]) -> Tensor:
        """In which steps something was observed, [T, B]."""
        for name in self.names:
            if name in self.timing.starts and name not in batch:
                raise absent_field(name, batch)
        first = next(n for n in self.names if n in self.timing.observed)
        steps = batch[first].shape[1] - self.timing.starts[first] + self.more
        seen = torch.zeros(steps, len(batch[first]), dtype=torch.bool, device=batch[first].device)
        for name in self.names:
            if name in self.timing.observed:
                x = batch[name]
                there = (~torch.isnan(x) if x.is_floating_point() else x >= 0).reshape(*x.shape[:2], -1).any(2)
                seen = seen | (self._entries(there, name, steps) & self._within(x, name, steps))
        if self.timing.lengths is not None:
            seen = seen & (place_of(seen) < batch[self.timing.lengths[0]] + self.timing.lengths[1])
        mask = self.timing.mask
        return seen if mask is None else seen & (self._entries(batch[mask], mask, steps) > 0)

    def _entries(self, values: Tensor, name: str, steps: int) -> Tensor:
        """The entries of a field by step, [T, B, ...]; the nearest one where a step has none."""
        place = torch.arange(steps, device=values.device) + self.timing.starts[name]
        return values.transpose(0, 1)[place.clamp(0, values.shape[1] - 1)]

    def _within(self, values: Tensor, name: str, steps: int) -> Tensor:
        place = torch.arange(steps, device=values.device) + self.timing.starts[name]
        return ((place >= 0) & (place < values.shape[1])).unsqueeze(1)


def place_of(seen: Tensor) -> Tensor:
    """The number of each entry, [T, 1]."""
    return torch.arange(len(seen), device=seen.device).unsqueeze(1)
