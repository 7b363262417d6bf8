"""A pair read once, on a few rows: what it is made of, and what is wrong with it. Everything later goes by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyro
import torch

from ppl_vae.checks import row_plates
from ppl_vae.checks.analysis import Observation, contract_checks, is_generated, observe, read
from ppl_vae.checks.independence import coupled_rows
from ppl_vae.checks.ownership import unowned
from ppl_vae.checks.particles import try_particles
from ppl_vae.checks.support import check_support
from ppl_vae.checks.warnings import warnings_of
from ppl_vae.data import OneUnit, Split, units_in
from ppl_vae.data.example import example, without_extremes
from ppl_vae.errors import Finding, ProgramError, UserError, one_unit_words
from ppl_vae.programs.execution import check_sites
from ppl_vae.programs.failures import all_rows_alone
from ppl_vae.programs.modes import kept_buffers
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import Structure

__all__ = ["PairReading", "read_pair"]

ROWS = 8
"""So many rows tell what a pair is made of."""

MORE_ROWS = 64
"""So many rows, one after the other, tell whether they look at each other."""


@dataclass(frozen=True)
class PairReading:
    """What was read of a pair: the rows it was run on, its structure (None where that cannot be told), the findings."""

    batch: Batch
    structure: Structure | None = None
    seen: Observation | None = None
    findings: tuple[Finding, ...] = field(default_factory=tuple)

    def sound(self) -> Structure:
        """The structure of a pair without errors.

        Raises:
            ProgramError: the first error that was found.
        """
        for finding in self.findings:
            if finding.severity == "error":
                raise ProgramError(finding.site, finding.problem, finding.remedy)
        if self.structure is None:
            raise ProgramError(None, "the pair cannot be read", "see ppl_vae.check(model, guide, data)")
        return self.structure


def read_pair(pair: Pair, split: Split) -> PairReading:
    """Run a pair a few times on a few rows, and say what it is made of and what is wrong with it.

    Once as it is, once for two particles, once for one of them alone, once on fewer rows, twice on more of them: each
    program six times, and more often only where there is something that asks for it.
    """
    with preserved_randomness(), pyro.validation_enabled(False), kept_buffers(pair):
        batch, seen, failure = _run_on_some(pair, split)
        if seen is None:
            return PairReading(batch, findings=(_finding(failure),))  # type: ignore[arg-type]
        errors = list(_errors(pair, batch, seen, split))
        if errors:
            return PairReading(batch, None, seen, tuple(errors))
        try:
            with torch.no_grad():
                structure = read(pair, batch, seen)
            structure, drawn = try_particles(pair, batch, structure)
        except UserError as error:
            return PairReading(batch, None, seen, (_finding(error),))
        findings = [
            *coupled_rows(pair, batch, drawn, None if split.is_one_unit else split.batch(slice(0, MORE_ROWS))),
            *_other_rows(pair, batch, structure),
            *unowned(pair, batch, drawn),
            *warnings_of(pair, batch, structure, drawn),
        ]
        return PairReading(batch, structure, seen, tuple(findings))


def _run_on_some(pair: Pair, split: Split) -> tuple[Batch, Observation | None, UserError | None]:
    """One run on a few rows; on all of them for a model that subsamples its rows itself, and fails on a few."""
    batch: Batch = example(split.schema, split, ROWS)
    failure: UserError | None = None
    for some in (batch, None):
        try:
            with torch.no_grad():
                rows = split.batch() if some is None else some
                seen = observe(pair, rows)
                if some is None and not any(_subsampled(seen)):
                    failure = all_rows_alone(failure, len(split), units_in(batch))
                    break
                return rows, seen, None
        except UserError as error:
            failure = failure or error
        if len(split) <= ROWS or isinstance(split, OneUnit):
            break
    return batch, None, failure


def _subsampled(seen: Observation) -> Iterator[bool]:
    for site in seen.model.values():
        yield any(f.full_size not in (None, f.size) for f in site["cond_indep_stack"])


def _finding(error: UserError) -> Finding:
    if isinstance(error, ProgramError):
        return Finding(error.site, error.problem, error.remedy)
    problem, _, remedy = str(error).partition("; ")
    return Finding(None, problem, remedy or "see the message")


def _errors(pair: Pair, batch: Batch, seen: Observation, split: Split) -> Iterator[Finding]:
    """Every check of the contract on its own, so that one mistake does not hide another."""
    try:
        if not row_plates.informative(seen.model) or not split.is_one_unit:
            row_plates.row_plates(seen.model, seen.rows)
        check_support(seen.values, batch, split)  # first: other checks stumble over such values
    except UserError as error:
        yield _finding(error)
        return
    said: set[str | None] = set()
    for run_check in contract_checks(pair, batch, seen, follows=is_generated(pair)):
        try:
            with torch.no_grad():
                run_check()
        except ProgramError as error:
            if error.site not in said:  # what follows from the first mistake at a site says nothing new
                said.add(error.site)
                yield _finding(error)


def _other_rows(pair: Pair, batch: Batch, structure: Structure) -> Iterator[Finding]:
    """The pair on fewer rows, the longest left out: a plate of the size of the first batch fails, new sites show."""
    rows = 0 if structure.rows_total or structure.is_one_unit else len(next(iter(batch.values())))
    if rows < 2:
        return
    fewer = without_extremes(batch)
    try:
        with torch.no_grad():
            seen = observe(pair, fewer)
            for check in contract_checks(pair, fewer, seen, more=True):
                check()
            for role, sites in seen.programs:
                check_sites(structure, role, sites)
    except UserError as error:
        few = len(next(iter(fewer.values())))
        yield Finding(
            structure.plate,
            f"the programs run on {rows} rows but not on {few} (plate {structure.plate!r} or some tensor has the size "
            f"of the batch, or sites follow the rows): {error.problem if isinstance(error, ProgramError) else error}",
            f"size everything by the rows that came, pyro.plate({structure.plate!r}, len(x)): batch size belongs to "
            f"inference; or take all data as one unit, {one_unit_words()}",
        )
