"""Rows that a model makes in the place of observed ones: from its prior, or from latents of the very rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.checks.row_plates import row_plates
from ppl_vae.data import Field, Split
from ppl_vae.data.convert import missing_in
from ppl_vae.diagnostics._common.simulation import contiguous
from ppl_vae.errors import NoDensity, UserError
from ppl_vae.evaluation.passes import FLOATS_AT_ONCE, Passes
from ppl_vae.evaluation.shared_draws import SharedDraws, completed_given
from ppl_vae.prediction.filling import Target, observing
from ppl_vae.programs.density import is_improper
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Pair, Program
from ppl_vae.programs.simulating import unobserved
from ppl_vae.programs.structure import frames, sample_sites
from ppl_vae.weights.completion import completed

__all__ = ["FromGuide", "FromPrior", "Rows"]

ROWS_AT_ONCE = 2000
"""How many rows are made in one run of the model."""

Rows = dict[str, Tensor]


class _Part(NamedTuple):
    batch: dict[str, Tensor]
    targets: list[Target]


class _Replicas:
    """What both ways have in common: batches of rows, the sites that observe their fields, and which fields count."""

    def __init__(self, split: Split, parts: list[_Part]) -> None:
        self.parts = parts
        generated = {target.name for target in parts[0].targets}
        self.fields: tuple[Field, ...] = tuple(
            field
            for field in split.schema
            if field.name in generated and not bool(missing_in(field.kind, split[field.name]).all())
        )
        if not self.fields:
            raise UserError(
                f"the model generates none of the fields {', '.join(split.schema.names)} that the rows have: "
                "observe one of them with obs=, whole or some of its columns"
            )

    @property
    def observed(self) -> Rows:
        """The rows themselves, as the replicas are to be compared with them."""
        return {f.name: torch.cat([part.batch[f.name] for part in self.parts]) for f in self.fields}

    def placed(self, part: _Part, drawn: dict[Target, Tensor]) -> Rows:
        """Draws [row, ...] of the sites as fields [row, *S]; what is not generated, or missing, stays as it is."""
        rows = {field.name: part.batch[field.name].clone() for field in self.fields}
        for target, values in drawn.items():
            if target.name in rows:
                stored = rows[target.name]
                place, inside = target.spread(values.to(stored.dtype))
                seen = ~missing_in(target.field.kind, target.stored)
                rows[target.name] = torch.where(inside & seen, place, stored)
        return rows


class FromPrior(_Replicas):
    """Replicas z ~ p(z), x ~ p(x | z), one for each row: conditions and missing entries are those of the row.

    What all rows share is at one of the draws `shared` from its posterior, the same for all rows of a data set.

    Raises:
        UserError: for latents shared by all rows without these.
        NoDensity: for an improper prior.
    """

    def __init__(self, model: Program, split: Split, shared: SharedDraws | None = None) -> None:
        self.model, self.shared = model, shared
        batches = [
            contiguous(split.batch(slice(start, start + ROWS_AT_ONCE))) for start in range(0, len(split), ROWS_AT_ONCE)
        ]
        holes = Holes(None, batch=batches[0])
        sites = sample_sites(traced(holes(model), batches[0]))
        plates = row_plates(sites, len(next(iter(batches[0].values()))))
        names, dim = {f.name for f in plates}, int(plates[0].dim or -1)
        latent = {name: site for name, site in sites.items() if not site["is_observed"]}
        inside = {name for name, site in sites.items() if any(f.name in names for f in frames(site))}
        if flat := [n for n, site in latent.items() if is_improper(site["fn"]) and (n in inside or shared is None)]:
            raise NoDensity(
                f"no samples: the prior of site {', '.join(flat)} is improper, and nothing can be drawn from it: "
                "train a VAE"
            )
        if shared is None and (common := sorted(name for name in latent if name not in inside)):
            raise UserError(
                f"{', '.join(common)} is shared by all rows, and a sample of the model is one for one value of it, "
                "which nobody knows, so that a row and its sample are not exchangeable: see diagnostics."
                "predictive_check(..., posterior=), whose data sets have one draw of it each, or make it a parameter"
            )
        super().__init__(
            split, [_Part(b, observing(model, Holes(None, batch=b), dim, split.schema, b)) for b in batches]
        )

    def draws(self, count: int) -> Iterator[Rows]:
        """So many data sets of as many rows."""
        for i in range(count):
            yield _joined([self._some(part, i) for part in self.parts])

    def _some(self, part: _Part, number: int) -> Rows:
        program = unobserved()(self.model)
        if self.shared is not None:
            program = poutine.replay(program, trace=self.shared.at(torch.tensor([number])).trace())
        sites = sample_sites(traced(program, part.batch))
        return self.placed(part, {target: target.draw(sites)[0] for target in part.targets})


class FromGuide(_Replicas):
    """Replicas z ~ q(z | x_i), x ~ p(x | z), one for each row x_i; discrete latents are drawn given the others.

    A label that the guide draws where it is missing is a latent, and is not replicated. What all rows share is at one
    of the draws `shared`, as in `FromPrior`.
    """

    def __init__(self, pair: Pair, plan: Passes, shared: SharedDraws | None = None) -> None:
        self.pair, self.plan, self.shared = pair, plan, shared
        parts = []
        for start in range(0, len(plan.split), plan.rows):
            batch = contiguous(plan.split.batch(slice(start, start + plan.rows)))
            holes = Holes(plan.structure.holes, plan.structure.latents, batch)
            targets = observing(pair.model, holes, plan.structure.dim, plan.split.schema, batch)
            held = {name for name, what in plan.structure.holes.items() if what == "held"}
            parts.append(_Part(batch, [t for t in targets if t.site not in held]))
        super().__init__(plan.split, parts)

    def draws(self, count: int) -> Iterator[Rows]:
        """So many data sets of as many rows."""
        size = sum(field.size for field in self.fields) * len(self.plan.split)
        at_once = max(1, min(self.plan.at_once, FLOATS_AT_ONCE // size))
        for start in range(0, count, at_once):
            yield from self._chunk(start, min(at_once, count - start))

    def _chunk(self, start: int, particles: int) -> Iterator[Rows]:
        each, structure = [], self.plan.structure
        for part in self.parts:
            if self.shared is None:
                sites = completed(self.pair, structure, part.batch, particles).sites
            else:
                some = self.shared.at(torch.arange(start, start + particles))
                sites = completed_given(self.pair, structure, part.batch, some).sites
            drawn = {target: torch.cat([target.draw(s) for s in sites]) for target in part.targets}
            each.append([self.placed(part, {t: v[k] for t, v in drawn.items()}) for k in range(particles)])
        for parts in zip(*each, strict=True):
            yield _joined(parts)


def _joined(parts: Iterable[Rows]) -> Rows:
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
