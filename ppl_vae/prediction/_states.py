"""What the states are that a model sums out: smoothed probabilities, draws, and the likeliest path, given the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.checks.analysis import analyse
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.prediction._prediction import Prediction
from ppl_vae.prediction.sharing import held_pair
from ppl_vae.programs.dependencies import dependencies
from ppl_vae.programs.execution import run
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure, frames
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.masks import counting
from ppl_vae.weights.states import Chosen, drawn_values, likeliest_values, probabilities_of
from ppl_vae.weights.value_sums import ValueSums

__all__ = ["States", "find_states"]


@dataclass(frozen=True)
class States:
    """The latents that are asked for, in the order of the model, and how they are laid out.

    Attributes:
        pair: the programs.
        structure: what was read of them.
        field: the name or pattern that was asked.
        names: of the latents; with one alone there is no dim of steps.
        levels: how many values each has.
        below: of every latent of the model that is summed out, the sites that depend on it.
        draws: how many.
    """

    pair: Pair
    structure: Structure
    field: str
    names: tuple[str, ...]
    levels: int
    below: Mapping[str, tuple[str, ...]]
    draws: int

    def some(self, held: Sequence[Trace], batch: Batch) -> Prediction:
        """The states of a batch of rows: averages over the draws of what the guide draws, exact given each."""
        probs: Any = 0.0
        drawn, paths = [], []
        for shared in held:
            pair = held_pair(self.pair, shared)
            sums = ValueSums(Factors(run(pair, self.structure, batch)))
            counts = counting(sums.of.model_sites, self.below)
            marginal = probabilities_of(sums, self.names)
            there = self._stacked({n: self._by_row(sums, n, _mask(counts, n)) for n in marginal}, 0) > 0
            each = {n: self._by_row(sums, n, value, 1).movedim(0, -1) for n, value in marginal.items()}
            probs = probs + self._stacked(each, torch.nan).where(there.unsqueeze(-1), torch.nan) / len(held)
            best = self._stacked(self._values(sums, likeliest_values(sums, counts)), -1).where(there, -1)
            for _ in range(self.draws // len(held)):
                drawn.append(self._stacked(self._values(sums, drawn_values(sums)), -1).where(there, -1))
                paths.append(best)
        return Prediction(self.field, torch.stack(drawn), probs=probs, paths=torch.stack(paths))

    def _values(self, sums: ValueSums, chosen: Chosen) -> dict[str, Tensor]:
        symbols = sums.symbols(sums.of.all)
        return {n: self._by_row(sums, n, chosen[symbols[n]]) for n in self.names if n in symbols}

    def _by_row(self, sums: ValueSums, name: str, value: Tensor, front: int = 0) -> Tensor:
        """What a run says of a latent, with the dims of its own plates alone, rows first, behind `front` dims."""
        depth, plates = self.structure.nesting, frames(sums.summed_site(name))
        sizes = [1] * depth
        for frame in plates:
            sizes[int(frame.dim or 0)] = frame.size
        first, own = value.shape[:front], value.shape[front:][-depth:] if depth else ()
        value = value.reshape(*first, *(1,) * (depth - len(own)), *own).expand(*first, *sizes)
        row = next((int(f.dim or 0) for f in plates if f.name in self.structure.row_plates), None)
        inner = sorted(int(f.dim or 0) for f in plates if f.name not in self.structure.row_plates)
        kept = inner if row is None else [row, *inner]  # all data as one unit are one row
        none = [d for d in range(-depth, 0) if d not in kept]
        value = value.permute(*range(front), *(value.dim() + d for d in (*none, *kept)))
        value = value.reshape(*first, *value.shape[front + len(none) :])
        return value.unsqueeze(front) if row is None else value

    def _stacked(self, values: Mapping[str, Tensor], fill: float) -> Tensor:
        some = next(iter(values.values()))
        each = [values.get(name, torch.full_like(some, fill)) for name in self.names]
        return torch.stack(each, 1) if "*" in self.field else each[0]


def _mask(counts: Mapping[str, Tensor | None], name: str) -> Tensor:
    mask = counts.get(name)
    return torch.ones((), dtype=torch.long) if mask is None else mask.long()


def find_states(pair: Pair, batch: Batch, field: str, draws: int) -> States:
    """The latents of this name or pattern that are summed out.

    Raises:
        UserError: for a name or pattern of none, or of latents with different values or plates.
    """
    structure = analyse(pair, batch)
    finite = structure.summed_model | structure.summed_guide
    if not any(fnmatchcase(name, field) for name in finite):
        raise unknown_name("latent that is summed out", field, sorted(finite))
    first = ValueSums(Factors(run(pair, structure, batch)))
    order = [n for n in first.of.model_sites if n in finite]
    names = tuple(n for n in order if fnmatchcase(n, field))
    shapes = {
        n: (tuple(f.name for f in frames(first.summed_site(n))), len(first.summed_site(n)["value"])) for n in names
    }
    if odd := [n for n in names if shapes[n] != shapes[names[0]]]:
        raise UserError(f"{field!r} names states of several kinds, {names[0]} and {odd[0]}: ask for one kind at a time")
    holes = Holes(structure.holes, structure.latents, batch)
    parents = dependencies(holes(pair.model), batch, [*first.of.model_sites])
    summed = structure.summed_model | structure.summed_guide
    below = {n: tuple(site for site, above in parents.items() if n in above) for n in summed}
    return States(pair, structure, field, names, shapes[names[0]][1], below, draws)
