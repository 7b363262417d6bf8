"""One optimisation step on a batch: with a bound of this package, or with one of Pyro's own through its SVI."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer import SVI
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message, effectful
from torch import Tensor

from ppl_vae.bounds.base import Bound
from ppl_vae.data import units_in
from ppl_vae.distributed.share import Share
from ppl_vae.errors import UserError, option
from ppl_vae.programs.execution import mark_summed
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.structure import Structure
from ppl_vae.schedules import Capacity, FreeBits, Objective, like
from ppl_vae.schedules.objectives import Critic, Seen, Shaped
from ppl_vae.speed.precision import products
from ppl_vae.training.settings import Settings
from ppl_vae.weights.log_weights import LogWeights

__all__ = ["BoundStep", "PyroStep", "StepOutcome", "make_step"]


class StepOutcome(NamedTuple):
    """What a step saw, nats per row, as tensors on the device: nothing is read back within an epoch."""

    bound: Tensor
    objective: Tensor
    rate: Tensor | None = None
    distortion: Tensor | None = None
    mutual_information: Tensor | None = None
    total_correlation: Tensor | None = None
    dimensions: Tensor | None = None


class BoundStep:
    """A step with a bound of this package."""

    def __init__(
        self,
        pair: Pair,
        structure: Structure,
        bound: Bound,
        optimizer: Any,
        rows: int,
        settings: Settings,
        row_weights: Tensor | None = None,
    ) -> None:
        self.settings, self.beta, self.products = settings, settings.kl_weight, products(settings.precision)
        self.pair, self.structure, self.bound, self.row_weights = pair, structure, bound, row_weights
        self.optimizer, self.rows = optimizer, structure.rows_total or rows
        self.share: Share | None = None  # of the rows of a batch, where several processes have each a part of them
        self.draws: Callable[[Share], AbstractContextManager[None]] | None = None
        self.total: Callable[[Tensor], Tensor] | None = None  # over all processes
        self.summed: Callable[[StepOutcome], StepOutcome] | None = None
        # The parts of a weight that was summed over discrete values have no rate of their own.
        self.splits = not (structure.enumerates and bound.discrete == "marginal")
        self.shaped: Shaped | None = None

    def begin(self, batch: Batch, processes: int = 1) -> None:
        """Make the objective ready, where it is one that looks at the latents of all rows together; a batch shows them.

        Raises:
            UserError: it has no meaning for this pair or bound, or there are several processes.
        """
        if isinstance(self.beta, Objective):
            if processes > 1:
                raise UserError(
                    f"{type(self.beta).__name__} looks at the latents of all rows of a batch together, and each of "
                    f"{processes} processes has a part of them: train in one, {option('distributed', 'off')}"
                )
            with preserved_randomness():
                seed_draws(self.settings.seed)
                self.shaped = self.beta.begin(self.pair, self.structure, self.bound, batch, self.rows)

    def __call__(self, batch: Batch, epoch: float) -> StepOutcome:
        """One update of all parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        outcome = self.outcome(batch, *self.levels(epoch))
        if outcome.objective.requires_grad:
            (-outcome.objective).backward()
            outcome = self.update(outcome._replace(objective=outcome.objective.detach()))
        if self.shaped is not None:
            self.shaped.learn()
        return outcome

    def update(self, outcome: StepOutcome) -> StepOutcome:
        """Update the parameters from their gradients; the outcome, of all processes where there are several."""
        if self.summed is not None:
            return self.summed(outcome)
        self.optimizer.step()
        return outcome

    def levels(self, epoch: float) -> tuple[float, float]:
        """The numbers of a step that change with the epoch: beta, and what FreeBits or Capacity holds it to."""
        beta = self.beta(epoch)
        return beta, self.beta.level(epoch) if isinstance(self.beta, FreeBits | Capacity) else beta

    @property
    def critic(self) -> Critic | None:
        """What is trained beside the pair."""
        return None if self.shaped is None else self.shaped.critic

    def outcome(self, batch: Batch, beta: float | Tensor, level: float | Tensor) -> StepOutcome:
        """What one step sees, before any update; the objective carries its gradient."""
        with self.products():
            weights = self.weigh(batch, beta, scaled=True)
        shared: Any = 0.0
        if weights.log_global is not None:
            shared = self._once(like(beta, weights.log_global) * weights.log_global.mean() / self.rows)
        seen = None
        if self.shaped is not None:
            seen = self.shaped(weights, level)
            objective = seen.objective + shared
        elif isinstance(self.beta, FreeBits | Capacity):
            objective = self._held(self.beta, weights, level) + shared
        else:
            objective = self._part(self.bound.surrogate(weights, beta).mean()) + shared
        if self.settings.label_weight:
            labels = sum(self._mean(log_q) for log_q in weights.labels.values())
            objective = objective + self.settings.label_weight * labels
        if self.structure.scaled:  # what is maximised has the programs' own scales, what is reported has not
            with torch.no_grad():
                weights = self.weigh(batch)
        return self._outcome(weights, objective, self._mean, seen)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> StepOutcome:
        """The bound of some rows, without an update."""
        weights = self.weigh(batch)
        if self.shaped is None:
            return self._outcome(weights, self._plain(self.bound.reduce(weights)), self._plain)
        # these rows are all that is known of q(z) here: none stands for others
        seen = self.shaped(weights, self.beta(self.settings.passes), units_in(batch))
        return self._outcome(weights, seen.objective, self._plain, seen)

    def _held(self, beta: FreeBits | Capacity, weights: LogWeights, level: float | Tensor) -> Tensor:
        """The objective of a schedule that looks at means of all rows: each process has its part of their gradient."""
        if self.share is None or self.total is None:
            return beta.objective(self.bound, weights, level)
        total = self.total
        objective = beta.objective(
            self.bound, weights, level, self._plain, lambda own: own + (total(own.detach().clone()) - own.detach())
        )
        penalty = (self._plain(weights.log_likelihood) - objective).detach()
        return objective + (1 - self.share.once) * penalty  # whose value every process knows whole: it counts once

    def weigh(self, batch: Batch, beta: float | Tensor = 1.0, *, scaled: bool = False) -> LogWeights:
        """The log weights of a batch, or of a process's rows of it with the draws that one process would give them."""
        with nullcontext() if self.draws is None or self.share is None else self.draws(self.share):
            return self.bound.weigh(self.pair, self.structure, batch, beta, scaled=scaled)

    def _mean(self, rows: Tensor) -> Tensor:
        """Over all rows, from those [..., B] of a batch: each is weighted by how many it stands for."""
        if self.row_weights is None:
            return self._plain(rows)
        weights = self.row_weights if self.share is None else self.row_weights[self.share.rows]
        return self._plain(rows * weights.to(rows.dtype))

    def _plain(self, rows: Tensor) -> Tensor:
        return self._part(rows.mean())

    def _part(self, mean: Tensor) -> Tensor:
        """What a mean over the rows of this process adds to that over all rows of the batch."""
        return mean if self.share is None else self.share.weight * mean

    def _once(self, shared: Tensor) -> Tensor:
        """What all processes compute alike is counted once in their sum."""
        return shared if self.share is None else self.share.once * shared

    @torch.no_grad()
    def _outcome(
        self, weights: Any, objective: Tensor, mean: Callable[[Tensor], Tensor], seen: Seen | None = None
    ) -> StepOutcome:
        shared = 0.0 if weights.log_global is None else self._once(weights.log_global.mean() / self.rows)
        bound = mean(self.bound.reduce(weights)) + shared
        if not self.splits:
            return StepOutcome(bound, objective)
        parts = () if seen is None else seen[1:]
        return StepOutcome(bound, objective, mean(weights.rate) - shared, -mean(weights.log_likelihood), *parts)


