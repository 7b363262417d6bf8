"""A training step's outcome and gradients as one flat graph, and the proof that it is the step.

A change of beta, of the parameters or of the rows is another input, not another graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.programs.modes import kept_buffers
from ppl_vae.programs.program import Batch
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.speed.capture import Graph, Uncapturable, capture
from ppl_vae.speed.proof import agree, generator_state
from ppl_vae.training._steps import BoundStep, StepOutcome

__all__ = [
    "StepGraph",
    "Values",
]

Values = list[Tensor | None]
"""The fields of an outcome, then the gradient of minus the objective for every parameter; None where there is none."""


class StepGraph:
    """The graph of a step on batches of one shape: `replay` computes what the eager step does, and updates.

    Raises:
        Uncapturable: naming the site, for programs whose Python looks at values.
    """

    def __init__(self, step: BoundStep, batch: Batch) -> None:
        self.step, self.names = step, tuple(batch)
        self.parameters = [p for p in step.pair.parameters() if p.requires_grad]
        if any(getattr(p, "_post_accumulate_grad_hooks", None) for p in self.parameters):
            raise Uncapturable(None, "a parameter has a hook that runs after its gradient is there")
        self.present: list[bool] = []
        # float64, because a Python number meets every tensor in that tensor's precision
        self.levels = [torch.zeros((), dtype=torch.float64, device=step.pair.device) for _ in range(2)]
        self.captured = self.fast = capture(step.pair, self._flat, self.inputs(batch, 0.0))

    def _flat(self, *inputs: Tensor) -> list[Tensor]:
        found = self._eager(dict(zip(self.names, inputs, strict=False)), *inputs[-2:])
        self.present = [v is not None for v in found]
        return [v for v in found if v is not None]

    def _eager(self, batch: Batch, beta: float | Tensor, level: float | Tensor) -> Values:
        with torch.enable_grad():
            outcome = self.step.outcome(batch, beta, level)
            values: Values = [None if v is None else v.detach() for v in outcome]
            if not outcome.objective.requires_grad:
                return values + [None] * len(self.parameters)
            found = torch.autograd.grad(-outcome.objective, self.parameters, allow_unused=True)
        return values + [_laid_out(g, p) for g, p in zip(found, self.parameters, strict=True)]

    def inputs(self, batch: Batch, epoch: float) -> list[Tensor]:
        """What the graph is called with."""
        for tensor, level in zip(self.levels, self.step.levels(epoch), strict=True):
            tensor.fill_(level)
        return [*(batch[n] for n in self.names), *self.levels]

    def values(self, batch: Batch, epoch: float) -> Values:
        """What the graph computes for a batch."""
        found = iter(self.fast(*self.inputs(batch, epoch)))
        return [next(found) if there else None for there in self.present]

    def replay(self, batch: Batch, epoch: float) -> StepOutcome:
        """One update of all parameters."""
        return self._update(self.values(batch, epoch))

    def proved(self, batch: Batch, epoch: float) -> tuple[StepOutcome, bool]:
        """One update, and whether the graph has the numbers and draws of the eager step, which makes it if not.

        If so the graph makes it: a run that is resumed is proved at other steps, and compiled code rounds otherwise.
        """
        with kept_buffers(self.step.pair), preserved_randomness():
            values = self.values(batch, epoch)
            state = generator_state(batch)
        with kept_buffers(self.step.pair), preserved_randomness():
            expected = self._eager(batch, *self.step.levels(epoch))
            same = torch.equal(state, generator_state(batch)) and agree(values, expected)
        if same:
            return self.replay(batch, epoch), True
        return self._update(self._eager(batch, *self.step.levels(epoch))), False

    def _update(self, values: Values) -> StepOutcome:
        fields = len(StepOutcome._fields)
        for parameter, gradient in zip(self.parameters, values[fields:], strict=True):
            parameter.grad = gradient
        outcome = StepOutcome(*values[:fields])  # type: ignore[arg-type]
        return self.step.update(outcome) if any(self.present[fields:]) else outcome

    def use(self, graph: Graph) -> None:
        """Run another form of the captured graph."""
        self.fast = graph


def _laid_out(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """A gradient in memory as its parameter is, as optimizers expect and `backward` leaves it."""
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
