"""What a trained pair says about rows: codes, fields from other fields, missing entries, what moved latents make."""

from ppl_vae.prediction._checked import ImputationCheck, check_imputation
from ppl_vae.prediction._codes import Codes, decode, encode
from ppl_vae.prediction._coherence import Coherence, coherence
from ppl_vae.prediction._explain import Explanation, explain
from ppl_vae.prediction._exported import Exported, export
from ppl_vae.prediction._impute import Imputation, impute, with_holes
from ppl_vae.prediction._predict import label_scores, predict
from ppl_vae.prediction._prediction import Prediction
from ppl_vae.prediction._reconstruct import Reconstruction, reconstruct
from ppl_vae.prediction._sample import Drawn, sample
from ppl_vae.prediction._transfer import transfer
from ppl_vae.prediction._traverse import interpolate, traverse
from ppl_vae.prediction.moved import Moved

__all__ = [
    "Codes",
    "Coherence",
    "Drawn",
    "Explanation",
    "Exported",
    "Imputation",
    "ImputationCheck",
    "Moved",
    "Prediction",
    "Reconstruction",
    "check_imputation",
    "coherence",
    "decode",
    "encode",
    "explain",
    "export",
    "impute",
    "interpolate",
    "label_scores",
    "predict",
    "reconstruct",
    "sample",
    "transfer",
    "traverse",
    "with_holes",
]
