"""Where the posterior of what all rows share starts, and in which units it is trained: found before the first epoch.

A normal over the shared latents is led to the best bound by a few hundred steps over all rows, with several draws and
the gradient that has no noise at the optimum (sticking the landing). It begins at the Laplace approximation where
there is one, and at the prior's middle; of these and of `restarts` from draws of the prior the best bound is kept. Its
mean and Cholesky factor become centre and unit of the guide's own family (`SharedPosterior.begin`), whose step size is
then one in posterior deviations, whatever the scales of the model. Flows are trained on top of it for a while.

Only where the model has no parameters of its own: the posterior under a network that has not learned says nothing.

Source: Roeder et al. 2017, arXiv 1703.09194; Zhang et al. 2022, arXiv 2108.03782 (starting at the mode's curvature).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.autoguide.shared import SharedPosterior
from ppl_vae.autoguide.starting import drawn_start
from ppl_vae.autoguide.whitening import moved
from ppl_vae.bounds import ELBO
from ppl_vae.data import Split
from ppl_vae.errors import Finding, UserError
from ppl_vae.nn.flows import Flow
from ppl_vae.nn.heads import is_normal
from ppl_vae.programs.dependencies import dependencies
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import Structure
from ppl_vae.training._laplace import Density, Laplace, in_doubles, laplace
from ppl_vae.weights.psis import khat

__all__ = ["begin_shared"]

DRAWS, ALONE = 12, 4
"""Draws of a step, and of one whose programs run them one by one."""

JUDGED = 600
"""Draws by which starts are compared."""

NEAR, FAR = ((100, 0.05),), ((200, 0.1), (150, 0.1), (150, 0.03))
"""Rounds of (steps, step size) from a Laplace approximation, and from elsewhere; each in the units of the last one."""

NARROW_START = 0.1
"""The deviation at which a normal starts that is not from a Laplace approximation, in the model's own numbers."""

FLOW = (300, 5e-3)
"""The round of a family that is no normal, on top of the best one."""

NETWORKS = 5e-3
"""Step size of networks for the rows' own latents, which are trained along."""

GOOD = 0.5
"""k-hat at which a normal is so near the posterior that no other start is tried."""

LARGEST = 500
"""Numbers of which a Hessian is made, those of the rows' own latents included, at most."""

ROWS = 4000
"""Rows of a step, at most."""

NARROW = 0.7
"""Independent normals narrower than this share of the posterior's deviations are warned of."""


@dataclass
class Start:
    """Where a run begins: centre [d], unit of each block, the guide's state, and the bound there in nats."""

    centre: Tensor
    units: list[Tensor]
    state: dict[str, Tensor]
    bound: float
    khat: float


def begin_shared(pair: Pair, structure: Structure, train: Split, *, restarts: int, seed: int) -> tuple[Finding, ...]:
    """Give the shared latents of a generated guide their start; leave alone what has one, or can have none."""
    shared = _startable(pair, structure) if restarts else None
    if shared is None:
        return ()
    with preserved_randomness():
        torch.manual_seed(seed)
        return _Search(pair, shared, structure, train).best(restarts)


def _startable(pair: Pair, structure: Structure) -> SharedPosterior | None:
    guide = pair.guide.program
    shared = getattr(guide, "shared", None)
    if not isinstance(guide, GeneratedGuide) or not isinstance(shared, SharedPosterior) or not shared.blocks:
        return None
    learns = any(p.requires_grad for p in pair.model.parameters())
    frozen = not all(p.requires_grad for p in shared.parameters())
    moving = any(site.moving for site in shared.sites.values())
    drawn = structure.points | structure.scored
    if shared.started or learns or frozen or moving or drawn or structure.rows_total:
        return None
    wide = any(shared.unit(i).dim() == 1 and width > 500 for i, width in enumerate(shared.widths))
    return None if wide else shared


