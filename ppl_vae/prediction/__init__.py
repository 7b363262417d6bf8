"""What a trained pair says about rows: codes, fields from other fields, missing entries, reconstructions."""

from ppl_vae.prediction._impute import Imputation, impute, with_holes
from ppl_vae.prediction._predict import Prediction, label_scores, predict
from ppl_vae.prediction._reconstruct import Reconstruction, reconstruct

__all__ = [
    "Imputation",
    "Prediction",
    "Reconstruction",
    "impute",
    "label_scores",
    "predict",
    "reconstruct",
    "with_holes",
]
