"""Bounds on the log evidence; each one is a `pyro.infer.ELBO`. One small file per family."""

from ppl_vae.bounds.base import Bound
from ppl_vae.bounds.elbo import ELBO
from ppl_vae.bounds.iwae import IWAE

__all__ = ["ELBO", "IWAE", "Bound"]
