"""Random pairs of programs with known log weights: the generator (`write`) and the slow reference (`by_hand`)."""

from random_pairs.by_hand import ByHand, Known, by_hand, with_shared_values_summed
from random_pairs.generated import generate
from random_pairs.pair import Pair, asked, write
from random_pairs.writing import PARTICLES, Site, Style

__all__ = [
    "PARTICLES",
    "ByHand",
    "Known",
    "Pair",
    "Site",
    "Style",
    "asked",
    "by_hand",
    "generate",
    "with_shared_values_summed",
    "write",
]
