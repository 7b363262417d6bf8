"""A training step as fast as it pays to make it: eager, captured as one flat graph, or that graph compiled.

A captured graph gives the eager numbers bit for bit and costs about a second; a compiled one (TorchInductor) draws the
same random numbers, rounds otherwise, and costs many. Each is used only after it has repeated an eager step.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ppl_vae.capture import Uncapturable
from ppl_vae.compiler import CannotCompile, compiled, seconds_to_compile
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.graph import StepGraph
from ppl_vae.linter import Finding
from ppl_vae.program import Batch
from ppl_vae.steps import BoundStep, Outcome, PyroStep

__all__ = ["Compile", "GraphStep", "accelerated"]

Compile = Literal["auto", "on", "off"]

WAYS = ("eager", "captured", "compiled")

TRIAL = 8
"""Steps that are timed before one way of running them is compared with another; the first one is not counted."""

CAPTURE_STEPS = 80
"""About how many eager steps' time capturing one takes."""

SAVED, MARGIN = 0.25, 2.0
"""The next way has to save this share of a step, and in all steps that are left this many times what it costs."""

ENOUGH = 0.25
"""With "on", batches of a shape are compiled if they are this share of all; others (a short last one) are captured."""

AGAIN = 64
"""A graph is compared with an eager step at its first use, and at those of this number and its doubles."""


def accelerated(step: BoundStep | PyroStep, compile: Compile) -> BoundStep | PyroStep | GraphStep:
    """The step as `fit(compile=)` asks for it.

    Raises:
        UserError: for another word, or "on" with one of Pyro's own bounds.
    """
    if compile not in ("auto", "on", "off"):
        raise unknown_name("compile", compile, ("auto", "on", "off"))
    if compile != "off" and isinstance(step, BoundStep):
        return GraphStep(step, compile)
    if compile == "on":
        raise UserError(
            "compile='on' needs a bound of ppl_vae.bounds: Pyro's own reads its loss back at every step, which cannot "
            "be captured; use ELBO(), or compile='auto'"
        )
    return step


@dataclass
class _Lane:
    """The steps on batches of one shape: how they are run now, and what is known of their time."""

    way: str = "eager"
    graph: StepGraph | None = None
    due: bool = True
    uses: int = 0
    slower: set[str] = field(default_factory=set)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def clock(self, seconds: float) -> None:
        """Note the time of a step; what to do next is asked when enough of them are known."""
        times = self.seconds.setdefault(self.way, [])
        if len(times) <= TRIAL:
            times.append(seconds)
            self.due = self.due or len(times) > TRIAL

    def typical(self, way: str) -> float | None:
        """Seconds of a step run in this way, once it is known."""
        times = self.seconds.get(way, [])
        return statistics.median(times[1:]) if len(times) > TRIAL else None

    def back(self) -> None:
        """Run these steps as before, and never again in the way that was no good."""
        self.slower.add(self.way)
        self.way = WAYS[WAYS.index(self.way) - 1]
        if self.way == "eager":
            self.graph = None
        elif self.graph is not None:
            self.graph.use(self.graph.captured)


class GraphStep:
    """A `BoundStep` that is captured and compiled, at once ("on") or when that pays ("auto").

    Batches of every shape have a lane of their own. What cannot be captured runs as it is; `findings` says which site,
    and why. With "on" that is an error.

    Raises:
        UserError: with "on", for programs that cannot be captured, or a machine without a compiler.
    """

    def __init__(self, step: BoundStep, mode: Literal["auto", "on"] = "auto") -> None:
        self.step, self.mode = step, mode
        self.structure, self.evaluate = step.structure, step.evaluate
        self.findings: list[Finding] = []
        self.lanes: dict[Any, _Lane] = {}
        self.epochs_left, self.sizes = 0.0, Counter[int]()
        self.refused: set[str] = set()

    def plan(self, epochs_left: float, sizes: Iterable[int]) -> None:
        """Say what is to come: how many epochs, and the rows of the batches of each."""
        self.epochs_left, self.sizes = epochs_left, Counter(sizes)
        if self.mode == "auto":
            for lane in self.lanes.values():
                lane.due = True

    def __call__(self, batch: Batch, epoch: float) -> Outcome:
        """One update of all parameters."""
        key = tuple((n, v.shape, v.dtype) for n, v in batch.items()), self.step.pair.training
        lane = self.lanes.setdefault(key, _Lane())
        if lane.due:
            lane.due = False
            self._choose(lane, batch)
        start = time.perf_counter()
        outcome = self.step(batch, epoch) if lane.graph is None else self._replay(lane, lane.graph, batch, epoch)
        lane.clock(time.perf_counter() - start)
        return outcome

    def _replay(self, lane: _Lane, graph: StepGraph, batch: Batch, epoch: float) -> Outcome:
        lane.uses += 1
        if lane.uses > 1 and (lane.uses < AGAIN or lane.uses.bit_count() > 1):
            return graph.replay(batch, epoch)
        outcome, same = graph.proved(batch, epoch)
        if not same:
            self._refuse(
                lane.way,
                None,
                f"the {lane.way} step has other numbers than the eager one (something in Python changes from step to "
                "step, or a draw is not torch's)",
            )
            lane.back()
        return outcome

    # -- which way ---------------------------------------------------------------------------------------------

    def _choose(self, lane: _Lane, batch: Batch) -> None:
        """Go on to the next way of running these steps where that pays; go back where it did not."""
        rows = len(next(iter(batch.values())))
        if self.mode == "on":
            self._change(lane, batch, "captured")
            if self.sizes[rows] >= ENOUGH * self.sizes.total():
                self._change(lane, batch, "compiled")
            return
        now, index = lane.typical(lane.way), WAYS.index(lane.way)
        if now is None:
            return
        if index and now > (lane.typical(WAYS[index - 1]) or now):
            lane.back()
        elif index + 1 < len(WAYS) and not {WAYS[index + 1]} & (lane.slower | self.refused):
            cost = CAPTURE_STEPS * now if lane.graph is None else seconds_to_compile(lane.graph.captured)
            if self.epochs_left * self.sizes[rows] * now * SAVED > MARGIN * cost:
                self._change(lane, batch, WAYS[index + 1])

    def _change(self, lane: _Lane, batch: Batch, way: str) -> None:
        try:
            if way == "captured":
                lane.graph = StepGraph(self.step, batch)
            elif lane.graph is not None:
                lane.graph.use(compiled(lane.graph.captured, lane.graph.inputs(batch, 0.0)))
        except Uncapturable as error:
            self._refuse(way, error.site, str(error))
        except CannotCompile as error:
            self._refuse(way, None, str(error))
        else:
            lane.way, lane.uses = way, 0

    def _refuse(self, way: str, site: str | None, problem: str) -> None:
        """Say once why steps are not run in this way."""
        if self.mode == "on":
            raise UserError(f"compile='on', but {problem}: use compile='auto' or 'off'")
        if way not in self.refused:
            self.refused |= {way, *WAYS[WAYS.index(way) :]}
            now = WAYS[WAYS.index(way) - 1]
            words = "training goes on as it was" if now == "eager" else "training goes on captured, not compiled"
            self.findings.append(Finding(site, problem, words, "warning"))
