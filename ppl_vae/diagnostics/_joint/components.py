"""The components of a mixture: whether they may be exchanged, whether draws do it, and which of them are not there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from pyro import poutine
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ppl_vae.distributions import unwrapped
from ppl_vae.evaluation.joint_weights import joint_weights
from ppl_vae.evaluation.passes import Passes
from ppl_vae.evaluation.shared_draws import SharedDraws
from ppl_vae.programs.execution import traced
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import seed_draws
from ppl_vae.programs.structure import sample_sites
from ppl_vae.weights.completion import completed

__all__ = ["Components", "components_of"]

FEW = 20
"""Draws by which rows are shared out among components."""

ALIKE = 0.5
"""Components are alike if no number of theirs differs by more than so many of its deviations."""


@dataclass(frozen=True)
class Components:
    """What a discrete latent of the rows with a component for each of its values says.

    `shares` are the expected shares of the rows. `exchangeable` is whether another numbering has the same density, so
    that the posterior has as many modes as there are numberings; `switched` the share of draws numbered otherwise than
    most; `alike` are pairs of components that have the same numbers.
    """

    site: str
    rows: int
    shares: tuple[float, ...]
    exchangeable: bool
    switched: float
    alike: tuple[tuple[int, int], ...]

    @property
    def empty(self) -> tuple[int, ...]:
        """The components that have less than one row."""
        return tuple(i for i, share in enumerate(self.shares) if share * self.rows < 1)

    @property
    def words(self) -> str:
        """What to know of them."""
        said = []
        if self.empty:
            named = ", ".join(map(str, self.empty))
            said.append(
                f"component {named} of {self.site} has no rows: the mixture has collapsed; start again, restarts="
            )
        if self.alike:
            named = ", ".join(f"{i} and {j}" for i, j in self.alike)
            said.append(f"components {named} of {self.site} are alike: the mixture has collapsed, or fewer would do")
        if self.exchangeable and self.switched > 0.05:
            said.append(
                f"labels of {self.site} switch in {100 * self.switched:.0f}% of the draws: means of single components "
                "are averages over labels; order them in the model, or read what does not depend on labels"
            )
        elif self.exchangeable:
            lost = math.lgamma(len(self.shares) + 1)
            said.append(
                f"labels of {self.site} may be exchanged, and the guide holds one numbering of {len(self.shares)}!: "
                f"components can be read, and the log evidence lacks log {len(self.shares)}! = {lost:.2f}"
            )
        return "; ".join(said)


def components_of(pair: Pair, plan: Passes, shared: SharedDraws, chances: Tensor) -> tuple[Components, ...]:
    """The components of every discrete latent of the rows, by draws with these chances [particle]."""
    structure, batch = plan.structure, next(plan.batches())
    discrete = structure.summed_model | structure.summed_guide
    chosen = torch.multinomial(chances, 400, replacement=True)
    found = []
    for site in sorted(discrete - structure.global_latents):
        labels, levels = _labels(pair, plan, shared.at(chosen[:FEW]), batch, site)
        axes = {n: a for n, v in shared.of_model(structure).items() if (a := _axis(v, levels)) is not None}
        if levels < 2 or not axes:
            continue
        numbers = _numbers({n: shared.values[n][chosen] for n in axes}, axes)
        shares = tuple(float((labels == k).double().mean()) for k in range(levels))
        even = _exchangeable(pair, plan, shared.at(chosen[:1]), axes, batch)
        found.append(Components(site, len(plan.split), shares, even, _switched(numbers), _alike(numbers)))
    return tuple(found)


def _labels(pair: Pair, plan: Passes, shared: SharedDraws, batch: Batch, site: str) -> tuple[Tensor, int]:
    """Draws of a discrete latent, and how many values it has."""
    each = [completed(shared.at(k).held(pair), plan.structure, batch, 1) for k in torch.arange(len(shared)).split(1)]
    values = torch.stack([e.latents[site].flatten() for e in each])
    fn = unwrapped(each[0].sites[0][site]["fn"])
    levels = fn.probs.shape[-1] if hasattr(fn, "probs") and fn.probs.dim() and not fn.event_shape else 2
    return values, int(levels)


def _axis(value: Tensor, levels: int) -> int | None:
    """The first dim after that of particles that has one element for each component."""
    return next((i for i in range(1, value.dim()) if value.shape[i] == levels), None)


def _numbers(values: dict[str, Tensor], axes: dict[str, int]) -> Tensor:
    """The numbers of each component, standardised over draws and components, [draw, component, number]."""
    parts = [v.movedim(axes[n], 1).flatten(2) if v.dim() > 2 else v.unsqueeze(-1) for n, v in values.items()]
    whole = torch.cat([p.double().cpu() for p in parts], -1)
    return whole / (whole - whole.mean(0)).std((0, 1)).clamp(min=1e-12)


def _switched(numbers: Tensor) -> float:
    """The share of draws whose components are nearer to others of a typical draw than to their own."""
    middle = numbers.median(0).values
    nearest = (numbers - middle).square().sum((1, 2)).argmin()
    costs = (numbers[:, :, None] - numbers[nearest][None, None]).square().sum(-1)
    order = torch.tensor([linear_sum_assignment(cost.numpy())[1].tolist() for cost in costs])
    same = (order == torch.arange(order.shape[1])).all(1).double().mean()
    return float(1 - max(same, 1 - same) if order.shape[1] == 2 else 1 - same)


def _alike(numbers: Tensor) -> tuple[tuple[int, int], ...]:
    found = []
    count = numbers.shape[1]
    for i in range(count):
        for j in range(i + 1, count):
            apart = numbers[:, i] - numbers[:, j]
            if bool((apart.mean(0).abs() < ALIKE * apart.std(0).clamp(min=1e-12)).all()):
                found.append((i, j))
    return tuple(found)


def _exchangeable(pair: Pair, plan: Passes, shared: SharedDraws, axes: dict[str, int], batch: Batch) -> bool:
    """Whether the first two components may change places without a change of p(g) or of p(x | g)."""
    values = {n: v.clone() for n, v in shared.values.items()}
    for name, axis in axes.items():
        order = torch.arange(values[name].shape[axis], device=values[name].device)
        order[:2] = order[:2].flip(0)
        values[name] = values[name].index_select(axis, order)
    swapped = replace(shared, values=values)
    seed_draws(0)
    here = joint_weights(pair, plan, shared, 1).log_likelihood.sum()
    seed_draws(0)
    there = joint_weights(pair, plan, swapped, 1).log_likelihood.sum()
    prior = [_prior(pair, plan, s, batch) for s in (shared, swapped)]
    close = 1e-3 * (1 + abs(float(here)))
    return abs(float(here - there)) < close and abs(prior[0] - prior[1]) < 1e-3 * (1 + abs(prior[0]))


def _prior(pair: Pair, plan: Passes, shared: SharedDraws, batch: Batch) -> float:
    sites = sample_sites(traced(poutine.replay(pair.model, trace=shared.trace()), batch))
    names = plan.structure.global_latents & sites.keys()
    return sum(float(sites[n]["fn"].log_prob(sites[n]["value"]).sum()) for n in names)
