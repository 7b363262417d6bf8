"""KL weights and learning rates by epoch, and objectives that weigh parts of the KL.

They change the training objective only. What is reported is always the bound itself, unweighted.
"""

from typing import TYPE_CHECKING

from ppl_vae.registry.lazy import lazily

if TYPE_CHECKING:
    from ppl_vae.schedules.annealing import Cosine as Cosine
    from ppl_vae.schedules.annealing import Cyclical as Cyclical
    from ppl_vae.schedules.annealing import Schedule as Schedule
    from ppl_vae.schedules.annealing import WarmUp as WarmUp
    from ppl_vae.schedules.annealing import as_schedule as as_schedule
    from ppl_vae.schedules.annealing import like as like
    from ppl_vae.schedules.decomposed import Decomposed as Decomposed
    from ppl_vae.schedules.dip import DIP as DIP
    from ppl_vae.schedules.factor import FactorTC as FactorTC
    from ppl_vae.schedules.held import Capacity as Capacity
    from ppl_vae.schedules.held import FreeBits as FreeBits
    from ppl_vae.schedules.mmd import MMD as MMD
    from ppl_vae.schedules.objectives import Objective as Objective

NAMES = {
    "decomposed": "ppl_vae.schedules.decomposed:Decomposed",
    "dip": "ppl_vae.schedules.dip:DIP",
    "factor": "ppl_vae.schedules.factor:FactorTC",
    "mmd": "ppl_vae.schedules.mmd:MMD",
}
"""The words for `--objective` and where each class is; it is imported when it is first used."""

__getattr__, __dir__, __all__ = lazily(
    __name__,
    [
        *NAMES.values(),
        *(f"ppl_vae.schedules.annealing:{name}" for name in ("Cosine", "Cyclical", "Schedule", "WarmUp")),
        *(f"ppl_vae.schedules.annealing:{name}" for name in ("as_schedule", "like")),
        *(f"ppl_vae.schedules.held:{name}" for name in ("Capacity", "FreeBits")),
        "ppl_vae.schedules.objectives:Objective",
    ],
)
