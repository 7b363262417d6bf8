"""Whether to believe a fitted pair: every diagnostic is a function of a model, its guide and held-out rows."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES: dict[str, str] = {
    "AUC": "ppl_vae.diagnostics.auc",
    "AnnealedEvidence": "ppl_vae.diagnostics.annealing",
    "Anomaly": "ppl_vae.diagnostics.anomalies",
    "Bidirectional": "ppl_vae.diagnostics.bdmc",
    "Calibration": "ppl_vae.diagnostics.sbc",
    "Collapse": "ppl_vae.diagnostics.posterior_collapse",
    "Gap": "ppl_vae.diagnostics.gaps",
    "LooPIT": "ppl_vae.diagnostics.leave_one_out",
    "PredictiveCheck": "ppl_vae.diagnostics.predictive_checks",
    "TwoSample": "ppl_vae.diagnostics.two_samples",
    "TwoSampleTest": "ppl_vae.diagnostics.distances",
    "annealed_evidence": "ppl_vae.diagnostics.annealing",
    "anomaly": "ppl_vae.diagnostics.anomalies",
    "bidirectional": "ppl_vae.diagnostics.bdmc",
    "calibration": "ppl_vae.diagnostics.sbc",
    "classifier_two_sample": "ppl_vae.diagnostics.distances",
    "collapse": "ppl_vae.diagnostics.posterior_collapse",
    "gap": "ppl_vae.diagnostics.gaps",
    "loo_pit": "ppl_vae.diagnostics.leave_one_out",
    "mmd": "ppl_vae.diagnostics.distances",
    "predictive_check": "ppl_vae.diagnostics.predictive_checks",
    "sliced_wasserstein": "ppl_vae.diagnostics.distances",
    "two_sample": "ppl_vae.diagnostics.two_samples",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ppl_vae.diagnostics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
