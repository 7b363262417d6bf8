"""Fields that an encoder is not shown in training, row by row at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppl_vae.errors import UserError

if TYPE_CHECKING:
    from ppl_vae.data import Field

__all__ = ["Hiding", "may_be_missing"]


def may_be_missing(fields: Sequence[Field]) -> list[Field]:
    """The same fields, in each of which entries may be missing: whoever reads them is told where."""
    return [replace(f, missing=True) for f in fields]


class Hiding:
    """Hides each field of each row from an encoder, with a probability of `share` and independently of the others.

    A row of which every field would be hidden keeps them all. What is hidden is scored all the same, so that each row
    is trained with a guide of its own that has seen less: its bound is a bound of the same log p(x). Latents that only
    a hidden field tells about are then drawn from what the others say, which is what a missing field asks for.

    Raises:
        UserError: for a share outside [0, 1), or a single field.

    Source: the rows of Wu & Goodman 2018, arXiv 1802.05335, with less given; dropout of whole inputs, Neverova et al.
    2016, arXiv 1501.00102.

    Example:
        >>> from ppl_vae.data import Field
        >>> hiding = Hiding([Field("a", "real"), Field("y", "categorical", (), 3)], 0.5)
        >>> _ = torch.manual_seed(0)
        >>> shown = hiding({"a": torch.ones(4), "y": torch.ones(4, dtype=torch.long)})
        >>> shown["a"].isnan() & (shown["y"] < 0)
        tensor([False, False, False, False])
    """

    def __init__(self, fields: Sequence[Field], share: float) -> None:
        if not 0 <= share < 1:
            raise UserError(
                f"hide is the share of rows from which a field is hidden in training, in [0, 1), got {share}"
            )
        if share and len(fields) < 2:
            raise UserError(
                f"hide= hides fields that others stand in for, and the encoder reads {len(fields)}: leave it out"
            )
        self.share = share
        self.codes = {f.name: f.kind == "categorical" for f in fields}
        self.dims = {f.name: len(f.shape) for f in fields}

    def __call__(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The batch with some fields of some rows missing."""
        names = [name for name in self.codes if name in batch]
        if not self.share or len(names) < 2:
            return batch
        first = batch[names[0]]
        lead = first.shape[: first.dim() - self.dims[names[0]]]
        gone = torch.rand(*lead, len(names), device=first.device) < self.share
        gone = gone & ~gone.all(-1, keepdim=True)
        shown = dict(batch)
        for i, name in enumerate(names):
            here = gone[..., i].reshape(*lead, *(1,) * self.dims[name])
            shown[name] = batch[name].masked_fill(here, -1 if self.codes[name] else torch.nan)
        return shown
