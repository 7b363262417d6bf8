"""Anomaly scores without a latent variable model, to see whether log evidence is worth its trouble."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import Field, Split
from ppl_vae.diagnostics._common.features import matrices, with_gaps

__all__ = ["independent_entries", "pca_reconstruction"]

TRAINING_ROWS = 10_000
"""A baseline needs no more of them."""


def pca_reconstruction(
    fields: Sequence[Field], train: Split, rows: Split, variance: float = 0.9
) -> Float[Tensor, " row"]:
    """The squared distance of each row to the principal components of the training rows that hold this much variance.

    Example:
        >>> from ppl_vae.data import Schema
        >>> field = Field("x", "real", (2,))
        >>> train = Split(Schema((field,)), "train", {"x": torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])})
        >>> test = Split(Schema((field,)), "test", {"x": torch.tensor([[1.5, 1.5], [1.0, 2.0]])})
        >>> [round(v, 3) for v in pca_reconstruction([field], train, test).tolist()]
        [0.0, 0.75]
    """
    seen, new = matrices(fields, _some(train).batch(), rows.batch(), like=0)
    mean = seen.mean(0)
    _, singular, components = torch.linalg.svd(seen - mean, full_matrices=False)
    share = singular.square().cumsum(0) / singular.square().sum().clamp(min=1e-30)
    kept = components[: int((share < variance).sum()) + 1]
    rest = (new - mean) - (new - mean) @ kept.T @ kept
    return rest.square().sum(1)


def independent_entries(fields: Sequence[Field], train: Split, rows: Split) -> Float[Tensor, " row"]:
    """-log p(x) in nats if all entries were independent: frequencies of levels, or a normal for real numbers.

    Levels have one more row each than were seen; missing entries are skipped.

    Example:
        >>> from ppl_vae.data import Schema
        >>> field = Field("x", "binary", (1,))
        >>> train = Split(Schema((field,)), "train", {"x": torch.tensor([[0.0], [0.0], [1.0]])})
        >>> independent_entries([field], train, train).exp().tolist()
        [1.66..., 1.66..., 2.5...]
    """
    seen, new = _some(train).batch(), rows.batch()
    return torch.stack([_entries(f, with_gaps(f, seen[f.name]), with_gaps(f, new[f.name])) for f in fields]).sum(0)


def _entries(field: Field, seen: Tensor, new: Tensor) -> Tensor:
    if field.kind in ("binary", "categorical", "count"):
        levels = int(torch.cat([seen, new]).nan_to_num().max()) + 1
        total = (~seen.isnan()).sum(0) + levels
        counts = torch.stack([(seen == level).sum(0) for level in range(levels)]) + 1
        log_p = (counts / total).log().gather(0, new.nan_to_num().long())
    else:
        mean = seen.nanmean(0).nan_to_num()
        variance = (seen - mean).square().nanmean(0).nan_to_num()
        scale = torch.where(variance > 0, variance.sqrt(), 1.0)
        log_p = torch.distributions.Normal(mean, scale, validate_args=False).log_prob(new)
    return -log_p.masked_fill(new.isnan(), 0.0).sum(1)


def _some(train: Split) -> Split:
    return train.rows(slice(0, TRAINING_ROWS))
