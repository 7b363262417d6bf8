"""Bounds on the log evidence; each one is a `pyro.infer.ELBO`. One small file per family."""

from ppl_vae.bounds.base import Bound
from ppl_vae.bounds.cubo import CUBO
from ppl_vae.bounds.elbo import ELBO
from ppl_vae.bounds.iwae import IWAE
from ppl_vae.bounds.partial import CIWAE, MIWAE, PIWAE
from ppl_vae.bounds.renyi import Renyi
from ppl_vae.bounds.tvo import TVO

__all__ = ["CIWAE", "CUBO", "ELBO", "IWAE", "MIWAE", "PIWAE", "TVO", "Bound", "Renyi"]
