"""Whether to believe a fitted pair: every diagnostic is a function of a model, its guide and held-out rows."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES: dict[str, str] = {
    "AnnealedEvidence": "ppl_vae.diagnostics.annealing",
    "Bidirectional": "ppl_vae.diagnostics.bdmc",
    "Gap": "ppl_vae.diagnostics.gaps",
    "annealed_evidence": "ppl_vae.diagnostics.annealing",
    "bidirectional": "ppl_vae.diagnostics.bdmc",
    "gap": "ppl_vae.diagnostics.gaps",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ppl_vae.diagnostics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
