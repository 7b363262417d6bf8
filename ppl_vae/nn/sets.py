"""An encoder of groups: features of every member of a row, and of all of them in whatever order they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppl_vae.nn.entries import EntryEncoder, Timing
from ppl_vae.nn.networks import MLP, hidden_layers, widths

if TYPE_CHECKING:
    from ppl_vae.data import Field, Split

__all__ = ["SetEncoder"]

WIDTH = 64
"""The most features of one member that are averaged."""


class SetEncoder(EntryEncoder):
    """Features of rows and of their members: a network of each member, averaged over those that are there.

    The first axis of a field counts members. A member is there if something of it was observed. What is read of a row
    is h = (1/n) sum_i f(x_i) with n itself, and does not depend on the order of members, nor on how many places the
    longest row has. Shapes: fields [B, *shape] -> features of the row [B, F], of the members [N, B, G]. Source: Zaheer
    et al. 2017, arXiv 1703.06114.

    Args:
        fields: the fields that are read.
        train: the training rows; without them nothing is standardised.
        timing: which of them have an entry for every member.
        hidden, activation, noise: as of `FieldEncoder`.
        of_members: whether anything is drawn from the features of a member.

    Example:
        >>> from ppl_vae.data import Field
        >>> timing = Timing({"x": 0}, frozenset({"x"}), 7)
        >>> encoder = SetEncoder([Field("x", "real", (7, 2))], None, timing, hidden=(16,))
        >>> x = torch.randn(5, 7, 2)
        >>> torch.allclose(encoder({"x": x}), encoder({"x": x.flip(1)}), atol=1e-6)
        True
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
        of_members: bool = True,
    ) -> None:
        super().__init__(fields, train, timing, noise)
        hidden = widths(hidden)
        width = min(hidden[-1], WIDTH) if hidden else WIDTH
        together = width + 2 + self.constant
        self.each = MLP(self.own, (width,), width)
        self.layers = hidden_layers(together, hidden, activation)
        self.of_step = hidden_layers(self.own + together, hidden[-1:] if of_members else (), activation)
        self.size = hidden[-1] if hidden else together
        self.step_size = hidden[-1] if hidden and of_members else self.own + together

    def of_steps(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features of the rows [B, F], and of their members [N, B, G]."""
        seen = self._seen(batch)
        own, constant = self._own(batch, seen)
        there = seen.unsqueeze(-1).to(own.dtype)
        count = there.sum(0)
        mean = (self.each(own) * there).sum(0) / count.clamp(min=1)
        row = torch.cat([mean, count.log1p(), 1 / (1 + count), *constant], -1)
        return self.layers(row), self.of_step(torch.cat([own, row.expand(len(own), *row.shape)], -1))
