"""Held-out evidence in passes that fit into memory."""

from ppl_vae.evaluation._evaluate import COLUMNS, Evaluation, Evidence, evaluate, evaluate_rows, evidence_of
from ppl_vae.evaluation._log_weights import log_weights
from ppl_vae.evaluation.joint_evaluation import JointEvaluation
from ppl_vae.evaluation.parts import Parts, in_parts

__all__ = [
    "COLUMNS",
    "Evaluation",
    "Evidence",
    "JointEvaluation",
    "Parts",
    "evaluate",
    "evaluate_rows",
    "evidence_of",
    "in_parts",
    "log_weights",
]
