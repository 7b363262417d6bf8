"""What a pair says about rows, for ArviZ."""

from ppl_vae.arviz._groups import to_arviz
from ppl_vae.arviz._posteriors import Posterior, posterior

__all__ = ["Posterior", "posterior", "to_arviz"]
