"""Grey levels as 0 and 1, drawn once or anew at every use."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.schema import Schema
from ppl_vae.errors import UserError

__all__ = ["binarised", "check_grey", "is_grey"]

# numpy seed of the one fixed draw of validation and test rows (Norouzi et al. 2020, arXiv 2004.04795)
FIXED_DRAW = 777


def is_grey(values: Tensor) -> bool:
    """Whether all lie in [0, 1]: to be binarised is a reason for them to."""
    return bool((((values >= 0) & (values <= 1)) | values.isnan()).all())


def check_grey(schema: Schema) -> None:
    if "x" not in schema or schema["x"].kind != "unit":
        came = f"kind {schema['x'].kind}" if "x" in schema else "no field x"
        raise UserError(
            f"binarise expects field 'x' of kind unit (grey levels in [0, 1]), got {came}:"
            " divide bytes by 255, or leave binarise out"
        )


def binarised(greys: Mapping[str, Tensor], mode: str) -> tuple[dict[str, Tensor], frozenset[str]]:
    """Grey levels `[row, ...]` by split as 0 and 1, and the fields that train draws anew at every use.

    Validation, then test, then (mode static) train come from one stream of `numpy.random.RandomState(777)`,
    so validation and test are the same rows in both modes. NaN stays NaN.
    """
    stream = np.random.RandomState(FIXED_DRAW)
    drawn = dict(greys)
    for split in ("validation", "test") if mode == "dynamic" else ("validation", "test", "train"):
        if split in greys:
            grey = greys[split].double().cpu().numpy()
            values = stream.binomial(1, np.nan_to_num(grey)).astype("float64")
            values[np.isnan(grey)] = np.nan
            drawn[split] = torch.from_numpy(values).to(greys[split])
    return drawn, frozenset({"x"}) if mode == "dynamic" else frozenset()