class PyroStep:
    """A step with one of Pyro's own objectives, through `pyro.infer.SVI`."""

    def __init__(
        self, pair: Pair, structure: Structure, bound: Any, optimizer: Any, rows: int, settings: Settings
    ) -> None:
        beta = settings.kl_weight
        if isinstance(beta, FreeBits | Capacity | Objective) or beta(0) != 1 or beta(1e9) != 1:
            raise UserError(
                f"{type(bound).__name__} is Pyro's own and has no KL weight: use beta=1, or a bound of ppl_vae.bounds"
            )
        self.rows, self.structure, ours = rows, structure, option("bound", "elbo")
        if structure.holes:
            sites = ", ".join(structure.holes)
            raise UserError(f"site {sites} has missing entries, which {type(bound).__name__} cannot skip: use {ours}")
        if structure.auxiliary and isinstance(bound, pyro.infer.TraceMeanField_ELBO):
            raise UserError(
                f"the guide draws {', '.join(sorted(structure.auxiliary))} together, and {type(bound).__name__} leaves "
                f"the density of joint draws out: use {ours}, or trace_elbo"
            )
        if structure.points and isinstance(bound, pyro.infer.TraceMeanField_ELBO):
            raise UserError(
                f"site {', '.join(sorted(structure.points))} is a point in the guide, whose penalties "
                f"{type(bound).__name__} leaves out: use {ours}, or trace_elbo"
            )
        model, guide = mark_summed(pair, structure)
        if not structure.enumerates and bound.max_plate_nesting == float("inf"):
            bound.max_plate_nesting = structure.nesting + (bound.vectorize_particles and bound.num_particles > 1)
        told = [f"site {name!r} is masked by the model" for name in structure.masked]
        told += [f"site {name!r} is scaled by its program" for name in sorted(structure.scaled)]
        if told:
            raise UserError(
                f"{told[0]}, and {type(bound).__name__} would report another number than the model's: use {ours}"
            )
        self.scale = _ScaleRows(structure.row_plates)
        parameters = [p for p in pair.parameters() if p.requires_grad]
        self.svi = SVI(self.scale(model), _announce(self.scale(guide), parameters), _Adapter(optimizer), bound)

    def __call__(self, batch: Batch, epoch: float) -> StepOutcome:
        """One update; Pyro reads the loss back at every step."""
        return self._outcome(self.svi.step, batch, self.rows)

    def evaluate(self, batch: Batch) -> StepOutcome:
        """The bound of some rows, without an update."""
        return self._outcome(self.svi.evaluate_loss, batch, units_in(batch))

    def _outcome(self, loss: Callable[..., float], batch: Batch, rows: int) -> StepOutcome:
        self.scale.factor = 1.0 if self.structure.rows_total else rows / units_in(batch)
        value = torch.tensor(-loss(**batch) / (self.structure.rows_total or rows))
        return StepOutcome(value, value)


