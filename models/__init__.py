"""Generative models p(z) p(x | z), one program per file."""

from ppl_vae.models.vae import VAE

__all__ = ["VAE"]
