"""Functions of all latents together that are ranked beside the single ones: what a test of marginals cannot see."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ppl_vae.data import Schema
from ppl_vae.diagnostics._common.features import matrices
from ppl_vae.diagnostics._common.simulation import Simulated, entries
from ppl_vae.distributions import is_discrete
from ppl_vae.errors import UserError, shown
from ppl_vae.evaluation.bridge import Bridge
from ppl_vae.programs.program import Batch
from ppl_vae.programs.structure import Structure, TraceSites
from ppl_vae.weights.completion import expanded

__all__ = ["DENSITY", "DISTANCE", "Quantities", "Quantity", "checked", "density_ranks"]

DISTANCE = "distance to a random point"
"""TARP's test quantity."""

DENSITY = "log q(z | x)"
"""Whose ranks are the coverage of regions of highest density."""

Quantity = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
"""From latents by site [draw, row, ...] and the rows' fields to a number for each, [draw, row]."""


def checked(quantities: Mapping[str, Quantity] | None) -> dict[str, Quantity]:
    """A user's quantities, or a UserError where they are not functions by name."""
    found = dict(quantities or {}) if isinstance(quantities, Mapping | None) else None
    if found is None or not all(isinstance(n, str) and callable(f) for n, f in found.items()):
        raise UserError(f"quantities must be functions by name, such as {{'radius': f}}, got {shown(quantities)}")
    return found


class Quantities:
    """Of simulated rows the true value of every quantity, and those of draws.

    One is always among them where there are continuous latents: the distance of all of them, in units of their prior
    deviation, to a random point that depends on the row, a random linear map of its features. Its ranks are uniform for
    the exact posterior and, unlike those of single latents, not for a prior that forgets which row it is of.

    Source: Lemos et al. 2023, arXiv 2302.03026 (TARP).
    """

    def __init__(self, structure: Structure, schema: Schema, made: Simulated, own: Mapping[str, Quantity]) -> None:
        self.structure, self.own, self.batch = structure, own, made.batch
        self.names = [n for n in made.sites if self._is_moved(n, made.sites)]
        truth = {n: entries(structure, made.sites[n], made.sites[n]["value"], 1)[0] for n in self.names}
        self.unit = {n: self._deviation(v) for n, v in truth.items()}
        self.point = {n: self._point(schema, v) for n, v in truth.items()}

    def _is_moved(self, name: str, sites: TraceSites) -> bool:
        return name in self.structure.latents and not is_discrete(sites[name]["fn"])

    def _point(self, schema: Schema, like: Tensor) -> Tensor:
        """A point for every row, [row, entry]: about the prior's mean, as far from it as its draws are."""
        features = matrices(list(schema), self.batch)[0].to(like)
        directions = torch.randn(features.shape[1], like.shape[1], dtype=like.dtype, device=like.device)
        away = features @ directions / max(features.shape[1], 1) ** 0.5
        return like.mean(0) + self._deviation(like) * away

    @staticmethod
    def _deviation(values: Tensor) -> Tensor:
        return values.std(0).clamp(min=1e-6) if len(values) > 1 else torch.ones_like(values[0])

    def __call__(self, sites: TraceSites, particles: int) -> dict[str, Tensor]:
        """The value of every quantity, [particle, row]."""
        found = {}
        if self.names:
            squares = torch.zeros(())
            for name in self.names:
                value = entries(self.structure, sites[name], sites[name]["value"], particles)
                squares = squares + ((value - self.point[name]) / self.unit[name]).square().sum(-1)
            found[DISTANCE] = squares.sqrt()
        if self.own:
            latents = {n: self._by_row(sites[n], particles) for n in self.structure.latents if n in sites}
            for name, function in self.own.items():
                value = function(latents, self.batch)
                rows = len(next(iter(self.batch.values())))
                if not isinstance(value, Tensor) or value.shape != (particles, rows):
                    raise UserError(
                        f"quantity {name!r} must give a number for each draw and row, [{particles}, {rows}], got "
                        f"{tuple(value.shape) if isinstance(value, Tensor) else shown(value)}"
                    )
                found[name] = value
        return found

    def _by_row(self, site: Mapping[str, object], particles: int) -> Tensor:
        whole = expanded(self.structure, site, site["value"], particles)  # type: ignore[arg-type]
        whole = whole.movedim(self.structure.dim - site["fn"].event_dim, 1)  # type: ignore[attr-defined]
        empty = [i for i in range(2, 1 + self.structure.nesting) if whole.shape[i] == 1]
        return whole.squeeze(empty) if empty else whole


def density_ranks(
    bridge: Bridge, batch: Batch, latents: Mapping[str, Tensor], draws: int, at_once: int
) -> tuple[Tensor, Tensor]:
    """How many of `draws` fresh draws of the guide have a density below that of the truth, and the same, [row] each.

    The rank of a truth's density tells in which region of highest density of q it lies, so that uniform ranks are
    coverage of every such region. Densities are those of unconstrained continuous latents, labels summed out.

    Source: Hermans et al. 2022, arXiv 2110.06581.
    """
    known = bridge.densities(batch, bridge.placed(batch, latents, 1), 1)[0]
    less, equal = torch.zeros_like(known[0], dtype=torch.long), torch.zeros_like(known[0], dtype=torch.long)
    for start in range(0, draws, at_once):
        u = bridge.drawn(batch, min(at_once, draws - start))
        values = bridge.densities(batch, u, -(-draws // at_once))[0]
        less, equal = less + (values < known).sum(0), equal + (values == known).sum(0)
    return less, equal
