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
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.autoguide.shared import SharedPosterior
from ppl_vae.autoguide.starting import drawn_start
from ppl_vae.data import Split
from ppl_vae.errors import Finding
from ppl_vae.nn.flows import Flow
from ppl_vae.nn.heads import is_normal
from ppl_vae.programs.dependencies import dependencies
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.structure import Structure
from ppl_vae.training._laplace import Density, Endless, LaplaceApproximation, in_doubles, laplace
from ppl_vae.training._start_bound import ALONE, StartBound
from ppl_vae.training._start_normals import Normals
from ppl_vae.training._start_patience import Patience

__all__ = ["begin_shared"]

NEAR, FAR = ((100, 0.05),), ((200, 0.1), (150, 0.1), (150, 0.03))
"""Rounds of (steps, step size) from a Laplace approximation, and from elsewhere; each in the units of the last one."""

NARROW_START = 0.1
"""The deviation at which a normal starts that is not from a Laplace approximation, in the model's own numbers."""

FLOW = (300, 5e-3)
"""The round of a family that is no normal, on top of the best one."""

GOOD = 0.5
"""k-hat at which a normal is so near the posterior that no other start is tried."""

LARGEST = 500
"""Numbers of which a Hessian is made, those of the rows' own latents included, at most."""

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


def begin_shared(
    pair: Pair,
    structure: Structure,
    train: Split,
    *,
    restarts: int,
    seed: int,
    say: Callable[[str], None] | None = None,
) -> tuple[Finding, ...]:
    """Give the shared latents of a generated guide their start; leave alone what has one, or can have none."""
    shared = _startable(pair, structure) if restarts else None
    if shared is None:
        return ()
    with preserved_randomness():
        seed_draws(seed)
        return _Search(pair, shared, structure, train, Patience(structure, ALONE, say)).best(restarts)


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

    def __init__(
        self, pair: Pair, shared: SharedPosterior, structure: Structure, train: Split, patience: Patience
    ) -> None:
        self.pair, self.shared, self.structure, self.patience = pair, shared, structure, patience
        self.initial, self.normals = _copied(pair.guide), Normals(shared)
        self.bound = StartBound(pair, shared, structure, train, patience)
        whole = Density(pair, structure, self.bound.batch())
        one_by_one = bool(whole.own) and self.bound.rows < len(train)
        self.has_density = whole.size <= LARGEST and not whole.is_mixed and not one_by_one

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
            return self.patience.findings()
        best = max(found, key=lambda start: start.bound)
        self.pair.guide.load_state_dict(best.state)
        self.shared.begin(best.centre, best.units)
        self._train_family(best)
        return self.patience.findings() + (() if near is None else self._too_narrow(near))

    # -- starts ----------------------------------------------------------------------------------------------

    def _laplace(self, start: Tensor, held: Tensor | None = None) -> LaplaceApproximation | None:
        if not self.has_density:
            return None
        batch = self.bound.batch()
        with suppress(Endless):  # there is no highest point in any precision
            with in_doubles(batch) as doubled:
                found = self._highest(doubled, start.double(), held)
            return found or self._highest(batch, start, held)  # programs with single-precision numbers of their own
        return None

    def _highest(self, batch: Batch, start: Tensor, held: Tensor | None) -> LaplaceApproximation | None:
        """The Laplace approximation of the shared latents, those of the rows integrated out."""
        density, count = Density(self.pair, self.structure, batch, self.bound.scale), len(start)
        more = start.new_zeros(density.size - count)
        held = None if held is None else torch.cat([held, more > 0])
        found = laplace(density, torch.cat([start, more]), held, self.patience)
        return found and LaplaceApproximation(found.mean[:count], found.covariance[:count, :count])

    def _scales(self) -> Tensor:
        """Which numbers are the scale, or another positive or bounded parameter, of other latents, [d].

        At their highest point they may be 0, with the latents that they spread all alike.
        """
        latents = [n for n in self.structure.latents if n not in self.structure.auxiliary]
        parents = dependencies(self.pair.model, self.bound.batch(), latents)
        above = {name for latent in latents for name in parents[latent]}
        sites = [self.shared.sites[n] for block in self.shared.blocks for n in block.sites]
        return torch.cat([torch.full((s.width,), s.name in above and not s.is_real) for s in sites])

    def _far(self, start: Tensor) -> list[Start]:
        """From a point: of a hierarchy, from the Laplace approximation given its scales; where that misleads, without.

        Given its scales a series may be highest where its states are all alike, from which no step leads back.
        """
        held = self._scales() if self.has_density else start > torch.inf
        near = self._laplace(start, held) if bool(held.any()) else None
        found = [] if near is None else self._from(*self._units(near), FAR)
        if found and found[0].khat <= GOOD:
            return found
        matrices = [self.shared.unit(i).dim() > 1 for i in range(len(self.shared.blocks))]
        sizes = zip(matrices, self.shared.widths, strict=True)
        units = [torch.eye(width) if matrix else torch.ones(width) for matrix, width in sizes]
        return found + self._from(start, units, FAR, NARROW_START)

    def _units(self, near: LaplaceApproximation) -> tuple[Tensor, list[Tensor]]:
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
        drawn = drawn_start(self.pair.model, self.bound.batch(), self.shared.sites, number)
        if drawn is None:
            return []
        near = self._laplace(drawn)
        return self._from(*self._units(near), NEAR) if near is not None else self._far(drawn)

    def _from(
        self, centre: Tensor, units: list[Tensor], rounds: tuple[tuple[int, float], ...], scale: float = 1.0
    ) -> list[Start]:
        """The best normal that is found from here; none where the bound is not finite, even with smaller steps."""
        planned = self.patience.rounds(rounds, far=rounds is FAR)
        for smaller in (1.0, 0.1) if planned else ():
            found = self._led(centre, units, [(steps, lr * smaller) for steps, lr in planned], scale)
            if found is not None:
                return [found]
        return []

    def _led(self, centre: Tensor, units: list[Tensor], rounds: list[tuple[int, float]], scale: float) -> Start | None:
        self.pair.guide.load_state_dict(self.initial)
        normals = self.normals
        for i, (steps, lr) in enumerate(rounds):
            normals.begin(centre, units, 1.0 if i else scale)
            if not self.bound.optimise(normals, [*normals.parameters()], steps, lr, normals.mean_of_last):
                return None
            centre, units = normals.absorbed()
        normals.begin(centre, units)
        bound, tail = self.bound.judged(normals)
        return Start(centre, units, _copied(self.pair.guide), bound, tail) if math.isfinite(bound) else None

    # -- the guide's own family ------------------------------------------------------------------------------

    def _train_family(self, best: Start) -> None:
        """Train a family that is no normal, as long as its bound gains by it."""
        fns = [head(self.shared.centre.new_zeros(0)) for head in self.shared.heads]
        if all(is_normal(fn) or isinstance(fn, dist.MultivariateNormal) for fn in fns):
            return
        if self.patience.is_over():
            return
        before, (bound, _) = _copied(self.pair.guide), self.bound.judged(None)
        flows = any(isinstance(fn, Flow) for fn in fns)
        estimator = "reparameterised" if flows else "stl"
        (steps, lr), *_ = self.patience.rounds((FLOW,), far=False)
        fine = self.bound.optimise(None, [*self.shared.parameters()], steps, lr, estimator=estimator)
        if not fine or not self.bound.judged(None)[0] > bound:
            self.pair.guide.load_state_dict(before)

    def _too_narrow(self, near: LaplaceApproximation) -> tuple[Finding, ...]:
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


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
