"""An encoder of series: features of every step of a row, from what was observed before it, at it and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ppl_vae.nn.encoders import FieldEncoder, input_layer
from ppl_vae.nn.networks import hidden_layers, widths

if TYPE_CHECKING:
    from ppl_vae.data import Field, Split

__all__ = ["RecurrentEncoder", "Timing"]

STATE = 64
"""The most numbers in the state of the recurrent network in one direction."""


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


class RecurrentEncoder(FieldEncoder):
    """Features of rows and of their steps: a GRU forwards, another one backwards, and the entries of the step itself.

    The first axis of a field of the steps counts its entries. An entry is read as a field of that shape is, by one
    network for all steps, so that the number of parameters does not depend on how many there are. A row ends with its
    last step in which something was observed (by its length, by a mask, or since later entries are missing): what pads
    it is not read, and the network that goes backwards begins there, however long the longest row is.
    Shapes: fields [B, *shape] -> features of the row [B, F], of the steps [T, B, G]. Source: Cho et al. 2014,
    arXiv 1406.1078; Krishnan et al. 2017, arXiv 1609.09869.

    Args:
        fields: the fields that are read.
        train: the training rows; without them nothing is standardised.
        timing: which of them belong to the steps.
        hidden, activation, noise: as of `FieldEncoder`.
        of_rows: whether anything is drawn from the features of a row; without it they go through no layers.

    Example:
        >>> from ppl_vae.data import Field
        >>> timing = Timing({"x": 0}, frozenset({"x"}), 7)
        >>> encoder = RecurrentEncoder([Field("x", "real", (7, 2))], None, timing, hidden=(16,))
        >>> row, steps = encoder.of_steps({"x": torch.randn(5, 7, 2)})
        >>> row.shape, steps.shape
        (torch.Size([5, 16]), torch.Size([7, 5, 16]))
    """

    def __init__(
        self,
        fields: Sequence[Field],
        train: Split | None,
        timing: Timing,
        *,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
        noise: float = 0.0,
        of_rows: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        hidden = widths(hidden)
        self.names = tuple(f.name for f in fields)
        self.inputs = nn.ModuleList(
            [
                input_layer(_entry(f), noise=noise)(_entry(f), _entries(f, train))
                if f.name in timing.starts
                else input_layer(f, noise=noise)(f, train)
                for f in fields
            ]
        )
        self.timing = timing
        self.more = timing.steps - next(f.shape[0] - timing.starts[f.name] for f in fields if f.name in timing.observed)
        sizes = {f.name: int(layer.size) for f, layer in zip(fields, self.inputs, strict=True)}  # type: ignore[arg-type]
        constant = sum(size for name, size in sizes.items() if name not in timing.starts)
        width = sum(sizes.values()) + 2
        state = min(hidden[-1], STATE) if hidden else STATE
        self.ahead, self.back = nn.GRU(width, state), nn.GRU(width, state)
        self.of_step = hidden_layers(2 * state + width, hidden[-1:], activation)
        row = 2 * state + constant
        self.layers = hidden_layers(row, hidden if of_rows else (), activation)
        self.step_size = hidden[-1] if hidden else 2 * state + width
        self.size = hidden[-1] if hidden and of_rows else row

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Features of the rows alone."""
        return self.of_steps(batch)[0]

    def of_steps(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features of the rows [B, F], and of their steps [T, B, G]."""
        seen = self._seen(batch)
        last = torch.where(seen, _count(seen), 0).amax(0)
        own, constant = self._own(batch, seen)
        ahead = self.ahead(own)[0]
        # step t of a row that ends with step n is entry n - t of the row turned round, and the other way about
        turned = last - _count(seen)
        back = _taken(self.back(_taken(own, turned))[0], turned) * (turned >= 0).unsqueeze(-1)
        row = torch.cat([_taken(ahead, last.unsqueeze(0))[0], back[0], *constant], -1)
        return self.layers(row), self.of_step(torch.cat([ahead, back, own], -1))

    def _own(self, batch: Mapping[str, Tensor], seen: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What is known at each step itself, [T, B, ...], and what is known of the rows."""
        starts = self.timing.starts
        constant = [self._input(name, batch) for name in self.names if name not in starts]
        parts = [c.expand(len(seen), *c.shape) for c in constant]
        marks = torch.stack([seen, _count(seen).expand_as(seen) == 0], -1).to(torch.get_default_dtype())
        for name in (n for n in self.names if n in starts):
            part = self.input_of(name)(self._entries(batch[name], name, len(seen)))
            parts.append(part * marks[..., :1] if name in self.timing.observed else part)
        return torch.cat([*parts, marks.to(parts[-1].dtype)], -1), constant

    def _seen(self, batch: Mapping[str, Tensor]) -> Tensor:
        """In which steps something was observed, [T, B]."""
        first = next(n for n in self.names if n in self.timing.observed)
        steps = batch[first].shape[1] - self.timing.starts[first] + self.more
        seen = torch.zeros(steps, len(batch[first]), dtype=torch.bool, device=batch[first].device)
        for name in self.names:
            if name in self.timing.observed:
                x = batch[name]
                there = (~torch.isnan(x) if x.is_floating_point() else x >= 0).reshape(*x.shape[:2], -1).any(2)
                seen = seen | (self._entries(there, name, steps) & self._within(x, name, steps))
        if self.timing.lengths is not None:
            seen = seen & (_count(seen) < batch[self.timing.lengths[0]] + self.timing.lengths[1])
        return (
            seen
            if self.timing.mask is None
            else seen & (self._entries(batch[self.timing.mask], self.timing.mask, steps) > 0)
        )

    def _entries(self, values: Tensor, name: str, steps: int) -> Tensor:
        """The entries of a field by step, [T, B, ...]; the nearest one where a step has none."""
        place = torch.arange(steps, device=values.device) + self.timing.starts[name]
        return values.transpose(0, 1)[place.clamp(0, values.shape[1] - 1)]

    def _within(self, values: Tensor, name: str, steps: int) -> Tensor:
        place = torch.arange(steps, device=values.device) + self.timing.starts[name]
        return ((place >= 0) & (place < values.shape[1])).unsqueeze(1)


def _count(seen: Tensor) -> Tensor:
    return torch.arange(len(seen), device=seen.device).unsqueeze(1)


def _taken(values: Tensor, place: Tensor) -> Tensor:
    """Entries [T, B, ...] of each row at these places [S, B]; the first one before the beginning."""
    index = place.clamp(min=0).unsqueeze(-1).expand(*place.shape, values.shape[-1])
    return values.gather(0, index)


def _entry(field: Field) -> Field:
    """One entry of a field of the steps, as a field."""
    return replace(field, shape=field.shape[1:], names=(), origin=())


def _entries(field: Field, train: Split | None) -> Split | None:
    """All entries of a field of the steps as rows."""
    if train is None:
        return None
    entry = _entry(field)
    return replace(
        train.select([field.name]),
        schema=type(train.schema)((entry,)),
        fields={field.name: train[field.name].flatten(0, 1)},
        draws=frozenset(),
        hidden={},
        outliers=None,
    )
