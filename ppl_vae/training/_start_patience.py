"""How long the start of a run may be looked for, and what is said meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

from ppl_vae.errors import Finding
from ppl_vae.programs.structure import Structure

__all__ = ["Patience"]

STATEMENTS = 15_000
"""Sample statements that a start may run through, those of both programs in every step: about as many milliseconds."""

FEWEST = 40
"""With fewer steps than these nothing is found from far away."""

SECONDS = 60.0
"""Where a statement costs much more, the search ends after so long, in the processor's time."""

SILENT, AGAIN = 5.0, 10.0
"""Seconds before the first word, and between words."""


class Patience:
    """A budget of steps that follows the size of the programs, so that a seed gives the same start on every machine.

    The clock ends only what costs far more than its statements do, a large matrix in each, say; then a finding tells.

    Args:
        structure: of the pair.
        apart: how many runs a step has where particles cannot be run together.
        say: is told now and then how far it is.
    """

    def __init__(self, structure: Structure, apart: int, say: Callable[[str], None] | None = None) -> None:
        sites = sum(len(sites) for sites in structure.plates_of.values())
        self.statements = max(1, sites) * (1 if structure.broadcasts else apart)
        self.say = say
        self.started = self.told = time.monotonic()
        self.spent = time.process_time()
        self.steps = self.planned = 0
        self.cut = False

    def rounds(self, rounds: tuple[tuple[int, float], ...], *, far: bool) -> list[tuple[int, float]]:
        """The rounds of (steps, step size) with as many steps as there is patience for; none where they are too few."""
        wanted = sum(steps for steps, _ in rounds)
        share = min(1.0, STATEMENTS / (self.statements * wanted))
        self.planned = int(share * wanted)
        return [] if far and self.planned < FEWEST else [(max(1, int(share * steps)), lr) for steps, lr in rounds]

    def iterations(self, most: int) -> int:
        """Of Newton's method, each of which runs through the programs four times."""
        return max(10, min(most, STATEMENTS // (4 * self.statements)))

    def is_over(self) -> bool:
        """Whether the clock ends the search; a word now and then."""
        now, spent = time.monotonic(), time.process_time() - self.spent
        self.cut = self.cut or spent > SECONDS
        if self.say is not None and now - self.told > (SILENT if self.told == self.started else AGAIN):
            self.told = now
            took = f"{spent:.0f} s of at most {SECONDS:.0f} of the processor's"
            self.say(f"where the posterior starts: {self.steps} steps, {took}")
        return self.cut

    def findings(self) -> tuple[Finding, ...]:
        """What is to be said of a search that the clock has ended."""
        if not self.cut:
            return ()
        return (
            Finding(
                None,
                f"the search for where the posterior starts was ended by the clock, after {SECONDS:.0f} s and "
                f"{self.steps} steps: another machine may begin elsewhere under the same seed",
                "trust the posterior by its k-hat, and train for longer; or fit(..., restarts=0), which looks for none",
                "warning",
            ),
        )
