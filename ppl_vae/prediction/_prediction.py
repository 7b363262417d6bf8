"""What is known of one field of each row: a mixture over the draws of the guide."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.errors import UserError

__all__ = ["Prediction", "joined"]


@dataclass(frozen=True)
class Prediction:
    """The predictive distribution of one field of each row, a mixture over the draws z of the guide.

    Of categories `probs` [row, *S, C] is known, of numbers `mean` and `sd` [row, *S]; the others are None. `draws`
    [draw, row, *S] has one value for each draw of z; `log_prob` [row] is the log predictive density (or mass, nats) of
    the true values, NaN in rows that have none, and None where the data do not have the field. Missing entries of the
    true value count as 0. `names` are the names of the categories, where they have any.

    Example:
        >>> some = Prediction("y", torch.zeros(2, 3), probs=torch.tensor([[0.2, 0.8], [0.7, 0.3], [0.5, 0.5]]))
        >>> some.labels
        tensor([1, 0, 0])
    """

    field: str
    draws: Tensor
    probs: Tensor | None = None
    mean: Tensor | None = None
    sd: Tensor | None = None
    log_prob: Tensor | None = None
    names: tuple[str, ...] = ()

    @property
    def labels(self) -> Tensor:
        """The likeliest category, [row, *S].

        Raises:
            UserError: for a field of numbers.
        """
        if self.probs is None:
            raise UserError(f"field {self.field!r} holds numbers, which have no labels: ask for .mean")
        return self.probs.argmax(-1)

    def interval(self, mass: float = 0.9) -> tuple[Tensor, Tensor]:
        """The ends of the central interval that has this share of the draws, each [row, *S]."""
        if not 0 < mass < 1:
            raise UserError(f"mass must be between 0 and 1, got {mass}")
        values = self.draws if self.draws.is_floating_point() else self.draws.to(torch.get_default_dtype())
        low, high = values.quantile(values.new_tensor([(1 - mass) / 2, (1 + mass) / 2]), dim=0)
        return low, high


def joined(parts: list[Prediction]) -> Prediction:
    """The prediction of all rows from those of some of them each."""

    def join(name: str, dim: int = 0) -> Tensor | None:
        pieces = [getattr(part, name) for part in parts]
        return None if pieces[0] is None else torch.cat(pieces, dim)

    draws = torch.cat([part.draws for part in parts], 1)
    columns = {name: join(name) for name in ("probs", "mean", "sd", "log_prob")}
    return Prediction(parts[0].field, draws, **columns, names=parts[0].names)
