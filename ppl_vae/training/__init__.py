"""`fit`: what is made before the run, the run, one step of it."""

from ppl_vae.training._fit import fit
from ppl_vae.training._warm_start import warm_start

__all__ = ["fit", "warm_start"]
