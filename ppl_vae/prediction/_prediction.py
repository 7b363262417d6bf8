"""What is known of one field of each row: a mixture over the draws of the guide."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.display import Displayed
from ppl_vae.errors import UserError

__all__ = ["Prediction", "joined"]


@dataclass(frozen=True, repr=False)
class Prediction(Displayed):
    """The predictive distribution of one field of each row, a mixture over the draws z of the guide.

    Of categories `probs` [row, *S, C] is known, of numbers `mean` and `sd` [row, *S]; the others are None. `draws`
    [draw, row, *S] has one value for each draw of z; `log_prob` [row] is the log predictive density (or mass, nats) of
    the true values, NaN in rows that have none, and None where the data do not have the field. Missing entries of the
    true value count as 0. `names` are the names of the categories, where they have any. Of states that are summed out,
    `paths` [draw, row, *S] are the likeliest states together given each draw. Where a row has no such step `probs` are
    NaN, and labels, draws and paths -1. Of a forecast *S begins with the steps to come, `log_prob` is [row, lead], and
    `crps` [row, lead, ...] the continuous ranked probability score of numbers, both where ends were held out.

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
    paths: Tensor | None = None
    crps: Tensor | None = None

    @property
    def path(self) -> Tensor:
        """The likeliest states together, [row, *S]: the path of Viterbi.

        Raises:
            UserError: for what is no state, or where the path is another one for other draws of what it depends on.
        """
        if self.paths is None:
            raise UserError(f"field {self.field!r} is no state that is summed out, and has no path: ask for .labels")
        if bool((self.paths != self.paths[0]).any()):
            raise UserError(
                f"the likeliest path of {self.field!r} depends on latents that are drawn: take .paths, one for each "
                "draw, or .labels, the likeliest state of each step by itself"
            )
        return self.paths[0]

    @property
    def labels(self) -> Tensor:
        """The likeliest category, [row, *S].

        Raises:
            UserError: for a field of numbers.
        """
        if self.probs is None:
            raise UserError(f"field {self.field!r} holds numbers, which have no labels: ask for .mean")
        return self.probs.argmax(-1).where(~self.probs.isnan().any(-1), -1)

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
    columns = {name: join(name) for name in ("probs", "mean", "sd", "log_prob", "crps")}
    return Prediction(parts[0].field, draws, **columns, names=parts[0].names, paths=join("paths", 1))
