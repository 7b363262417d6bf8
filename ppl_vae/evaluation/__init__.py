"""Held-out evidence in passes that fit into memory."""

from ppl_vae.evaluation._evaluate import COLUMNS, Evaluation, Evidence, evaluate, evidence_of
from ppl_vae.evaluation._log_weights import log_weights

__all__ = ["COLUMNS", "Evaluation", "Evidence", "evaluate", "evidence_of", "log_weights"]
