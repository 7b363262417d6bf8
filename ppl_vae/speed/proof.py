"""Whether two runs from one state of the generators gave the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.data import device_of
from ppl_vae.programs.program import Batch

__all__ = ["agree", "generator_state"]


def generator_state(batch: Batch) -> Tensor:
    """The state of the generator that a program draws from on the device of its rows."""
    device = device_of(batch)
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def agree(values: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> bool:
    """Whether two lists of values are equal up to rounding, which flows and float32 may enlarge.

    Every tensor is compared by its norm; small ones with a hundredth of the largest gradient.
    """
    if [v is None for v in values] != [v is None for v in expected]:
        return False
    pairs = [(a.double(), b.double()) for a, b in zip(values, expected, strict=True) if a is not None and b is not None]
    norms = torch.stack([b.norm() for _, b in pairs])
    if not bool(torch.isfinite(norms).all()):
        return True  # a diverging step is explained elsewhere
    apart = torch.stack([(a - b).norm() for a, b in pairs])
    rounding = max(torch.finfo(v.dtype).eps for v in expected if v is not None) ** (1 / 3)
    return bool((apart <= rounding * (norms + 0.01 * norms.max() + 1e-12)).all())
