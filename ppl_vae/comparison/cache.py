"""An evaluation as a file beside its run, so that a comparison that is continued judges nothing twice. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ppl_vae.evaluation import COLUMNS, Evaluation
from ppl_vae.saving.atomic import write

__all__ = ["NAME", "CachedEvaluation", "read_cache", "write_cache"]

NAME = "comparison.safetensors"
"""The file in a run folder."""


class CachedEvaluation(NamedTuple):
    """An evaluation, and plain values that were kept with it."""

    evaluation: Evaluation
    about: dict[str, Any]


def write_cache(run: Path, evaluation: Evaluation, key: Mapping[str, Any], about: Mapping[str, Any]) -> Path:
    """Write the rows of an evaluation into a run folder; `key` says how it was made, `about` what else to keep."""
    from safetensors.torch import save

    columns = {name: getattr(evaluation, name) for name in COLUMNS}
    for name in ("iwae", "iwae_se"):
        columns |= {f"{name} {k}": values for k, values in getattr(evaluation, name).items()}
    found = {"key": json.dumps(key, sort_keys=True), "about": json.dumps(about)}
    return write(run / NAME, save({n: v.detach().cpu().contiguous().clone() for n, v in columns.items()}, found))


def read_cache(run: Path, key: Mapping[str, Any]) -> CachedEvaluation | None:
    """What was kept of a run; None where there is nothing that was made in this way."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(run / NAME), framework="pt") as file:
            found = file.metadata() or {}
            if found.get("key") != json.dumps(key, sort_keys=True):
                return None
            columns: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads(found["about"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    rungs: dict[str, dict[int, Tensor]] = {"iwae": {}, "iwae_se": {}}
    for name in [name for name in columns if " " in name]:
        kind, _, k = name.partition(" ")
        rungs[kind][int(k)] = columns.pop(name)
    return CachedEvaluation(Evaluation(**columns, particles=int(key["particles"]), **_sorted(rungs)), about)  # type: ignore[arg-type]


def _sorted(rungs: dict[str, dict[int, Tensor]]) -> dict[str, dict[int, Tensor]]:
    return {name: dict(sorted(values.items())) for name, values in rungs.items()}
