"""What an objective is that weighs parts of the aggregate posterior q(z) = E_x q(z | x), and the latents of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ppl_vae.bounds.base import Bound
from ppl_vae.errors import UserError, check_choice, option
from ppl_vae.nn.flows import NoInverse
from ppl_vae.programs.dependencies import dependencies
from ppl_vae.programs.execution import PairTrace
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure, TraceSites, sample_sites
from ppl_vae.schedules.annealing import Cyclical, WarmUp, as_schedule, check_numbers
from ppl_vae.weights.log_weights import LogWeights
from ppl_vae.weights.marginals import columns, marginals, points
from ppl_vae.weights.reduction import by_row

__all__ = ["Critic", "Latents", "Objective", "Seen", "Shaped", "check_between"]


class Seen(NamedTuple):
    """The objective per row of a batch, with its gradient, and parts of the KL as far as they were seen, in nats."""

    objective: Tensor
    mutual_information: Tensor | None = None
    total_correlation: Tensor | None = None
    dimensions: Tensor | None = None


class Objective(ABC):
    """A frozen dataclass that says what is maximised; `beta`, a number or a warm-up, weighs the KL part as it grows."""

    beta: float | WarmUp | Cyclical

    def __call__(self, epoch: float) -> float:
        """beta at this epoch."""
        return as_schedule(self.beta)(epoch)

    def begin(self, pair: Pair, structure: Structure, bound: Bound, batch: Batch, rows: int) -> Shaped:
        """The objective for a pair that is trained on so many rows with a bound; a batch shows what it is made of.

        Raises:
            UserError: the parts that are weighed have no meaning for this bound or these latents.
        """
        name = type(self).__name__
        _refuse(name, structure, bound)
        with torch.enable_grad():
            weights = bound.weigh(pair, structure, batch, scaled=True)
            if weights.score is not None:
                raise UserError(f"{name} is trained through the draws of the guide, which here have no gradient")
            latents = Latents(weights.runs[0])
            parents = dependencies(pair.guide, batch, latents.names)
            for site in latents.names:
                if others := sorted(parents[site] & set(latents.names)):
                    raise UserError(
                        f"{name} looks at q(z) of single rows' posteriors, but site {site!r} of the guide depends on "
                        f"{', '.join(others)}: use a guide whose sites depend on the row alone, or a number as beta"
                    )
            return self._begin(latents, rows)

    @abstractmethod
    def _begin(self, latents: Latents, rows: int) -> Shaped:
        """The objective, once it is known that it has a meaning."""

    def _check(self, *names: str) -> None:
        """Its numbers, and beta."""
        check_numbers(self, *names)
        as_schedule(self.beta)


class Shaped:
    """An objective in use: called with the log weights of a batch, and with beta."""

    critic: Critic | None = None
    """What is trained beside the pair, one step of `learn` after each of its own."""

    def __init__(self, value: Callable[[LogWeights, Latents, float | Tensor, int], Seen], rows: int) -> None:
        self.value, self.rows = value, rows

    def __call__(self, weights: LogWeights, beta: float | Tensor, rows: int | None = None) -> Seen:
        """What is maximised; `rows` is how many the batch stands for, where these are not the training rows."""
        return self.value(weights, Latents(weights.runs[0]), beta, self.rows if rows is None else rows)

    def learn(self) -> None:
        """Train what is beside the pair on what was seen last."""


class Critic:
    """A network that is trained beside a pair, with an optimiser of its own."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.network, self.optimizer = network, optimizer

    def state(self) -> dict[str, Tensor]:
        """All that its next step depends on, by name."""
        found = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer/{key}/{name}"] = torch.as_tensor(value)
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put a state in place.

        Raises:
            ValueError: it is of another network.
        """
        own = self.network.state_dict()
        weights = {k.removeprefix("network/"): v for k, v in state.items() if k.startswith("network/")}
        if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in own.items()}:
            raise ValueError("the network beside the pair has other weights")
        self.network.load_state_dict(weights)
        found: dict[int, dict[str, Tensor]] = {}
        for index, (name, parameter) in enumerate(self.network.named_parameters()):
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = state.get(f"optimizer/{key}/{name}")
                if value is None:
                    continue
                if value.numel() > 1 and value.shape != parameter.shape:
                    raise ValueError(f"{key} of the network beside the pair has shape {tuple(value.shape)}")
                found.setdefault(index, {})[key] = value
        self.optimizer.load_state_dict({"state": found, "param_groups": self.optimizer.state_dict()["param_groups"]})


# -- the latents of a batch --------------------------------------------------------------------------------


class Latents:
    """One draw of the rows' latents, and what the posterior of every row of the batch says of it."""

    def __init__(self, run: PairTrace) -> None:
        self.run, self.structure = run, run.structure
        self.guide: TraceSites = sample_sites(run.guide)
        self.model: TraceSites = sample_sites(run.model)
        self.names = _own(self.structure)

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """The draws by site, [row, entry]."""
        return {name: points(self.structure, self.guide[name]).flatten(1) for name in self.names}

    @cached_property
    def joined(self) -> Tensor:
        """The draws, [row, entry]."""
        return torch.cat([*self.values.values()], 1)

    def log_prior(self) -> Tensor:
        """log p(z_i), [row]."""
        logs = {name: self.model[name]["fn"].log_prob(self.guide[name]["value"]) for name in self.names}
        return torch.stack([self._by_row(name, log)[0] for name, log in logs.items()]).sum(0)

    def log_joint(self) -> dict[str, Tensor]:
        """log q(z_i | x_j) of every site, [draw i, row j].

        Raises:
            UserError: for a guide that cannot tell the density of another row's draw.
        """
        found = {}
        for name in self.names:
            fn = self.guide[name]["fn"]
            try:
                log_q = fn.log_prob(points(self.structure, self.guide[name]))
            except (NotImplementedError, KeyError, NoInverse) as error:  # torch's and Pyro's way of having no inverse
                kind = type(fn).__name__
                raise UserError(
                    f"site {name!r} is drawn from a {kind} without an inverse, so that log q(z | x) of the draws of "
                    "other rows cannot be had: use mean_field or full_rank"
                ) from error
            found[name] = self._by_row(name, log_q)
        return found

    def log_entries(self) -> Tensor:
        """log q(z_i,d | x_j) of every entry, [draw i, row j, entry d].

        Raises:
            UserError: for a posterior whose marginals are not known.
        """
        found = []
        for name in self.names:
            fn = self.guide[name]["fn"]
            each = marginals(fn)
            if each is None:
                raise UserError(
                    f"the entries of site {name!r} have no known marginals in a {type(fn).__name__}: use mean_field, "
                    "or between='sites'"
                )
            log_q = each.log_prob(points(self.structure, self.guide[name]))
            found.append(columns(log_q, self.structure.dim - fn.event_dim))
        return torch.cat(found, 2)

    def _by_row(self, name: str, log: Tensor) -> Tensor:
        """With all that is inside of a row summed up, [draw or 1, row]."""
        return by_row(self.structure, name, log).expand(-1, len(self.values[name]))


