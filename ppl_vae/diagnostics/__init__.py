"""Whether to believe a fitted pair: every diagnostic is a function of a model, its guide and held-out rows."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES: dict[str, str] = {
    "AUC": "ppl_vae.diagnostics._anomalies.auc",
    "AnnealedEvidence": "ppl_vae.diagnostics._evidence.annealing",
    "Anomaly": "ppl_vae.diagnostics._anomalies.anomaly",
    "Bidirectional": "ppl_vae.diagnostics._evidence.bdmc",
    "Calibration": "ppl_vae.diagnostics._calibration.sbc",
    "Collapse": "ppl_vae.diagnostics._collapse.posterior_collapse",
    "Gap": "ppl_vae.diagnostics._evidence.gaps",
    "LooPIT": "ppl_vae.diagnostics._criticism.leave_one_out",
    "PredictiveCheck": "ppl_vae.diagnostics._criticism.predictive_checks",
    "TwoSample": "ppl_vae.diagnostics._criticism.two_samples",
    "TwoSampleTest": "ppl_vae.diagnostics._criticism.distances",
    "annealed_evidence": "ppl_vae.diagnostics._evidence.annealing",
    "anomalies_of": "ppl_vae.diagnostics._anomalies.anomaly",
    "anomaly": "ppl_vae.diagnostics._anomalies.anomaly",
    "bidirectional": "ppl_vae.diagnostics._evidence.bdmc",
    "calibration": "ppl_vae.diagnostics._calibration.sbc",
    "classifier_two_sample": "ppl_vae.diagnostics._criticism.distances",
    "collapse": "ppl_vae.diagnostics._collapse.posterior_collapse",
    "gap": "ppl_vae.diagnostics._evidence.gaps",
    "khat_scatter": "ppl_vae.diagnostics._evidence.plot_khat",
    "loo_pit": "ppl_vae.diagnostics._criticism.leave_one_out",
    "mmd": "ppl_vae.diagnostics._criticism.distances",
    "of_rows": "ppl_vae.diagnostics._anomalies.anomaly",
    "predictive_check": "ppl_vae.diagnostics._criticism.predictive_checks",
    "sliced_wasserstein": "ppl_vae.diagnostics._criticism.distances",
    "two_sample": "ppl_vae.diagnostics._criticism.two_samples",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ppl_vae.diagnostics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
