"""An evaluation as a file beside its run, so that a comparison that is continued judges nothing twice. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class KeptCertified:
    """What was kept of certified rows, by row: see `ppl_vae.evaluation.certainty.CertifiedRows`; no draws."""

    log_evidence: Tensor
    log_evidence_se: Tensor
    khat: Tensor
    certified: Tensor
    accuracy: float
    fingerprint: str
    draws: Mapping[str, Tensor] = field(default_factory=dict)


CERTIFIED = ("log_evidence", "log_evidence_se", "khat", "certified")


class CachedEvaluation(NamedTuple):
    """An evaluation, and plain values that were kept with it."""

    evaluation: Evaluation
    about: dict[str, Any]


def write_cache(run: Path, evaluation: Evaluation, key: Mapping[str, Any], about: Mapping[str, Any]) -> Path:
    """Write the rows of an evaluation into a run folder; `key` says how it was made, `about` what else to keep."""
    columns = {name: getattr(evaluation, name) for name in COLUMNS}
    for name in ("iwae", "iwae_se"):
        columns |= {f"{name} {k}": values for k, values in getattr(evaluation, name).items()}
    kept: dict[str, Any] = {"key": dict(key), "about": dict(about)}
    if (sure := evaluation.certified) is not None:
        columns |= {f"certified {name}": getattr(sure, name) for name in CERTIFIED}
        kept["fingerprint"] = sure.fingerprint
    return write_tensors(run / NAME, columns, kept)


def read_cache(run: Path, key: Mapping[str, Any]) -> CachedEvaluation | None:
    """What was kept of a run; None where there is nothing whole that was made in this way."""
    try:
        stored = read_tensors(run / NAME, "judge it anew")
        if stored.about.get("key") != key:
            return None
        about: dict[str, Any] = as_shape(stored.about["about"], _About)
        columns: dict[str, Tensor] = dict(stored.tensors)
        sure = None
        if key.get("certified") is not None:
            evidence, error, khat, known = (columns.pop(f"certified {name}") for name in CERTIFIED)
            accuracy, rows = float(key["certified"]), str(stored.about["fingerprint"])
            sure = KeptCertified(evidence, error, khat, known, accuracy, rows)
        rungs: dict[str, dict[int, Tensor]] = {"iwae": {}, "iwae_se": {}}
        for name in [name for name in columns if " " in name]:
            kind, _, k = name.partition(" ")
            rungs[kind][int(k)] = columns.pop(name)
        sorted_ = {name: dict(sorted(values.items())) for name, values in rungs.items()}
        found = Evaluation(**columns, particles=int(key["particles"]), **sorted_, certified=sure)  # type: ignore[arg-type]
    except (UserError, msgspec.ValidationError, KeyError, ValueError, TypeError):
        return None
    return CachedEvaluation(found, about)