def _own(structure: Structure) -> list[str]:
    """The latents of the rows."""
    return [n for n in structure.latents if n not in structure.global_latents | structure.auxiliary]


def _refuse(name: str, structure: Structure, bound: Bound) -> None:
    """What has no meaning, in one line."""
    if bound.discrete != "expectation" or bound.particles != 1 or bound.estimator != "reparameterised":
        raise UserError(
            f"{name} takes the KL of the ELBO apart, draw by draw, and {bound!r} has none such: use "
            f"{option('bound', 'elbo')} of one particle"
        )
    own = _own(structure)
    why = None
    if structure.is_one_unit or structure.rows_total:
        why = "all rows are one unit, or the model draws its own, so that there is no q(z) over rows"
    elif structure.enumerates or structure.scored:
        sites = structure.summed_guide | structure.summed_model | structure.scored
        why = f"{', '.join(sorted(sites))} is discrete, or has no gradient through its draw"
    elif structure.points or structure.auxiliary:
        why = f"{', '.join(sorted(structure.points | structure.auxiliary))} has no density of its own in the guide"
    elif structure.labelled or structure.masked:
        why = f"{', '.join(sorted({*structure.labelled, *structure.masked}))} is observed or masked in some rows"
    elif structure.scaled & set(own):
        why = f"{', '.join(sorted(structure.scaled & set(own)))} is scaled by its program"
    elif not own:
        why = "no latent belongs to a row"
    if why is not None:
        raise UserError(
            f"{name} weighs parts of q(z), the posteriors of all rows together, but {why}: use a number as beta"
        )


def check_between(name: str, between: str) -> None:
    """Between what a total correlation is."""
    check_choice(f"{name}: between", between, ("entries", "sites"))
