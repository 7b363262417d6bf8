"""A training step in several processes: each computes its rows of the batch, gradients are summed, all update alike.

The objective is a mean over the rows of a batch plus a part that all rows share. Every process adds its rows' part of
the mean and its share of the rest (`Share`), with the draws of one process (`SharedDraws`), so that the sum of the
gradients is the gradient. Before the first step that is proved on a few rows, which every process computes whole, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae.bounds.base import Bound
from ppl_vae.data import device_of, units_in
from ppl_vae.distributed.calls import read_calls
from ppl_vae.distributed.draws import SharedDraws
from ppl_vae.distributed.group import Group
from ppl_vae.distributed.share import Share
from ppl_vae.errors import Finding, UserError, option
from ppl_vae.programs.modes import kept_buffers
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import Structure
from ppl_vae.schedules import Capacity, FreeBits
from ppl_vae.speed.proof import agree
from ppl_vae.training._acceleration import GraphStep, accelerated
from ppl_vae.training._steps import BoundStep, PyroStep, StepOutcome

__all__ = ["DistributedStep", "distributed_step", "refuse_undivided"]


class SummedGradients:
    """Sums the gradients of all processes and what each saw, in one buffer, and updates.

    A parameter without a gradient in any process keeps none. `refuse_odd` says, once an epoch so that nobody waits for
    it within one, whether some process had a gradient where another had none.
    """

    def __init__(self, optimizer: Any, group: Group, pair: Pair) -> None:
        self.optimizer, self.group = optimizer, group
        self.parameters = [p for p in pair.parameters() if p.requires_grad]
        self.odd: Tensor | None = None
        self.steps = 0

    @torch.no_grad()
    def __call__(self, outcome: StepOutcome) -> StepOutcome:
        """Sum, then update; the outcome of the whole batch."""
        there = [p.grad is not None for p in self.parameters]
        beside = [value.reshape(1) for value in outcome if value is not None]
        kinds = list(dict.fromkeys((p.dtype, p.device) for p in self.parameters))
        for i, kind in enumerate(kinds):
            own = [p for p in self.parameters if (p.dtype, p.device) == kind]
            found = self._sum(own, () if i else beside)
            beside = beside if i else found
        for parameter, has in zip(self.parameters, there, strict=True):
            if not has:
                parameter.grad = None
        self.optimizer.step()
        self.steps += 1
        whole = iter(beside)
        return StepOutcome(*(None if value is None else next(whole).reshape(()) for value in outcome))  # type: ignore[arg-type]

    def _sum(self, parameters: Sequence[Any], beside: Sequence[Tensor]) -> list[Tensor]:
        """Sum the gradients of some parameters, and other numbers beside them; those sums."""
        flat = [torch.zeros_like(p).reshape(-1) if p.grad is None else p.grad.reshape(-1) for p in parameters]
        has = flat[0].new_tensor([float(p.grad is not None) for p in parameters])
        whole = self.group.total(torch.cat([*flat, has, *(value.to(has) for value in beside)]))
        parts = list(whole.split([*(p.numel() for p in parameters), len(has), *(1 for _ in beside)]))
        for parameter, part in zip(parameters, parts, strict=False):
            gradient = part.view(parameter.shape)
            # optimizers expect gradients that lie in memory as their parameters do
            same = gradient.stride() == parameter.stride()
            parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
        odd = (parts[len(parameters)] - self.group.size * has).abs().amax()
        self.odd = odd if self.odd is None else torch.maximum(self.odd, odd.to(self.odd))
        return parts[len(parameters) + 1 :]

    def refuse_odd(self) -> None:
        """Raise where gradients of a step were not of the same parameters in all processes."""
        odd = 0.0 if self.odd is None else float(self.odd)
        self.odd = None
        if odd:
            raise UserError(
                "a parameter has a gradient for the rows of one process and none for those of another, so that their "
                f"sum is not what one would do: use all parameters for all rows, or {option('distributed', 'off')}"
            )


class DistributedStep:
    """A step that is given whole batches, computes the rows of this process, and tells what all saw.

    Args:
        bound: the eager step of one process.
        group: the processes.
    """

    def __init__(self, bound: BoundStep, group: Group) -> None:
        self.bound, self.group = bound, group
        self.sums = SummedGradients(bound.optimizer, group, bound.pair)
        bound.summed = self.sums
        self.step: BoundStep | PyroStep | GraphStep = bound
        self.structure = bound.structure
        self.draws: dict[bool, SharedDraws] = {}
        self.own_findings: list[Finding] = []

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is to be said of how steps are made."""
        return (*self.own_findings, *getattr(self.step, "findings", ()))

    @property
    def talks(self) -> str | None:
        """What in a step needs to hear of the others' rows, in words; None where a step waits for nobody."""
        if isinstance(self.bound.beta, FreeBits | Capacity):
            return f"{type(self.bound.beta).__name__} looks at means of all rows"
        asks = any(draws.asks_others for draws in self.draws.values())
        return "a sampler looks at the parameters of all rows" if asks else None

    def accelerate(self) -> None:
        """Run captured or compiled from now on, where that pays and no process has to talk within a step.

        Raises:
            UserError: with compile="on", where they have to.
        """
        compile, why = self.bound.settings.compile, self.talks
        if why is None:
            self.step = accelerated(self.bound, compile)
            return
        problem = f"{why}, so that processes talk within a step"
        if compile == "on":
            raise UserError(f"compile='on', but {problem}: use compile='auto' or 'off'")
        if compile == "auto":
            self.own_findings.append(
                Finding(None, problem, "training goes on as it is, neither captured nor compiled", "warning")
            )

    def share(self, rows: int) -> Share:
        """The rows of this process in a batch of so many."""
        return Share(self.group.rank, self.group.size, rows)

    def plan(self, epochs_left: float, sizes: Iterable[int]) -> None:
        """As of `GraphStep`."""
        if isinstance(self.step, GraphStep):
            self.step.plan(epochs_left, [self.share(rows).computed for rows in sizes])

    def __call__(self, batch: Batch, epoch: float) -> StepOutcome:
        """One update of all parameters, from all rows of the batch."""
        own, before = self._enter(batch), self.sums.steps
        found = self.step(own, epoch)
        return self._whole(found) if self.sums.steps == before else found  # nothing is trained: no gradient was summed

    def evaluate(self, batch: Batch) -> StepOutcome:
        """The bound of some rows, without an update."""
        return self._whole(self.bound.evaluate(self._enter(batch)))

    def _whole(self, parts: StepOutcome) -> StepOutcome:
        """What all processes saw together."""
        whole = iter(self.group.total(torch.stack([value for value in parts if value is not None])))
        return StepOutcome(*(None if value is None else next(whole) for value in parts))  # type: ignore[arg-type]

    def _enter(self, batch: Batch) -> Batch:
        self.bound.share = self.share(units_in(batch))
        self.bound.draws = self._draws(batch)
        return self.bound.share.of(batch)

    def _draws(self, batch: Batch) -> SharedDraws:
        training = self.bound.pair.training
        if training not in self.draws:
            self.draws[training] = self._read(batch)
        return self.draws[training]

    def _read(self, batch: Batch) -> SharedDraws:
        share, self.bound.share = self.bound.share, None
        rows = units_in(batch)
        numbers = (2, 3) if rows > 2 else (1, 2)

        def run(number: int) -> None:
            self.bound.bound.weigh(
                self.bound.pair, self.structure, {name: v[:number] for name, v in batch.items()}, scaled=True
            )

        with preserved_randomness(), torch.no_grad(), kept_buffers(self.bound.pair):
            reading = read_calls(run, numbers, self.structure.dim, device_of(batch))
        self.bound.share = share
        return SharedDraws(reading, self.group, self.structure.dim)

    def refuse_apart(self, epoch: int) -> None:
        """Raise where the processes did not do the same in an epoch: their weights are one, bit for bit."""
        self.sums.refuse_odd()
        own = sum(_bits(value) for value in self.bound.pair.state_dict().values())
        total = int(self.group.total(torch.tensor(own)))
        if not self.group.agrees(total == self.group.size * own):
            raise UserError(
                f"the {self.group.size} processes hold different weights after epoch {epoch}: something changes them "
                "beside the optimizer (a buffer, Python's own random numbers), or the machines compute otherwise: "
                f"take machines of one kind, or train in one process, {option('distributed', 'off')}"
            )

    # -- the proof -------------------------------------------------------------------------------------------

    def prove(self, batch: Batch) -> None:
        """Raise where the sum of the processes' steps on a few rows is not the step of one process on them."""
        few = {name: values[: 2 * self.group.size + 1] for name, values in batch.items()}
        pair, weights = self.bound.pair, self.bound.row_weights
        self.bound.row_weights = None if weights is None else weights[: units_in(few)]
        training = [module for module in pair.modules() if module.training]
        pair.train()
        same = self._same(few)
        pair.eval()
        same = self._same_evaluation(few) and same
        for module in pair.modules():
            module.training = any(module is each for each in training)
        self.bound.row_weights = weights
        if not self.group.agrees(same):
            raise UserError(
                f"the step of {self.group.size} processes is not the step of one: something in the programs looks at "
                "other rows of the batch (a mean or a normalisation over rows), or draws in another order for fewer "
                f"rows: train in one process, {option('distributed', 'off')}"
            )

    def _same(self, few: Batch) -> bool:
        with kept_buffers(self.bound.pair), preserved_randomness():
            whole = self._values(few)
        with kept_buffers(self.bound.pair), preserved_randomness():
            parts = self._values(self._enter(few))
        self.bound.share = None
        return agree(self._summed(parts), whole)

    def _same_evaluation(self, few: Batch) -> bool:
        with preserved_randomness():
            whole = list(self.bound.evaluate(few))
        with preserved_randomness():
            parts = list(self.bound.evaluate(self._enter(few)))
        self.bound.share = None
        return agree(self._summed(parts), whole)

    def _summed(self, parts: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [None if part is None else self.group.total(part.detach().clone()) for part in parts]

    def _values(self, batch: Batch) -> list[Tensor | None]:
        """The outcome of a step and its gradients, without an update."""
        parameters = [p for p in self.bound.pair.parameters() if p.requires_grad]
        # in the middle of a schedule: at its start a KL weight of 0 would prove nothing of the prior
        with torch.enable_grad():
            outcome = self.bound.outcome(batch, *self.bound.levels(0.5 * self.bound.settings.passes))
            found: Sequence[Tensor | None] = []
            if outcome.objective.requires_grad:
                found = torch.autograd.grad(-outcome.objective, parameters, allow_unused=True)
        return [*(None if v is None else v.detach() for v in outcome), *found]


def _bits(value: Tensor) -> int:
    """A sum of the bits of a tensor, which another value would hardly have, too."""
    flat = value.detach().reshape(-1)
    whole = flat.view(torch.int32) if flat.element_size() in (4, 8) else flat.to(torch.float32).view(torch.int32)
    return int(whole.sum(dtype=torch.int64)) % 2**40


def refuse_undivided(structure: Structure, bound: Any, group: Group) -> None:
    """Raise for what cannot be divided among processes, with what to do instead."""
    if group.size == 1:
        return
    alone = f"train in one process, {option('distributed', 'off')}"
    if not isinstance(bound, Bound):
        raise UserError(f"several processes need a bound of ppl_vae.bounds, got one of Pyro's own: use one, or {alone}")
    if structure.is_one_unit:
        raise UserError(f"all data are one unit, without rows to divide among {group.size} processes: {alone}")
    if structure.rows_total:
        raise UserError(f"the model's plate draws its own rows, in each of {group.size} processes others: {alone}")


def distributed_step(step: BoundStep, group: Group, batch: Batch) -> DistributedStep:
    """The step of one process of several, proved on some rows of a batch.

    Raises:
        UserError: as `prove` and `accelerate`.
    """
    step.total = group.total
    found = DistributedStep(step, group)
    found.prove(batch)
    found.accelerate()
    return found
