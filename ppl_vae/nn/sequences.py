"""Sequences as networks read them: the entry before each, and a row by a GRU that ends where the row does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ppl_vae.data.convert import missing_in
from ppl_vae.nn.inputs import OneHotInput, entries_of, entry_of, input_layer

if TYPE_CHECKING:
    from ppl_vae.data import Field, Split

__all__ = ["PreviousEntry", "SequenceInput"]

STATE = 64
"""Numbers in the state of a GRU that reads rows."""


class PreviousEntry(nn.Module):
    """The entry before each of a row as numbers: levels as one-hot vectors, others standardised; and which is first.

    Shapes: entries [..., *S] -> [..., E]. Of `train` [n, *S] are mean and deviation.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, step: Field, train: Tensor | None) -> None:
        super().__init__()
        self.dims, self.levels = len(step.shape), step.kind == "categorical"
        self.hot = OneHotInput(step) if self.levels else None
        self.size = step.size * (int(step.cardinality or 1) if self.levels else 1) + 1
        mean, scale = torch.zeros(step.shape), torch.ones(step.shape)
        if train is not None and not self.levels:
            values = train.to(mean.dtype) if not train.is_floating_point() else train
            mean = values.nanmean(0).nan_to_num()
            spread = (values - mean).square().nanmean(0).nan_to_num().sqrt()
            scale = torch.where(spread > 0, spread, torch.ones_like(spread))
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def of(self, entries: Tensor) -> Tensor:
        """What comes after these entries is told of them, [..., E]."""
        lead = entries.shape[: entries.dim() - self.dims]
        each = ((entries - self.mean) / self.scale) if self.hot is None else self.hot(entries).to(self.mean.dtype)
        flat = each.reshape(*lead, -1)
        return torch.cat([flat, torch.zeros_like(flat[..., :1])], -1)

    def first(self, like: Tensor) -> Tensor:
        """What the first entry is told, [..., E]: nothing."""
        nothing = like.new_zeros(*like.shape[:-1], self.size)
        return torch.cat([nothing[..., 1:], torch.ones_like(nothing[..., :1])], -1)

    def forward(self, rows: Tensor, time: int) -> Tensor:
        """What each entry of rows [..., T, *S] is told of the one before it, [..., T, E]; T is the dim `time`."""
        told = self.of(rows.narrow(time, 0, rows.shape[time] - 1))
        return torch.cat([self.first(told[..., :1, :]), told], -2)


class SequenceInput(nn.Module):
    """A row by a GRU: its state at the last entry that is there, the mean of its states, and the share that is there.

    Entries that are missing at the end of a row are not read. Shapes: [..., T, *S] -> [..., 2 state + 1].

    Example:
        >>> from ppl_vae.data import Field
        >>> reads = SequenceInput(Field("x", "categorical", (5,), 9, missing=True))
        >>> x = torch.tensor([[4, 1, 2, -1, -1], [4, 1, 2, 7, 7]])
        >>> reads(x).shape, bool(torch.allclose(reads(x[:1]), SequenceInput.forward(reads, x)[:1]))
        (torch.Size([2, 129]), True)
    """

    def __init__(self, field: Field, train: Split | None = None, noise: float = 0.0, state: int = STATE) -> None:
        super().__init__()
        self.kind, self.dims, self.missing, step = field.kind, len(field.shape), field.missing, entry_of(field)
        self.entry = input_layer(replace(step, missing=False), noise=noise)(
            replace(step, missing=False), entries_of(field, train)
        )
        size = int(self.entry.size) * (step.size if isinstance(self.entry, OneHotInput) else 1)  # type: ignore[arg-type]
        self.gru = nn.GRU(size, state, batch_first=True)
        self.size = 2 * state + 1

    def forward(self, x: Tensor) -> Tensor:
        """Read the entries in order."""
        lead = x.shape[: x.dim() - self.dims]
        rows = x.reshape(-1, *x.shape[x.dim() - self.dims :])
        seen = ~missing_in(self.kind, rows).reshape(*rows.shape[:2], -1).all(-1)
        each = self.entry(rows).reshape(*rows.shape[:2], -1)
        hidden, _ = self.gru(each * seen.unsqueeze(-1))
        there = seen.to(hidden.dtype).unsqueeze(-1)
        steps = torch.arange(1, rows.shape[1] + 1, device=x.device)
        last = (seen * steps).amax(1)  # 0 for a row of which nothing is there
        state = hidden.gather(1, (last - 1).clamp(min=0)[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)
        mean = (hidden * there).sum(1) / there.sum(1).clamp(min=1)
        some = (last > 0).to(hidden.dtype).unsqueeze(-1)
        return torch.cat([state * some, mean, there.mean(1)], -1).reshape(*lead, self.size)
