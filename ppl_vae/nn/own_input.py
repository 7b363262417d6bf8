"""A user's network of one field, as an input layer of an encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ppl_vae.data import Field
from ppl_vae.data.convert import missing_in
from ppl_vae.data.example import blank
from ppl_vae.errors import UserError

__all__ = ["OwnInput"]


class OwnInput(nn.Module):
    """A module from rows of a field [n, *S] to features [n, H], under any leading dims; missing entries are 0 to it.

    Where the field has holes, the share of its entries that were observed is one feature more. Shapes: [..., *S] ->
    [..., H] or [..., H + 1].

    Raises:
        UserError: if the module does not give features [n, H] for rows of the field.

    Example:
        >>> OwnInput(nn.Embedding(5, 3), Field("word", "categorical", (), 5))(torch.tensor([4, 1])).shape
        torch.Size([2, 3])
    """

    def __init__(self, network: nn.Module, field: Field) -> None:
        super().__init__()
        self.network, self.kind, self.shape, self.missing = network, field.kind, field.shape, field.missing
        self.size = self._probe(field) + field.missing

    def forward(self, x: Tensor) -> Tensor:
        """Read the rows, one after another."""
        lead = x.shape[: x.dim() - len(self.shape)]
        rows = x.reshape(-1, *self.shape)
        gone = missing_in(self.kind, rows)
        features = self.network(rows.masked_fill(gone, 0))
        if self.missing:
            seen = (~gone).reshape(len(rows), -1).to(features.dtype).mean(1, keepdim=True)
            features = torch.cat([features, seen], -1)
        return features.reshape(*lead, self.size)

    def _probe(self, field: Field) -> int:
        was_training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                made = self.network(blank(field, 2))
            came = str(tuple(made.shape)) if isinstance(made, Tensor) else type(made).__name__
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            made, came = None, f"an error ({' '.join(str(error).split())[:200]})"
        self.network.train(was_training)
        if isinstance(made, Tensor) and made.dim() == 2 and len(made) == 2:
            return int(made.shape[1])
        raise UserError(
            f"encoder of field {field.name!r} must go from rows {(2, *field.shape)} to features (2, H), got {came}"
        )