def _announce(program: Any, parameters: list[Any]) -> Any:
    """Pyro takes gradients only if it sees a parameter statement; a program keeps its own to itself."""

    def announced(**fields: Any) -> Any:
        if parameters:
            value = parameters[0].view_as(parameters[0])
            value.unconstrained = lambda: parameters[0]
            effectful(type="param")(lambda *_, **__: value)("trainable", name="trainable")
        return program(**fields)

    return announced


class _ScaleRows(Messenger):
    """N / B on every statement inside the data plate: batch size belongs to inference, not to the model."""

    def __init__(self, plates: frozenset[str]) -> None:
        super().__init__()
        self.plates = plates
        self.factor = 1.0

    def _pyro_sample(self, msg: Message) -> None:
        if any(frame.name in self.plates for frame in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] * self.factor


class _Adapter(pyro.optim.PyroOptim):
    """Lets Pyro's SVI step a torch optimizer that already has all parameters."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(type(optimizer), {})
        self.optimizer = optimizer

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def make_step(
    pair: Pair,
    structure: Structure,
    bound: Any,
    optimizer: Any,
    rows: int,
    settings: Settings,
    row_weights: Tensor | None = None,
) -> BoundStep | PyroStep:
    """The step for a bound; `rows` is N, the number of training rows, `row_weights` what each of a batch stands for."""
    if settings.label_weight:
        _check_labels(structure, bound)
    if isinstance(bound, Bound):
        bound.refuse(structure)
        if bound.is_upper:
            raise UserError(
                f"{type(bound).__name__} is an upper bound and trains nothing: train with a lower bound, and "
                "compare with it afterwards"
            )
        return BoundStep(pair, structure, bound, optimizer, rows, settings, row_weights)
    if isinstance(bound, pyro.infer.ELBO):
        if settings.precision == "bfloat16":
            raise UserError(
                f"precision bfloat16 needs a bound of ppl_vae.bounds, but {type(bound).__name__} is Pyro's own: use "
                "ELBO(), or float32"
            )
        return PyroStep(pair, structure, bound, optimizer, rows, settings)
    raise UserError(f"bound must be a bound of ppl_vae.bounds or one of Pyro's ELBOs, got {type(bound).__name__}")


def _check_labels(structure: Structure, bound: Any) -> None:
    labelled = structure.labelled
    if not labelled or not isinstance(bound, Bound):
        raise UserError(
            "label_weight weighs log q(y | x) of observed labels, but "
            + (
                f"{type(bound).__name__} is Pyro's own: use a bound of ppl_vae.bounds"
                if labelled
                else "no latent of the guide is observed in any row: give the data labels, -1 where there is none"
            )
        )
