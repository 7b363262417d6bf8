"""The table of guide families, run over programs with latents of every kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ppl_vae import guides
from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.guides import (
    CNF,
    IAF,
    MAF,
    NAF,
    Coupling,
    FullRank,
    Householder,
    LowRank,
    MeanField,
    Planar,
    Radial,
    Spline,
    Sylvester,
)

GUIDES: dict[str, Callable[..., GeneratedGuide]] = {
    "MeanField": MeanField,
    "MeanField, experts": partial(MeanField, experts="mopoe"),
    "MeanField, independent": partial(MeanField, conditioning="independent"),
    "LowRank": LowRank,
    "FullRank": FullRank,
    "Householder": Householder,
    "Planar": partial(Planar, flows=2),
    "Radial": partial(Radial, flows=2),
    "Sylvester, householder": partial(Sylvester, flows=2),
    "Sylvester, orthogonal": partial(Sylvester, flows=2, basis="orthogonal", rank=2),
    "Sylvester, triangular": partial(Sylvester, flows=2, basis="triangular"),
    "IAF": partial(IAF, flows=2, width=8),
    "MAF": partial(MAF, flows=2, width=8),
    "Coupling": partial(Coupling, flows=2, width=8),
    "Spline": partial(Spline, bins=4, width=8),
    "Spline, coupling": partial(Spline, bins=4, width=8, coupling=True),
    "NAF": partial(NAF, flows=1, width=8, signal=4),
    "CNF": partial(CNF, width=8, tolerance=1e-6),
    "Mixture": partial(guides.Mixture, components=2),
}
WITHOUT_INVERSE = {n for n in GUIDES if n.startswith(("Planar", "Radial", "Sylvester"))}
