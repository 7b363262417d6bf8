"""An encoder of series: features of every step of a row, from what was observed before it, at it and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ppl_vae.nn.entries import EntryEncoder, Timing, place_of
from ppl_vae.nn.networks import hidden_layers, widths

if TYPE_CHECKING:
    from ppl_vae.data import Field, Split

__all__ = ["RecurrentEncoder"]

STATE = 64
"""The most numbers in the state of the recurrent network in one direction."""


class RecurrentEncoder(EntryEncoder):
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
        super().__init__(fields, train, timing, noise)
        hidden = widths(hidden)
        width, constant = self.own + 1, self.constant
        state = min(hidden[-1], STATE) if hidden else STATE
        self.ahead, self.back = nn.GRU(width, state), nn.GRU(width, state)
        self.of_step = hidden_layers(2 * state + width, hidden[-1:], activation)
        row = 2 * state + constant
        self.layers = hidden_layers(row, hidden if of_rows else (), activation)
        self.step_size = hidden[-1] if hidden else 2 * state + width
        self.size = hidden[-1] if hidden and of_rows else row

    def of_steps(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features of the rows [B, F], and of their steps [T, B, G]."""
        seen = self._seen(batch)
        last = torch.where(seen, place_of(seen), 0).amax(0)
        own, constant = self._own(batch, seen)
        first = (place_of(seen) == 0).to(own.dtype).expand(own.shape[:2]).unsqueeze(-1)
        own = torch.cat([own, first], -1)
        ahead = self.ahead(own)[0]
        # step t of a row that ends with step n is entry n - t of the row turned round, and the other way about
        turned = last - place_of(seen)
        back = _taken(self.back(_taken(own, turned))[0], turned) * (turned >= 0).unsqueeze(-1)
        row = torch.cat([_taken(ahead, last.unsqueeze(0))[0], back[0], *constant], -1)
        return self.layers(row), self.of_step(torch.cat([ahead, back, own], -1))


def _taken(values: Tensor, place: Tensor) -> Tensor:
    """Entries [T, B, ...] of each row at these places [S, B]; the first one before the beginning."""
    index = place.clamp(min=0).unsqueeze(-1).expand(*place.shape, values.shape[-1])
    return values.gather(0, index)