class _Search:
    """All starts of one pair, and the best of them."""

    def __init__(self, pair: Pair, shared: SharedPosterior, structure: Structure, train: Split) -> None:
        self.pair, self.shared, self.structure, self.train = pair, shared, structure, train
        self.initial = _copied(pair.guide)
        self.rows = len(train) if train.is_one_unit else min(len(train), ROWS)
        self.scale = len(train) / self.rows
        whole = Density(pair, structure, self._batch())
        one_by_one = bool(whole.own) and self.rows < len(train)
        self.has_density = whole.size <= LARGEST and not whole.is_mixed and not one_by_one
        self.networks = [p for p in pair.parameters() if all(p is not q for q in shared.parameters())]

    def best(self, restarts: int) -> tuple[Finding, ...]:
        """Find the best start and put the guide there."""
        first = self.shared.centre.clone()
        near = self._laplace(first)
        found = [] if near is None else self._from(*self._units(near), NEAR)
        if not found or found[0].khat > GOOD:
            found += self._far(first)
        for number in range(1, restarts):
            found += self._again(number)
        self.pair.guide.load_state_dict(self.initial)
        if not found:
            return ()
        best = max(found, key=lambda start: start.bound)
        self.pair.guide.load_state_dict(best.state)
        self.shared.begin(best.centre, best.units)
        self._train_family(best)
        return () if near is None else self._too_narrow(near)

    # -- starts ----------------------------------------------------------------------------------------------

    def _laplace(self, start: Tensor, held: Tensor | None = None) -> Laplace | None:
        if not self.has_density:
            return None
        batch = self._batch()
        with in_doubles(batch) as doubled:
            found = self._highest(doubled, start.double(), held)
        return found or self._highest(batch, start, held)  # programs with single-precision numbers of their own

    def _highest(self, batch: Batch, start: Tensor, held: Tensor | None) -> Laplace | None:
        """The Laplace approximation of the shared latents, those of the rows integrated out."""
        density, count = Density(self.pair, self.structure, batch, self.scale), len(start)
        more = start.new_zeros(density.size - count)
        held = None if held is None else torch.cat([held, more > 0])
        found = laplace(density, torch.cat([start, more]), held)
        return found and Laplace(found.mean[:count], found.covariance[:count, :count])

    def _scales(self) -> Tensor:
        """Which numbers are the scale, or another positive or bounded parameter, of other latents, [d].

        At their highest point they may be 0, with the latents that they spread all alike.
        """
        latents = [n for n in self.structure.latents if n not in self.structure.auxiliary]
        parents = dependencies(self.pair.model, self._batch(), latents)
        above = {name for latent in latents for name in parents[latent]}
        sites = [self.shared.sites[n] for block in self.shared.blocks for n in block.sites]
        return torch.cat([torch.full((s.width,), s.name in above and not s.is_real) for s in sites])

    def _far(self, start: Tensor) -> list[Start]:
        """From a point: of a hierarchy, from the Laplace approximation given its scales."""
        held = self._scales() if self.has_density else start > torch.inf
        near = self._laplace(start, held) if bool(held.any()) else None
        if near is not None:
            return self._from(*self._units(near), FAR)
        matrices = [self.shared.unit(i).dim() > 1 for i in range(len(self.shared.blocks))]
        sizes = zip(matrices, self.shared.widths, strict=True)
        units = [torch.eye(width) if matrix else torch.ones(width) for matrix, width in sizes]
        return self._from(start, units, FAR, NARROW_START)

    def _units(self, near: Laplace) -> tuple[Tensor, list[Tensor]]:
        """Centre and units of the normal over every block given the others, which is the best product of normals."""
        precision, units = torch.linalg.inv(near.covariance), []
        edges = [0, *torch.tensor(self.shared.widths).cumsum(0).tolist()]
        for place, (low, high) in enumerate(pairwise(edges)):
            own = precision[low:high, low:high]
            like = self.shared.unit(place)
            factor = torch.linalg.cholesky(torch.linalg.inv(own)) if like.dim() > 1 else own.diagonal().rsqrt()
            units.append(factor.to(like))
        return near.mean.to(self.shared.centre), units

    def _again(self, number: int) -> list[Start]:
        """A start from another draw of the prior."""
        drawn = drawn_start(self.pair.model, self._batch(), self.shared.sites, number)
        if drawn is None:
            return []
        near = self._laplace(drawn)
        return self._from(*self._units(near), NEAR) if near is not None else self._far(drawn)

    def _from(
        self, centre: Tensor, units: list[Tensor], rounds: tuple[tuple[int, float], ...], scale: float = 1.0
    ) -> list[Start]:
        """The best normal that is found from here; none where the bound is not finite, even with smaller steps."""
        for smaller in (1.0, 0.1):
            found = self._led(centre, units, [(steps, lr * smaller) for steps, lr in rounds], scale)
            if found is not None:
                return [found]
        return []

    def _led(self, centre: Tensor, units: list[Tensor], rounds: list[tuple[int, float]], scale: float) -> Start | None:
        self.pair.guide.load_state_dict(self.initial)
        for i, (steps, lr) in enumerate(rounds):
            normals = _Normals(self.shared, centre, units, 1.0 if i else scale)
            if not self._optimise(normals.base, [*normals.parameters()], steps, lr, normals.mean_of_last):
                return None
            centre, units = normals.absorbed()
        fixed = _Normals(self.shared, centre, units)
        bound, tail = self._judged(fixed.base)
        return Start(centre, units, _copied(self.pair.guide), bound, tail) if math.isfinite(bound) else None

    # -- steps -----------------------------------------------------------------------------------------------

    def _optimise(
        self,
        base: Callable[[int], Any] | None,
        parameters: list[nn.Parameter],
        steps: int,
        lr: float,
        each: Callable[[], None] | None = None,
        estimator: Any = "stl",
    ) -> bool:
        """Steps of Adam on the bound of all rows; whether the bound stayed finite. The rate falls like a cosine."""
        groups = [{"params": parameters, "lr": lr, "most": lr}]
        if self.networks:
            groups.append({"params": self.networks, "lr": NETWORKS, "most": min(NETWORKS, lr)})
        optimizer: Any = torch.optim.Adam(groups, betas=(0.9, 0.99))
        together = self.structure.broadcasts
        bound = ELBO(DRAWS if together else ALONE, estimator=estimator if together else "reparameterised")
        failed = 0
        for i in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = group["most"] * (0.02 + 0.98 * (1 + math.cos(math.pi * i / steps)) / 2)
            optimizer.zero_grad(set_to_none=True)
            try:
                with self._drawn_from(base):
                    weights = bound.weigh(self.pair, self.structure, self._batch(), scaled=True)
                    loss = -bound.total(bound.surrogate(weights), weights, self.scale)
            except (UserError, ValueError):
                return False
            if not bool(loss.isfinite()):
                failed += 1
                if failed > steps // 10 or not all(bool(p.isfinite().all()) for p in self.pair.guide.parameters()):
                    return False
                continue
            loss.backward()
            held = [p for p in parameters if p.grad is not None]
            nn.utils.clip_grad_norm_(held, 1e3 * len(held) ** 0.5)
            optimizer.step()
            if each is not None and i >= steps - steps // 3:
                each()
        return True

    def _drawn_from(self, base: Callable[[int], Any] | None) -> Any:
        return nullcontext() if base is None else self.shared.instead(base)

    @torch.no_grad()
    def _judged(self, base: Callable[[int], Any] | None) -> tuple[float, float]:
        """The bound of all rows in nats and k-hat of its weights, with the same draws for all starts."""
        torch.manual_seed(0)
        bound, size = ELBO(1), 50 if self.structure.broadcasts else 1
        count = JUDGED if self.structure.broadcasts else JUDGED // 4
        found, batch = [], self._batch()
        for _ in range(0, count, size):
            bound.particles = size
            with self._drawn_from(base):
                weights = bound.weigh(self.pair, self.structure, batch)
            total = self.scale * weights.log_weight.sum(1)
            found.append(total if weights.log_global is None else total + weights.log_global)
        logs = torch.cat(found).double()
        return float(logs.mean()), float(khat(logs[:, None]))

    def _batch(self) -> Batch:
        if self.rows == len(self.train) or self.train.is_one_unit:
            return self.train.batch(slice(0, len(self.train)))
        return self.train.batch(torch.randperm(len(self.train))[: self.rows].to(self.train.device))

    # -- the guide's own family ------------------------------------------------------------------------------

    def _train_family(self, best: Start) -> None:
        """Train a family that is no normal, as long as its bound gains by it."""
        fns = [head(self.shared.centre.new_zeros(0)) for head in self.shared.heads]
        if all(is_normal(fn) or isinstance(fn, dist.MultivariateNormal) for fn in fns):
            return
        before, (bound, _) = _copied(self.pair.guide), self._judged(None)
        flows = any(isinstance(fn, Flow) for fn in fns)
        estimator = "reparameterised" if flows else "stl"
        fine = self._optimise(None, [*self.shared.parameters()], *FLOW, estimator=estimator)
        if not fine or not self._judged(None)[0] > bound:
            self.pair.guide.load_state_dict(before)

    def _too_narrow(self, near: Laplace) -> tuple[Finding, ...]:
        """What is to be said of independent normals over latents that hang together."""
        if any(self.shared.unit(i).dim() > 1 for i in range(len(self.shared.blocks))):
            return ()
        narrowing = near.narrowing
        worst = int(narrowing.argmin())
        if float(narrowing[worst]) > NARROW:
            return ()
        names = [n for block in self.shared.blocks for n in block.sites for _ in range(self.shared.sites[n].width)]
        apart = near.correlation.clone().fill_diagonal_(0)
        other = int(apart[worst].abs().argmax())
        return (
            Finding(
                names[worst],
                f"mean field over shared latents that hang together: {names[worst]!r} and {names[other]!r} have "
                f"correlation {float(apart[worst, other]):.2f} (Laplace), and deviations come out as small as "
                f"{float(narrowing[worst]):.2f} of the posterior's",
                "take FullRank(model), or a flow, which are over all shared latents together",
                "warning",
            ),
        )


