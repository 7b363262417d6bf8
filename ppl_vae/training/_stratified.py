"""Batches with a fixed share of rows that have a label, and the weights with which their mean is that of all rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ppl_vae.bounds.base import Bound
from ppl_vae.data import Split
from ppl_vae.data.convert import missing_in
from ppl_vae.errors import UserError
from ppl_vae.programs.structure import Structure
from ppl_vae.training.settings import Settings

__all__ = ["StratifiedBatches", "stratified"]


class StratifiedBatches:
    """Stratified batches: B_s of B rows from stratum s of N_s rows, each weighted by (N_s / N) / (B_s / B).

    With L labels among N rows a batch of B rows drawn at random has B L / N of them, often none. Here every batch has
    the same number of each kind. The weighted mean over its rows has the expectation of the mean over all rows, so it
    tells the bound of all rows; the plain mean counts a row with a label for more, and may be maximised. An epoch is
    ceil(N / B) batches, as it is without strata; each stratum is gone through in an order of its own, and again.
    Source: stratified sampling, Cochran 1977, Sampling Techniques, chapter 5.

    Args:
        labelled: which rows have a label, [N].
        batch_size: B.
        share: of the rows of a batch, that have a label.

    Raises:
        UserError: if the share is not between 0 and 1, or either kind of rows does not exist.

    Example:
        >>> strata = StratifiedBatches(torch.arange(100) < 10, batch_size=20, share=0.5)
        >>> [int((index < 10).sum()) for index in strata.batches(torch.Generator())]
        [10, 10, 10, 10, 10]
        >>> strata.weights[0], strata.weights[-1]
        (tensor(0.2000), tensor(1.8000))
    """

    def __init__(self, labelled: Tensor, batch_size: int, share: float) -> None:
        if not (isinstance(share, int | float) and 0 < share < 1):
            raise UserError(f"label_share must be between 0 and 1, got {share!r}")
        rows, size = len(labelled), min(batch_size, len(labelled))
        parts = [labelled.nonzero()[:, 0], (~labelled).nonzero()[:, 0]]
        if size < 2 or not all(len(part) for part in parts):
            raise UserError(
                f"label_share needs rows with a label and rows without one, two in a batch at least; of {rows} rows "
                f"{len(parts[0])} have one, and batches have {size}: leave it out"
            )
        first = min(max(round(share * size), 1), size - 1)
        self.parts, self.counts = parts, [first, size - first]
        self.steps = math.ceil(rows / size)
        ratios = [len(p) / rows * size / c for p, c in zip(parts, self.counts, strict=True)]
        self.weights = torch.tensor(ratios).repeat_interleave(torch.tensor(self.counts)).to(labelled.device)
        """Of the rows of a batch, [B]; their mean is 1."""

    def batches(self, generator: torch.Generator) -> list[Tensor]:
        """The rows of every batch of an epoch, those with a label first."""
        drawn = [self._drawn(p, c, generator) for p, c in zip(self.parts, self.counts, strict=True)]
        return list(torch.cat(drawn, dim=1))

    def _drawn(self, part: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` rows of a stratum for every batch, [steps, count]: all once in random order, then all again."""
        times = math.ceil(self.steps * count / len(part))
        order = [torch.randperm(len(part), generator=generator, device=part.device) for _ in range(times)]
        return part[torch.cat(order)[: self.steps * count]].reshape(self.steps, count)


def stratified(train: Split, structure: Structure, bound: Any, settings: Settings) -> StratifiedBatches | None:
    """The strata of training rows, where they are asked for: those with a latent that is observed, and the others.

    Raises:
        UserError: where there are none, for Pyro's own bounds, and for models that draw their rows themselves.
    """
    if settings.label_share is None:
        return None
    if not isinstance(bound, Bound):
        raise UserError(f"label_share needs a bound of ppl_vae.bounds, but {type(bound).__name__} is Pyro's own")
    if structure.rows_total:
        raise UserError("label_share chooses the rows of a batch, but the model's plate draws its own: leave it out")
    sites = structure.labelled
    if not sites:
        raise UserError(
            "label_share is for a latent of the guide that is observed in some rows, and there is none: give the data "
            "labels, -1 where there is none, and use a model with a latent label, such as M2"
        )
    fields = {field.name: field for field in train.schema}
    absent = [name for name in sites if name not in fields]
    if absent:
        raise UserError(
            f"label_share looks for the field {absent[0]!r} of site {absent[0]!r}, and there is none: name it so"
        )
    seen = [~missing_in(fields[name].kind, train[name]).reshape(len(train), -1).any(1) for name in sites]
    return StratifiedBatches(torch.stack(seen).any(0), settings.batch_size, settings.label_share)
