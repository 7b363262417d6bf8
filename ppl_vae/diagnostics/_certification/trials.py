"""Rows that the model makes itself, on which a method is tried once, when it is first sure of a row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.diagnostics._certification.climb import Climb, planned
from ppl_vae.diagnostics._certification.methods import Method
from ppl_vae.diagnostics._certification.rows import Estimate, concatenated
from ppl_vae.diagnostics._certification.validation import Reference, Validation, reference, validated
from ppl_vae.diagnostics._evidence.bdmc import simulated_rows, simulated_unit
from ppl_vae.errors import UserError
from ppl_vae.saving.atomic import write_json
from ppl_vae.saving.locks import held
from ppl_vae.saving.reading import damaged

__all__ = ["Trials"]

UNITS = 20
"""So many data sets are simulated where all data are one unit, at most: each is certified by itself."""


class Trials:
    """How the errors of methods do on simulated rows.

    With a folder, what was found is kept there, so that of several processes, one after the other or together, one
    makes it and all take the same.

    Args:
        like: rows whose conditions and gaps the simulated ones have.
        count: how many are simulated; with 0 nothing is tried.
        seed: of the simulated rows, and of the draws for them.
        folder: where trials are kept.
    """

    def __init__(self, like: Split, count: int, seed: int, folder: Path | None = None) -> None:
        self.like, self.count, self.seed, self.folder = like, count, seed, folder
        self.untried = "" if count else "validate is 0"
        self.known: Reference | None = None

    def __call__(self, climb: Climb, method: Method, index: int) -> Validation:
        """How a method does."""
        if self.untried or self.folder is None:
            return self._made(climb, method, index)
        file = self.folder / f"trial-{method.name}.json"
        with held(self.folder, "ppl-vae certify", wait=math.inf):
            if file.is_file():
                with damaged(file, "delete it and certify again"):
                    return Validation(**json.loads(file.read_text(encoding="utf-8")))
            found = self._made(climb, method, index)
            if not found.untried and found.rows == self.count:  # else the time was up
                write_json(file, found.numbers())
            return found

    def _made(self, climb: Climb, method: Method, index: int) -> Validation:
        if self.like.is_one_unit and not self.untried:
            return self._of_units(climb, method, index)
        if not self.untried and self.known is None:
            try:
                self.split, self.latents = simulated_rows(climb.pair, self.like, self.count, seed=self.seed + 1)
            except UserError as reason:
                self.untried = str(reason)
        if self.untried:
            return Validation(untried=self.untried)
        asked = climb.asked._replace(seed=self.seed)
        with planned(climb.pair, self.split, asked) as plan:
            there = climb.on(plan, asked)
            self.known = self.known or self._reference(there, self.latents)
            estimate = there.estimated(method, index, torch.arange(len(self.split)))
        return validated(estimate, self.known.first(len(estimate.khat)), asked.accuracy)

    def _of_units(self, climb: Climb, method: Method, index: int) -> Validation:
        """Whole data sets, one after the other. The guide knows none of them: searches begin at the prior."""
        if method.by_guide:
            return Validation(untried="the guide is of these data alone")
        asked = climb.asked._replace(seed=self.seed)
        estimates: list[Estimate] = []
        known: list[Reference] = []
        for i in range(min(self.count, UNITS)):
            if estimates and asked.late:
                break
            try:
                unit, latents = simulated_unit(climb.pair, climb.plan.structure, self.like, seed=self.seed + 1 + i)
            except UserError as reason:
                return Validation(untried=str(reason))
            with planned(climb.pair, unit, asked) as plan:
                there = climb.on(plan, asked, "prior")
                known.append(self._reference(there, latents))
                estimates.append(there.estimated(method, index, torch.arange(1)))
        both = Reference(*(torch.cat(column) for column in zip(*(k.columns() for k in known), strict=True)))
        return replace(validated(concatenated(estimates), both, asked.accuracy), of="data sets")

    def _reference(self, there: Climb, latents: Mapping[str, Tensor]) -> Reference:
        split = there.plan.split
        exact = there.prior.placed(split.batch(), latents, 1)
        batches = torch.arange(len(split)).split(there.at_once)
        parts = []
        for i, some in enumerate(batches):
            there.seeded("reference", some)
            parts.append(reference(there.rows(some, len(batches) - i), exact[:, some]))
        return Reference(*(torch.cat(column) for column in zip(*(p.columns() for p in parts), strict=True)))
