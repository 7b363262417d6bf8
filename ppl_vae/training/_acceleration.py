"""A training step as fast as it pays to make it: eager, captured as one flat graph, or that graph compiled.

A captured graph gives the eager numbers bit for bit and costs about a second; a compiled one (TorchInductor) draws the
same random numbers, rounds otherwise, and costs many. Each is used only after it has repeated an eager step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ppl_vae.data import device_of, units_in
from ppl_vae.errors import UserError
from ppl_vae.programs.program import Batch
from ppl_vae.speed.compiler import compiled
from ppl_vae.speed.modes import MODES, Compile, Modes, ShapeRuns, check_mode
from ppl_vae.training._step_graph import StepGraph
from ppl_vae.training._steps import BoundStep, PyroStep, StepOutcome

__all__ = ["GraphStep", "accelerated"]

ENOUGH = 0.25
"""With "on", batches of a shape are compiled if they are this share of all; others (a short last one) are captured."""


def accelerated(step: BoundStep | PyroStep, compile: Compile) -> BoundStep | PyroStep | GraphStep:
    """The step as `fit(compile=)` asks for it.

    Raises:
        UserError: for another word, or "on" with one of Pyro's own bounds.
    """
    check_mode(compile)
    if isinstance(step, BoundStep) and step.critic is not None:
        if compile == "on":
            raise UserError(
                f"compile='on', but {type(step.beta).__name__} trains a second network between the steps, which is no "
                "part of a captured one: use compile='auto' or 'off'"
            )
        return step
    if compile != "off" and isinstance(step, BoundStep):
        return GraphStep(step, compile)
    if compile == "on":
        raise UserError(
            "compile='on' needs a bound of ppl_vae.bounds: Pyro's own reads its loss back at every step, which cannot "
            "be captured; use ELBO(), or compile='auto'"
        )
    return step


@dataclass
class _ShapeRuns(ShapeRuns):
    graph: StepGraph | None = None
    epochs: int = 0

    def back(self) -> None:
        super().back()
        if self.mode == "eager":
            self.graph = None
        elif self.graph is not None:
            self.graph.use(self.graph.captured)


class GraphStep:
    """A `BoundStep` that is captured and compiled, at once ("on") or when that pays ("auto").

    Batches of every shape have a runs of their own. What cannot be captured runs as it is; `findings` says which site,
    and why. With "on" that is an error.

    Raises:
        UserError: with "on", for programs that cannot be captured, or a machine without a compiler.
    """

    def __init__(self, step: BoundStep, mode: Literal["auto", "on"] = "auto") -> None:
        self.step, self.modes = step, Modes(mode, "training")
        self.structure, self.evaluate = step.structure, step.evaluate
        self.findings = self.modes.findings
        self.by_shape: dict[Any, _ShapeRuns] = {}
        self.epochs_left, self.sizes = 0.0, Counter[int]()
        self.settings = _settings(step)

    def plan(self, epochs_left: float, sizes: Iterable[int]) -> None:
        """Begin an epoch: how many there will be, and the rows of the batches of each.

        Between epochs a user may change a model. Graphs of other settings are dropped; what the settings do not show
        is found out by a proof in the first, second, fourth, ... epoch of a graph.
        """
        self.epochs_left, self.sizes = epochs_left, Counter(sizes)
        settings = _settings(self.step)
        if settings != self.settings:
            self.settings, self.by_shape = settings, {}
        for runs in self.by_shape.values():
            runs.due = self.modes.compile == "auto"
            runs.epochs += 1
            if runs.epochs.bit_count() == 1:
                runs.uses = 0

    def __call__(self, batch: Batch, epoch: float) -> StepOutcome:
        """One update of all parameters."""
        key = tuple((n, v.shape, v.dtype) for n, v in batch.items()), self.step.pair.training, self.step.share
        runs = self.by_shape.setdefault(key, _ShapeRuns())
        if runs.due:
            runs.due = False
            self._choose(runs, batch)
        device = device_of(batch)
        start = runs.now(device)
        outcome = self.step(batch, epoch) if runs.graph is None else self._replay(runs, runs.graph, batch, epoch)
        runs.clock(runs.now(device) - start)
        return outcome

    def _replay(self, runs: _ShapeRuns, graph: StepGraph, batch: Batch, epoch: float) -> StepOutcome:
        if not runs.is_due_for_proof():
            return graph.replay(batch, epoch)
        outcome, same = graph.proved(batch, epoch)
        if not same:
            self.modes.close(
                runs.mode,
                None,
                f"the {runs.mode} step has other numbers than the eager one (something in Python changes from step to "
                "step, or a draw is not torch's)",
            )
            runs.back()
        return outcome

    def _choose(self, runs: _ShapeRuns, batch: Batch) -> None:
        """Go on to the next mode of running these steps where that pays; go back where it did not."""
        rows = units_in(batch)
        if self.modes.compile == "on":
            self._change(runs, batch, "captured")
            if self.sizes[rows] >= ENOUGH * self.sizes.total():
                self._change(runs, batch, "compiled")
            return
        mode = runs.best(self.epochs_left * self.sizes[rows], None if runs.graph is None else runs.graph.captured)
        if MODES.index(mode) < MODES.index(runs.mode):
            runs.back()
        elif mode != runs.mode and mode not in self.modes.closed:
            self._change(runs, batch, mode)

    def _change(self, runs: _ShapeRuns, batch: Batch, mode: str) -> None:
        with self.modes.opening(mode, runs):
            if mode == "captured":
                runs.graph = StepGraph(self.step, batch)
            elif runs.graph is not None:
                runs.graph.use(compiled(runs.graph.captured, runs.graph.inputs(batch, 0.0)))


def _settings(step: BoundStep) -> list[Any]:
    """The plain values that the modules of a pair hold, and which parameters are trained."""
    plain = [
        (name, key, value)
        for name, part in step.pair.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, bool | int | float | str)
    ]
    return [*plain, *(p.requires_grad for p in step.pair.parameters())]
