"""What every bound shares: draw log weights, reduce them row by row, scale rows to the data set.

A variant gives `of`, from log weights to the bound. It works as a Pyro
objective (`pyro.infer.SVI(model, guide, optim, loss=IWAE(16))`), as a torch module (`IWAE(16)(model, guide)`)
and in `ppl_vae.fit`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from pyro.infer import ELBO as PyroELBO
from torch import Tensor

from ppl_vae.bounds.bare import BarePair, LastPair, NewHole, Readings
from ppl_vae.bounds.replicas import refuse_replicas
from ppl_vae.bounds.untrained import FirstSteps
from ppl_vae.checks.analysis import analyse
from ppl_vae.data import WholeBatch
from ppl_vae.errors import ProgramError, UserError, check_flag, check_whole, shown
from ppl_vae.programs.gradients import Estimator, PathScale
from ppl_vae.programs.locking import one_at_a_time
from ppl_vae.programs.program import Batch, Programs
from ppl_vae.programs.structure import Structure
from ppl_vae.saving.recorded import Recorded
from ppl_vae.weights.log_weights import Discrete, LogWeights, weigh

__all__ = ["Bound"]

NUMBERS = 10_000_000
"""Log weights that are held at once where each particle is replaced in turn, at most."""


class Bound(Recorded, PyroELBO):
    """A bound on the log evidence log p(x) of each row, in nats, as a reduction of log importance weights.

    Shapes: `reduce` takes log weights [K, B] and gives [B]. The bound of a data set of N rows from B of them
    is N / B times the sum over rows, plus the mean over particles of log p - log q of global latents; the
    factor N / B is always outside of any logarithm.
    """

    discrete: ClassVar[Discrete] = "expectation"
    allows_global: ClassVar[bool] = True
    is_upper: ClassVar[bool] = False
    estimators: ClassVar[tuple[Estimator, ...]] = ("reparameterised",)

    def __init__(
        self, particles: int = 1, *, analytic_kl: bool = False, estimator: Estimator = "reparameterised"
    ) -> None:
        name = type(self).__name__
        particles = check_whole(f"{name}: particles", particles)
        if not isinstance(estimator, str) or estimator not in self.estimators:
            known = " or ".join(self.estimators)
            raise UserError(f"{name} has the gradient estimator {known}, got {shown(estimator)}")
        check_flag(f"{name}: analytic_kl", analytic_kl)
        super().__init__(num_particles=particles, vectorize_particles=True)
        self.particles = particles
        self.analytic_kl = analytic_kl
        self.estimator: Estimator = estimator
        self._readings, self._first_steps, self._last_whole = Readings(), FirstSteps(), LastPair()

    # -- what a variant defines ------------------------------------------------------------------------------

    @abstractmethod
    def of(self, log_w: Tensor) -> Tensor:
        """The bound from log weights: [particle, ...] -> [...]."""

    def path_factor(self, log_w: Tensor) -> Tensor | None:
        """By what the gradient through each draw is scaled, [particle, row]; None where it is not."""
        return None

    def reduce(self, weights: LogWeights, beta: float | Tensor = 1.0) -> Tensor:
        """The bound of each row, [row]; with beta != 1 the weighted objective, which is no bound."""
        return self.of(weights.tempered(beta))

    def surrogate(self, weights: LogWeights, beta: float | Tensor = 1.0) -> Tensor:
        """A tensor [row] with the value of `reduce`, whose gradient trains the pair.

        Sites that cannot be reparameterised add a score-function term: each particle's share of the bound,
        against what the bound is with that particle replaced by the mean of the others (VIMCO).
        """
        log_w = weights.tempered(beta)
        value = self.of(log_w)
        if weights.path is not None:
            weights.path.factor = self.path_factor(log_w.detach())
        if weights.score is None:
            return value
        signal = value.detach() - self._without_each(log_w.detach())
        return value + (signal * (weights.score - weights.score.detach())).sum(0)

    def _without_each(self, log_w: Tensor) -> Tensor | float:
        """The bound with particle k replaced by the mean log weight of the others, [particle, row]."""
        k = len(log_w)
        if k == 1:
            return 0.0
        others = (log_w.sum(0) - log_w) / (k - 1)
        parts = []
        for some in torch.arange(k, device=log_w.device).split(max(1, NUMBERS // log_w.numel())):
            own = torch.arange(k, device=log_w.device).unsqueeze(1) == some  # [particle, replaced], without K^2 numbers
            parts.append(self.of(torch.where(own.unsqueeze(-1), others[some].unsqueeze(0), log_w.unsqueeze(1))))
        return torch.cat(parts)

    def refuse(self, structure: Structure) -> None:
        """Raise where this bound would not be a bound for a pair of this structure."""
        name = type(self).__name__
        if structure.global_latents and not self.allows_global:
            sites = ", ".join(sorted(structure.global_latents))
            raise UserError(
                f"{name} needs importance weights per row, but {sites} is outside the data plate and shared by "
                "all rows: use ELBO, or put the latent inside the plate, or make it a parameter"
            )
        drawn = set(structure.latents) - structure.summed_guide - structure.auxiliary
        if self.particles > 1 and drawn and drawn <= structure.points:
            raise UserError(
                f"{name} with {self.particles} particles: site {', '.join(sorted(drawn))} is a point in the guide, the "
                "same in each: use one particle, ELBO()"
            )
        if structure.inner_subsample and not self.allows_global:
            plates = ", ".join(sorted(structure.inner_subsample))
            raise UserError(
                f"{name} is no bound when plate {plates} inside a row is subsampled: use ELBO, or all its items"
            )
        shared = structure.scored & structure.global_latents
        if shared:
            raise UserError(
                f"{name}: {', '.join(sorted(shared))} is shared by all rows and has no reparameterised sampler: "
                "use a distribution with rsample in the guide, or Pyro's TraceGraph_ELBO"
            )
        if self.estimator != "reparameterised" and not structure.broadcasts:
            raise UserError(
                f"{name} with estimator {self.estimator!r} needs programs that broadcast over particles: write "
                "them with ... indexing, or use the reparameterised estimator"
            )
        if self.estimator == "dreg" and structure.summed_guide:
            sites = ", ".join(sorted(structure.summed_guide))
            raise UserError(
                f"{name} has no dreg gradient for a pair whose guide has the summed discrete site {sites}: "
                "use the reparameterised estimator, or leave the site out of the guide"
            )

    # -- the engine's face -----------------------------------------------------------------------------------

    def weigh(
        self,
        pair: Programs,
        structure: Structure,
        batch: Batch,
        beta: float | Tensor = 1.0,
        *,
        scaled: bool = False,
    ) -> LogWeights:
        """Draw the log weights that this bound reduces; `scaled` as for `ppl_vae.weights.log_weights.weigh`."""
        return weigh(
            pair,
            structure,
            batch,
            self.particles,
            discrete=self.discrete,
            beta=beta,
            analytic_kl=self.analytic_kl,
            estimator=self.estimator,
            path=self._path(structure),
            scaled=scaled,
        )

    def _path(self, structure: Structure) -> PathScale | None:
        return PathScale(structure, self.particles) if self.estimator == "dreg" else None

    def total(self, rows: Tensor, weights: LogWeights, scale: float = 1.0) -> Tensor:
        """The bound of the whole data set from its value for the rows of a batch; scale = N / B."""
        total = scale * rows.sum()
        return total if weights.log_global is None else total + weights.log_global.mean()

    # -- Pyro's face -----------------------------------------------------------------------------------------

    def _draw(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[LogWeights, float]:
        with one_at_a_time():
            weights, structure = self._weighed(BarePair(model, guide, args, kwargs))
        rows = weights.log_likelihood.shape[1]
        return weights, (structure.rows_total or rows) / rows

    def _weighed(self, bare: BarePair) -> tuple[LogWeights, Structure]:
        known = self._readings.of(bare)
        for structure in known:
            try:
                with bare.foreseen(structure.holes):
                    weights = self.weigh(bare, structure, bare.batch, scaled=True)
            except NewHole:
                continue
            known.sort(key=lambda other: other is not structure)
            break
        else:
            structure = self._read(bare)
            known.insert(0, structure)
            weights = self.weigh(bare, structure, bare.batch, scaled=True)
        refuse_replicas(type(self).__name__, bare, structure)
        return weights, structure

    def _read(self, bare: BarePair) -> Structure:
        """The structure of a pair that Pyro runs; without rows it is one unit, of which this has to be a bound, too."""
        try:
            structure = analyse(bare, bare.batch)
            self.refuse(structure)
        except UserError:
            if not self.allows_global:  # a bound row by row: which rows these are has to be plain
                raise
            structure = analyse(bare, WholeBatch(bare.batch))
            self.refuse(structure)
        return structure

    def _of_data(
        self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, trains: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The bound of the data set, and, if it trains something, a tensor of the same value with its gradient."""
        try:
            weights, scale = self._draw(model, guide, args, kwargs)
        except Exception as error:  # whatever a program raises here, there may be another way to run it
            if isinstance(error, UserError) and not isinstance(error, ProgramError):
                raise  # not the programs, but what is asked of them
            whole = self._of_whole(model, guide, args, kwargs, error)
            return whole.detach(), whole
        value = self.total(self.reduce(weights).detach(), weights, scale)
        return value, self.total(self.surrogate(weights), weights, scale) if trains else value

    def _of_whole(
        self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
    ) -> Tensor:
        """The bound of a pair of which log weights cannot be had (the error says why); a bound may know another way."""
        raise error

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound of the data set, in nats, with this bound's gradient."""
        return -self._of_data(model, guide, args, kwargs)[1]

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the bound of the data set, in nats."""
        with torch.no_grad():
            return -float(self._of_data(model, guide, args, kwargs, trains=False)[0])

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the bound of the data set, in nats; adds its gradient to the parameters'.

        Raises:
            ProgramError: under Pyro's SVI, for a network that it would never train, by the name of its variable.
        """
        with self._first_steps.watching(model, guide):
            value, gradient = self._of_data(model, guide, args, kwargs)
        if gradient.requires_grad:
            self._first_steps.refuse_untrained(
                model, guide, gradient, (args, kwargs), lambda: self._of_data(model, guide, args, kwargs)[1]
            )
            (-gradient).backward(retain_graph=self.retain_graph)
        return -float(value)

    def _get_trace(self, *args: Any, **kwargs: Any) -> Any:
        raise UserError(f"{type(self).__name__} draws its own log weights: use loss or differentiable_loss")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in getattr(self, "recorded", {}).items())
        return f"{type(self).__name__}({arguments})"
