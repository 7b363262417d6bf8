"""Posterior families q(z | x), generated from a model, one per file."""

from typing import TYPE_CHECKING

from ppl_vae.registry.lazy import lazily

if TYPE_CHECKING:
    from ppl_vae.guides.cnf import CNF as CNF
    from ppl_vae.guides.coupling import Coupling as Coupling
    from ppl_vae.guides.full_rank import FullRank as FullRank
    from ppl_vae.guides.householder import Householder as Householder
    from ppl_vae.guides.iaf import IAF as IAF
    from ppl_vae.guides.low_rank import LowRank as LowRank
    from ppl_vae.guides.maf import MAF as MAF
    from ppl_vae.guides.mean_field import MeanField as MeanField
    from ppl_vae.guides.mixture import Mixture as Mixture
    from ppl_vae.guides.naf import NAF as NAF
    from ppl_vae.guides.planar import Planar as Planar
    from ppl_vae.guides.point import Point as Point
    from ppl_vae.guides.radial import Radial as Radial
    from ppl_vae.guides.refined import Refined as Refined
    from ppl_vae.guides.spline import Spline as Spline
    from ppl_vae.guides.sylvester import Sylvester as Sylvester

NAMES = {
    "cnf": "ppl_vae.guides.cnf:CNF",
    "coupling": "ppl_vae.guides.coupling:Coupling",
    "full_rank": "ppl_vae.guides.full_rank:FullRank",
    "householder": "ppl_vae.guides.householder:Householder",
    "iaf": "ppl_vae.guides.iaf:IAF",
    "low_rank": "ppl_vae.guides.low_rank:LowRank",
    "maf": "ppl_vae.guides.maf:MAF",
    "mean_field": "ppl_vae.guides.mean_field:MeanField",
    "mixture": "ppl_vae.guides.mixture:Mixture",
    "naf": "ppl_vae.guides.naf:NAF",
    "planar": "ppl_vae.guides.planar:Planar",
    "point": "ppl_vae.guides.point:Point",
    "radial": "ppl_vae.guides.radial:Radial",
    "refined": "ppl_vae.guides.refined:Refined",
    "spline": "ppl_vae.guides.spline:Spline",
    "sylvester": "ppl_vae.guides.sylvester:Sylvester",
}
"""The words for `--guide` and where each class is; it is imported when it is first used."""

__getattr__, __dir__, __all__ = lazily(__name__, [*NAMES.values()])
