"""Posterior families q(z | x), generated from a model, one per file."""

from ppl_vae.guides.cnf import CNF
from ppl_vae.guides.coupling import Coupling
from ppl_vae.guides.full_rank import FullRank
from ppl_vae.guides.householder import Householder
from ppl_vae.guides.iaf import IAF
from ppl_vae.guides.low_rank import LowRank
from ppl_vae.guides.maf import MAF
from ppl_vae.guides.mean_field import MeanField
from ppl_vae.guides.mixture import Mixture
from ppl_vae.guides.naf import NAF
from ppl_vae.guides.planar import Planar
from ppl_vae.guides.point import Point
from ppl_vae.guides.radial import Radial
from ppl_vae.guides.refined import Refined
from ppl_vae.guides.spline import Spline
from ppl_vae.guides.sylvester import Sylvester

__all__ = [
    "CNF",
    "IAF",
    "MAF",
    "NAF",
    "Coupling",
    "FullRank",
    "Householder",
    "LowRank",
    "MeanField",
    "Mixture",
    "Planar",
    "Point",
    "Radial",
    "Refined",
    "Spline",
    "Sylvester",
]
