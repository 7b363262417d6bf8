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

COUNTS = 3
"""Features of how many members there are."""


class SetEncoder(EntryEncoder):
    """Features of rows and of their members: a network of each member, averaged over those that are there.

    The first axis of a field counts members. A member is there if something of it was observed. What is read of a row
    is h = (1/n) sum_i (f(x_i), x_i) with sums and n themselves. It does not depend on the order of members, nor on how
    many places the longest row has. Shapes: fields [B, *shape] -> features of the row [B, F], of the members [N, B, G].
    Source: Zaheer et al. 2017, arXiv 1703.06114.

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

    centre: Tensor
    spread: Tensor

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
        together = width + 2 * self.own + COUNTS + self.constant
        self.each = MLP(self.own, (width,), width)
        self.layers = hidden_layers(together, hidden, activation)
        self.of_step = hidden_layers(self.own + together, hidden[-1:] if of_members else (), activation)
        centre, spread = torch.zeros(COUNTS), torch.ones(COUNTS)
        if train is not None:
            found = _of_count(self._seen(train.head.fields).sum(0).unsqueeze(-1).to(centre.dtype))
            varies = found.std(0) > 1e-3 if len(found) > 1 else torch.zeros(COUNTS, dtype=torch.bool)
            centre, spread = found.mean(0), torch.where(varies, found.std(0), spread)
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)
        self.size = (hidden[-1] if hidden else together) + self.own + COUNTS
        self.step_size = hidden[-1] if hidden and of_members else self.own + together

    def of_steps(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features of the rows [B, F], and of their members [N, B, G]."""
        seen = self._seen(batch)
        own, constant = self._own(batch, seen)
        there = seen.unsqueeze(-1).to(own.dtype)
        count = there.sum(0)
        summed = (torch.cat([self.each(own), own], -1) * there).sum(0)
        # of normal models the entries' own sums are all that counts, shrunk by how many there are
        known = torch.cat([summed[..., -self.own :] / (1 + count), (_of_count(count) - self.centre) / self.spread], -1)
        together = torch.cat([summed / count.clamp(min=1), known, *constant], -1)
        row = torch.cat([self.layers(together), known], -1)
        return row, self.of_step(torch.cat([own, together.expand(len(own), *together.shape)], -1))


def _of_count(count: Tensor) -> Tensor:
    """Features of a number of members [..., 1]: the error of a mean falls like its root."""
    return torch.cat([count.log1p(), (1 + count).rsqrt(), 1 / (1 + count)], -1)
