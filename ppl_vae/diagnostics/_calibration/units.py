"""Calibration of what all rows share: the guide is fitted anew to every data set that the model simulates."""

from __future__ import annotations

from ppl_vae.data import Split
from ppl_vae.diagnostics._calibration.ranking import Tally, tallied
from ppl_vae.diagnostics._common.refitting import Refitting
from ppl_vae.diagnostics._common.simulation import contiguous, simulated, specific
from ppl_vae.display.working import tracked
from ppl_vae.errors import UserError
from ppl_vae.evaluation.joint_weights import shares_latents
from ppl_vae.evaluation.passes import Passes
from ppl_vae.programs.program import Pair
from ppl_vae.weights.log_weights import weigh
from ppl_vae.weights.psis import khat, khat_limit

__all__ = ["refits", "told"]

DRAWS, JUDGES = 16, 500
"""Draws in a step of a refit, and particles from which its k-hat is known."""


def told(pair: Pair, plan: Passes, rows: Split | None) -> list[str]:
    """The continuous latents that are ranked: those that rows share, or all of a unit without rows.

    Raises:
        UserError: where there are none.
    """
    structure = plan.structure
    names = [n for n in specific(structure) if n not in structure.summed_guide | structure.scored]
    if rows is not None and shares_latents(pair, rows):
        from ppl_vae.checks.analysis import analyse
        from ppl_vae.evaluation.passes import some_rows

        shared = analyse(pair, some_rows(rows)).global_latents
        names = [n for n in names if n in shared]
    if not names:
        raise UserError(
            "the guide draws no continuous latent that all data share, so that there is nothing to calibrate"
        )
    return names


def refits(
    pair: Pair, plan: Passes, names: list[str], simulations: int, steps: int, lr: float
) -> tuple[list[dict[str, Tally]], tuple[str, ...]]:
    """The tallies of so many simulated data sets, and how many refits are not to be believed, in words."""
    batch = contiguous(next(plan.batches()))
    refitting = Refitting(pair, plan.structure, batch, DRAWS)
    parts, poor = [], 0
    for _ in tracked(range(simulations), "refitting"):
        made = simulated(pair, plan.structure, plan.split.schema, batch)
        with refitting.on(made.batch, steps, lr, {n: made.sites[n]["value"] for n in names}):
            parts.append(tallied(pair, plan, made, names))
            if refitting.trains and plan.structure.broadcasts:
                weights = weigh(pair, plan.structure, made.batch, JUDGES, discrete="marginal").log_weight
                poor += not bool(khat(weights.double())[0] <= khat_limit(JUDGES))
    if not poor:
        return parts, ()
    share = (
        f"in {poor} of {simulations} simulated data sets k-hat of the refitted guide is above {khat_limit(JUDGES):.2f}"
    )
    return parts, (f"{share}: a poor family, or too few steps={steps:,}",)
