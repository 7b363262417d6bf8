"""Bounds on the log evidence; each one is a `pyro.infer.ELBO`. One small file per family."""

from typing import TYPE_CHECKING

from ppl_vae.registry.lazy import lazily

if TYPE_CHECKING:
    from ppl_vae.bounds.base import Bound as Bound
    from ppl_vae.bounds.cubo import CUBO as CUBO
    from ppl_vae.bounds.elbo import ELBO as ELBO
    from ppl_vae.bounds.iwae import IWAE as IWAE
    from ppl_vae.bounds.partial import CIWAE as CIWAE
    from ppl_vae.bounds.partial import MIWAE as MIWAE
    from ppl_vae.bounds.partial import PIWAE as PIWAE
    from ppl_vae.bounds.renyi import Renyi as Renyi
    from ppl_vae.bounds.tvo import TVO as TVO

NAMES = {
    "ciwae": "ppl_vae.bounds.partial:CIWAE",
    "cubo": "ppl_vae.bounds.cubo:CUBO",
    "elbo": "ppl_vae.bounds.elbo:ELBO",
    "iwae": "ppl_vae.bounds.iwae:IWAE",
    "miwae": "ppl_vae.bounds.partial:MIWAE",
    "piwae": "ppl_vae.bounds.partial:PIWAE",
    "renyi": "ppl_vae.bounds.renyi:Renyi",
    "tvo": "ppl_vae.bounds.tvo:TVO",
}
"""The words for `--bound` and where each class is; it is imported when it is first used."""

__getattr__, __dir__, __all__ = lazily(__name__, [*NAMES.values(), "ppl_vae.bounds.base:Bound"])