class _Normals(nn.Module):
    """One normal for each block, in units of where it starts: N(0, scale^2 I) at first."""

    def __init__(self, shared: SharedPosterior, centre: Tensor, units: list[Tensor], scale: float = 1.0) -> None:
        super().__init__()
        self.centres, self.units = centre.split(shared.widths), units
        self.loc = nn.ParameterList([torch.zeros_like(c) for c in self.centres])
        self.log_scale = nn.ParameterList([torch.full_like(c, math.log(scale)) for c in self.centres])
        full = [shared.unit(i).dim() > 1 for i in range(len(units))]
        self.below = nn.ParameterList(
            [c.new_zeros((len(c) * (len(c) - 1) // 2) if f else 0) for c, f in zip(self.centres, full, strict=True)]
        )
        self.full = full
        self.sums, self.count = [torch.zeros_like(p) for p in self.parameters()], 0

    def base(self, place: int) -> Any:
        """The distribution of a block's vector."""
        return moved(self._normal(place), self.centres[place], self.units[place])

    def _normal(self, place: int) -> Any:
        loc, scale = self.loc[place], self.log_scale[place].exp()
        if not self.full[place]:
            return dist.Normal(loc, scale).to_event(1)
        lower, size = torch.diag_embed(scale), len(loc)
        at = torch.tril_indices(size, size, -1, device=loc.device)
        lower = lower.index_put((at[0], at[1]), self.below[place] * scale[at[0]] * size**-0.5)
        return dist.MultivariateNormal(loc, scale_tril=lower)

    @torch.no_grad()
    def mean_of_last(self) -> None:
        """Take the parameters as they are now into the mean that `absorbed` goes by (Polyak averaging)."""
        self.count += 1
        for total, parameter in zip(self.sums, self.parameters(), strict=True):
            total += parameter

    @torch.no_grad()
    def absorbed(self) -> tuple[Tensor, list[Tensor]]:
        """Centre and units of the normals as they are now."""
        if self.count:
            for total, parameter in zip(self.sums, self.parameters(), strict=True):
                parameter.copy_(total / self.count)
        centres, units = [], []
        for place in range(len(self.units)):
            fn = self.base(place)
            if self.full[place]:
                centres.append(fn.loc)
                units.append(fn.scale_tril)
            else:
                centres.append(fn.base_dist.loc)
                units.append(fn.base_dist.scale)
        return torch.cat(centres), units


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
