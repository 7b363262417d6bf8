"""The ranks of latents that the model drew among the guide's draws for their rows, and their classes' probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ppl_vae.data import Schema
from ppl_vae.data.convert import missing_in
from ppl_vae.diagnostics._calibration.quantities import DENSITY, Quantities, Quantity, density_ranks
from ppl_vae.diagnostics._common.classes import class_probabilities, class_value, levels_of
from ppl_vae.diagnostics._common.simulation import (
    Simulated,
    drawings,
    entries,
    entry_names,
    log_joint,
    simulated,
    specific,
)
from ppl_vae.errors import UserError
from ppl_vae.evaluation.bridge import Bridge
from ppl_vae.evaluation.passes import Passes
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import Structure, sample_sites

__all__ = ["JOINT", "ClassRanks", "Tally", "joined", "ranked", "tallied"]

JOINT = "log p(x, z)"
"""The quantity of all latents together whose rank shows a wrong dependence between them."""

ClassRanks = tuple[np.ndarray, np.ndarray]
"""Probabilities [row, level] and true classes [row]."""


@dataclass
class Tally:
    """Of one site and some rows: draws below the truth and equal to it [row, entry], and what a class needs.

    `latent` are the rows in which the site was not observed. `alike` is whether the guide gives the probabilities
    `probs` [row, entry, level] whatever it draws for other latents: else only its draws, `counts`, say what they are.
    """

    names: list[str]
    truth: Tensor
    latent: Tensor
    levels: int = 0
    less: Tensor | Any = 0
    equal: Tensor | Any = 0
    counts: Tensor | Any = 0
    probs: Tensor | None = None
    alike: bool = True

    def add(self, values: Tensor, probs: Tensor | None = None) -> None:
        """Take in some draws [particle, row, entry] and the probabilities from which they came."""
        self.less = self.less + (values < self.truth).sum(0)
        self.equal = self.equal + (values == self.truth).sum(0)
        if self.levels:
            self.counts = self.counts + one_hot(values.long(), self.levels).sum(0)
            first = probs[0] if probs is not None and self.probs is None else self.probs
            self.alike = self.alike and first is not None and probs is not None and bool((probs == first).all())
            self.probs = first


def ranked(
    pair: Pair, plan: Passes, batch: Mapping[str, Tensor], own: Mapping[str, Quantity], bridge: Bridge | None
) -> dict[str, Tally]:
    """The tallies of some rows, by site; of all latents together that of `JOINT` and of the other quantities.

    With a `bridge`, the guide's density at given values is one of them.
    """
    structure, schema = plan.structure, plan.split.schema
    made = simulated(pair, structure, schema, batch)
    with preserved_randomness():  # the draws that are ranked do not depend on what is asked of them
        quantities = Quantities(structure, schema, made, own)
    tallies = tallied(pair, plan, made, specific(structure), quantities)
    if bridge is not None:
        latents = {name: site["value"] for name, site in made.sites.items() if name in structure.latents}
        with preserved_randomness():
            less, equal = density_ranks(bridge, made.batch, latents, plan.particles, plan.at_once)
        tallies[DENSITY] = _of_all(DENSITY, torch.zeros_like(less, dtype=torch.get_default_dtype()))
        tallies[DENSITY].less, tallies[DENSITY].equal = less.unsqueeze(-1), equal.unsqueeze(-1)
    return tallies


def tallied(
    pair: Pair, plan: Passes, made: Simulated, names: Sequence[str], quantities: Quantities | None = None
) -> dict[str, Tally]:
    """The tallies of simulated rows, of these latents and of all together."""
    structure, (batch, sites) = plan.structure, made
    true = log_joint(pair, structure, batch, {name: sites[name]["value"] for name in specific(structure)})
    tallies = {name: _tally(structure, name, sites[name], plan.split.schema, batch) for name in names}
    together = {JOINT: true.log_likelihood + true.log_prior} | (quantities(sites, 1) if quantities else {})
    tallies |= {name: _of_all(name, value[0]) for name, value in together.items()}
    for particles, drawn, parts in drawings(pair, structure, batch, plan.sizes()):
        for name in names:
            site = drawn.guide.nodes[name]
            values = entries(structure, site, class_value(site), particles)
            if not bool(torch.isfinite(values).all()):
                raise UserError(f"site {name!r}: the guide's draws are not finite for rows that the model simulated")
            classes = tallies[name].levels and levels_of(site["fn"])  # the guide may draw a class as a point
            tallies[name].add(values, class_probabilities(structure, site, particles) if classes else None)
        together = {JOINT: parts.log_likelihood + parts.log_prior}
        together |= quantities(sample_sites(drawn.guide), particles) if quantities else {}
        for name, value in together.items():
            tallies[name].add(value.unsqueeze(-1))
    return tallies


def _of_all(name: str, truth: Tensor) -> Tally:
    """An empty one of a function of all latents, whose true values are [row]."""
    return Tally([name], truth.unsqueeze(-1), torch.ones_like(truth, dtype=torch.bool))


def _tally(structure: Structure, name: str, site: Mapping[str, Any], schema: Schema, batch: Batch) -> Tally:
    """An empty one, with the truth of some simulated rows."""
    truth = entries(structure, site, class_value(site), 1)[0]
    latent = torch.ones(len(truth), dtype=torch.bool, device=truth.device)
    if structure.holes.get(name) == "held" and name in batch:
        latent = missing_in(schema[name].kind, batch[name]).reshape(len(latent), -1).any(1)
    names = entry_names(structure, site, class_value(site), name, 1)
    return Tally(names, truth, latent, levels_of(site["fn"]))


def joined(parts: list[dict[str, Tally]], draws: int) -> tuple[dict[str, Tensor], dict[str, ClassRanks], list[str]]:
    """Ranks by entry (-1 where it was observed), probabilities and true classes of classes; what was left out."""
    ranks: dict[str, Tensor] = {}
    classes: dict[str, ClassRanks] = {}
    notes = []
    for site, first in parts[0].items():
        latent, less, equal = (
            torch.cat([getattr(part[site], what) for part in parts]).cpu() for what in ("latent", "less", "equal")
        )
        if not bool(latent.any()):
            notes.append(f"{site} is observed in all rows and so no latent: hide it (-1, NaN) to test q")
            continue
        for i, name in enumerate(first.names):
            if first.levels:
                classes[name] = _labels([part[site] for part in parts], i, latent, draws)
            elif bool((equal[:, i] == draws).all()):
                continue  # a constant, such as the upper triangle of a matrix
            else:  # ties are broken at random, so that ranks of whole numbers are uniform too
                among = (torch.rand(len(latent)) * (equal[:, i] + 1)).long().clamp(max=draws)
                ranks[name] = torch.where(latent, less[:, i] + among, -1)
    return ranks, classes, notes


def _labels(tallies: list[Tally], entry: int, latent: Tensor, draws: int) -> ClassRanks:
    """Probabilities and true classes of the rows in which a class is latent.

    Where q(y | x) is known only by draws that depend on other latents, the probabilities are the shares of each class
    among the draws and the truth together: given these, the truth is any of them with the same probability, so that
    tests stay exact.
    """
    truth = torch.cat([t.truth[:, entry] for t in tallies]).long().cpu()
    if all(t.alike for t in tallies):
        probs = torch.cat([t.probs[:, entry] for t in tallies if t.probs is not None]).cpu()
    else:
        counts = torch.cat([t.counts[:, entry] for t in tallies]).cpu()
        probs = (counts + one_hot(truth, counts.shape[-1])).double() / (draws + 1)
    return probs[latent].double().numpy(), truth[latent].numpy()
