"""An evaluation as a file beside its run, so that a comparison that is continued judges nothing twice. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import msgspec
from torch import Tensor

from ppl_vae.errors import UserError
from ppl_vae.evaluation import COLUMNS, Evaluation
from ppl_vae.saving.reading import as_shape
from ppl_vae.saving.tensors import read_tensors, write_tensors

__all__ = ["NAME", "CachedEvaluation", "read_cache", "write_cache"]

NAME = "comparison.safetensors"
"""The file in a run folder."""


Number = float | None
"""JSON has no NaN: null."""


class _Observed(TypedDict):
    sites: list[str]
    masses: int
    densities: int
    digest: str
    preparation: dict[str, Any]


class _About(TypedDict):
    where: str
    parameters: tuple[int, int]
    seconds_per_epoch: float | None
    epochs: int | None
    observed: _Observed
    latents: NotRequired[tuple[Number, Number, Number, Number, Number] | None]


class CachedEvaluation(NamedTuple):
    """An evaluation, and plain values that were kept with it."""

    evaluation: Evaluation
    about: dict[str, Any]


def write_cache(run: Path, evaluation: Evaluation, key: Mapping[str, Any], about: Mapping[str, Any]) -> Path:
    """Write the rows of an evaluation into a run folder; `key` says how it was made, `about` what else to keep."""
    columns = {name: getattr(evaluation, name) for name in COLUMNS}
    for name in ("iwae", "iwae_se"):
        columns |= {f"{name} {k}": values for k, values in getattr(evaluation, name).items()}
    return write_tensors(run / NAME, columns, {"key": dict(key), "about": dict(about)})


def read_cache(run: Path, key: Mapping[str, Any]) -> CachedEvaluation | None:
    """What was kept of a run; None where there is nothing whole that was made in this way."""
    try:
        stored = read_tensors(run / NAME, "judge it anew")
        if stored.about.get("key") != key:
            return None
        about: dict[str, Any] = as_shape(stored.about["about"], _About)
        columns: dict[str, Tensor] = dict(stored.tensors)
        rungs: dict[str, dict[int, Tensor]] = {"iwae": {}, "iwae_se": {}}
        for name in [name for name in columns if " " in name]:
            kind, _, k = name.partition(" ")
            rungs[kind][int(k)] = columns.pop(name)
        sorted_ = {name: dict(sorted(values.items())) for name, values in rungs.items()}
        found = Evaluation(**columns, particles=int(key["particles"]), **sorted_)  # type: ignore[arg-type]
    except (UserError, msgspec.ValidationError, KeyError, ValueError, TypeError):
        return None
    return CachedEvaluation(found, about)
