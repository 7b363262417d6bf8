"""Posterior families q(z | x), generated from a model, one per file."""

from ppl_vae.guides.mean_field import MeanField

__all__ = ["MeanField"]
