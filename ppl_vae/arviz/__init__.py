"""What a pair says about rows, for ArviZ."""

from ppl_vae.arviz.groups import to_arviz

__all__ = ["to_arviz"]
