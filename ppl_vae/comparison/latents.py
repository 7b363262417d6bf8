"""What the latents of a trained pair are used for, beside its bounds: how many, how dependent, for what."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ppl_vae.comparison._pairs import LatentUse
from ppl_vae.data import Data, Split
from ppl_vae.diagnostics import collapse, factors, probes
from ppl_vae.errors import UserError

__all__ = ["latent_use"]

ROWS = 500
"""Of held-out rows, for active units and the total correlation, whose time grows with their square."""


def latent_use(model: Callable[..., Any], guide: Callable[..., Any], data: Any, rows: Split, seed: int) -> LatentUse:
    """Active units and total correlation of held-out rows; the gap of the factors of training rows, or a probe of their
    labels that is asked on test rows.

    Raises:
        UserError: for a pair whose latents are no codes of rows.
    """
    found = collapse(model, guide, rows, rows=ROWS, seed=seed)
    spread = [each.value for each in found.total_correlation.values()]
    correlation = sum(spread) if spread else math.nan
    known = data.train if isinstance(data, Data) else rows
    gap = _gap(model, guide, known, seed) if isinstance(known, Split) else math.nan
    read = _probe(model, guide, data, gap, seed)
    return LatentUse(int(found.active.sum()), len(found.active), correlation, gap, read)


def _gap(model: Any, guide: Any, rows: Split, seed: int) -> float:
    if not any(len(values.unique()) > 1 for values in rows.factors.values()):
        return math.nan
    return factors(model, guide, rows, scores=("mig",), seed=seed).scores["mig"].value


def _probe(model: Any, guide: Any, data: Any, gap: float, seed: int) -> float:
    """The accuracy of a linear classifier of y, where no factors are known."""
    if not math.isnan(gap) or not isinstance(data, Data) or data.test is None or "y" not in data.schema:
        return math.nan
    if data.schema["y"].kind != "categorical":
        return math.nan
    try:
        return probes(model, guide, data, ("y",), seed=seed).each[0].score
    except UserError:
        return math.nan
