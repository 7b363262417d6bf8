"""How good imputations are: observed cells are hidden, imputed, and compared with what they were."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import Field, Split
from ppl_vae.data.convert import missing_in
from ppl_vae.data.frames import columns_with
from ppl_vae.data.summary import aligned
from ppl_vae.errors import UserError, check_number, check_whole
from ppl_vae.evaluation.means import standard_error
from ppl_vae.evaluation.rows import with_holes
from ppl_vae.prediction._impute import Imputation, impute, rows_with_holes
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.trained import takes_results

__all__ = ["LEVELS", "ColumnCheck", "ImputationCheck", "check_imputation", "hidden_cells"]

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""The probabilities of the intervals whose coverage is told."""


@dataclass(frozen=True)
class ColumnCheck:
    """The hidden cells of one column.

    `error` of numbers is the root mean squared error of the imputed means in the column's units, `baseline` that of the
    mean of the cells that were left; of categories and truth values both are shares of wrong ones, `baseline` of the
    most frequent level. `place` holds, of numbers, where the truth lies among the draws, in (0, 1) and uniform if the
    draws are right, one entry for each cell; `row` its row.
    """

    column: str
    kind: str
    cells: int
    error: float
    baseline: float
    place: Tensor
    row: Tensor


@dataclass(frozen=True, repr=False)
class ImputationCheck:
    """What `check_imputation` found, by column. Printed, it is a table.

    Example:
        >>> one = ColumnCheck("a", "real", 4, 0.5, 1.0, torch.tensor([0.1, 0.4, 0.6, 0.99]), torch.arange(4))
        >>> found = ImputationCheck((one,), rows=4, ess=100.0, particles=1000)
        >>> found.coverage(0.5)[0]
        0.5
        >>> found.calibrated
        True
    """

    columns: tuple[ColumnCheck, ...]
    rows: int
    ess: float
    particles: int

    @property
    def cells(self) -> int:
        """How many cells were hidden."""
        return sum(column.cells for column in self.columns)

    def coverage(self, level: float, column: str | None = None) -> tuple[float, float]:
        """The share of hidden numbers within their central interval, and its standard error over rows.

        With ties broken at random, as the draws of whole numbers need it. NaN where no number was hidden.
        """
        some = [c for c in self.columns if len(c.place) and column in (None, c.column)]
        if not some:
            return math.nan, math.nan
        inside = torch.cat([((c.place - 0.5).abs() <= level / 2).double() for c in some])
        share = inside.mean()
        by_row = torch.zeros(self.rows, dtype=torch.double)
        by_row.index_add_(0, torch.cat([c.row for c in some]), inside - share)
        error = float(standard_error(by_row)) * self.rows / len(inside)
        return float(share), error

    @property
    def calibrated(self) -> bool:
        """Whether all coverages are within 2 points of their level, or within two standard errors of these."""
        found = [(abs(share - level), error) for level in LEVELS for share, error in [self.coverage(level)]]
        return all(math.isnan(off) or off <= 0.02 + 2 * error for off, error in found)

    def summary(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        of_all = {str(level): self.coverage(level) for level in LEVELS}
        return {
            "rows": self.rows,
            "cells": self.cells,
            "particles": self.particles,
            "ess_median": self.ess,
            "coverage": {level: share for level, (share, _) in of_all.items()},
            "coverage_se": {level: error for level, (_, error) in of_all.items()},
            "columns": [
                {"column": c.column, "kind": c.kind, "cells": c.cells, "error": c.error, "baseline": c.baseline}
                | {f"coverage {level}": self.coverage(level, c.column)[0] for level in LEVELS if len(c.place)}
                for c in self.columns
            ],
        }

    def __repr__(self) -> str:
        shares = [f"{100 * level:g} %" for level in LEVELS]
        header = ("column", "cells", "error", "without the row", *(f"in {share}" for share in shares))
        lines = aligned(header, [self._line(c) for c in self.columns])
        found = [(level, *self.coverage(level)) for level in LEVELS]
        if not math.isnan(found[0][1]):
            told = ", ".join(f"{100 * s:.1f} ± {100 * e:.1f} % in {100 * level:g} %" for level, s, e in found)
            verdict = "" if self.calibrated else "; the intervals are not calibrated"
            lines.append(f"numbers within their intervals: {told}{verdict}")
        lines.append(
            f"{self.cells:,} observed cells of {self.rows:,} rows hidden; error: root mean square of numbers, share of "
            "wrong categories; without the row: the mean, the most frequent one"
        )
        return "\n".join(lines)

    def _line(self, c: ColumnCheck) -> tuple[str, ...]:
        covered = [f"{100 * self.coverage(level, c.column)[0]:.0f} %" if len(c.place) else "" for level in LEVELS]
        form = "{:.1%}" if c.kind in ("categorical", "binary") else "{:.4g}"
        return c.column, f"{c.cells:,}", form.format(c.error), form.format(c.baseline), *covered


def hidden_cells(split: Split, share: float, seed: int) -> Split:
    """Rows of which a share of the observed cells is missing, too; at least one cell of a row stays.

    Example:
        >>> from ppl_vae.data import Schema
        >>> rows = Split(Schema((Field("x", "real", (3,), missing=True),)), "rows", {"x": torch.zeros(400, 3)})
        >>> gone = hidden_cells(rows, 0.5, seed=0)["x"].isnan()
        >>> bool(gone.all(1).any()), bool(abs(gone.float().mean() - 0.375) < 0.05)
        (False, True)
    """
    generator = torch.Generator().manual_seed(seed)
    fields, masks, left = dict(split.fields), {}, torch.zeros(len(split), dtype=torch.long)
    for field in split.schema:
        values = split[field.name].cpu()
        there = ~missing_in(field.kind, values)
        masks[field.name] = there & (torch.rand(values.shape, generator=generator) < share)
        kept = there & ~masks[field.name]
        left += kept.flatten(1).sum(1) if kept.dim() > 1 else kept.long()
    for field in split.schema:
        values = split[field.name]
        gone = masks[field.name] & (left > 0).reshape(-1, *[1] * (values.dim() - 1))
        fields[field.name] = values.masked_fill(gone.to(values.device), -1 if values.dtype == torch.long else torch.nan)
    return Split(split.schema, split.name, fields)


@takes_results
@exclusive
def check_imputation(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    share: float = 0.2,
    draws: int = 199,
    particles: int = 1000,
    seed: int = 0,
) -> ImputationCheck:
    """Hide a share of the observed cells at random, impute them, and compare: errors, and coverage of the intervals.

    Where the truth lies among D draws has D + 1 places, all as likely if truth and draws are alike; so a central
    interval of the draws has its coverage exactly, for any D. Take rows that the pair was not trained on. Cells are
    hidden completely at random, which says nothing of cells that are missing for a reason of their own.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x), the proposal.
        data: as for `impute`, a table: fields are columns, or rows of them.
        share: of the observed cells, in (0, 1).
        draws: of every cell.
        particles: proposals per row.
        seed: of what is hidden, and of the draws.

    Raises:
        UserError: as `impute` does, for pictures, and where nothing can be hidden.

    Source: Rubin 1987, Multiple Imputation (coverage); Talts et al. 2018, arXiv 1804.06788 (ranks among draws).

    Example:
        >>> from ppl_vae.programs.toy import model, posterior
        >>> check_imputation(model, posterior, torch.randn(3), particles=10)
        Traceback (most recent call last):
        ppl_vae.errors.UserError: check_imputation hides cells of rows that have at least two, got x: real, some missing
    """
    share = check_number("share", share, positive=True)
    if share >= 1:
        raise UserError(f"share must be below 1, got {share:g}")
    split = rows_with_holes(model, guide, data)
    split = replace(split, schema=with_holes(split.schema), draws=frozenset(), hidden={}, outliers=None)
    if sum(field.size for field in split.schema) < 2:
        raise UserError(
            f"check_imputation hides cells of rows that have at least two, got {', '.join(map(str, split.schema))}"
        )
    seed = check_whole("seed", seed, 0)
    hidden = hidden_cells(split, share, seed)
    found = impute(model, guide, hidden, draws=check_whole("draws", draws, 1), particles=particles, seed=seed)
    columns = _columns(split, hidden, found, seed)
    if not columns:
        raise UserError("no cell could be hidden: the rows have too few observed ones, or share is too small")
    return ImputationCheck(columns, len(split), float(found.ess.median()), found.particles)


def _columns(split: Split, hidden: Split, found: Imputation, seed: int) -> tuple[ColumnCheck, ...]:
    masks = {
        f.name: missing_in(f.kind, hidden[f.name]) & ~missing_in(f.kind, split[f.name])
        for f in split.schema
        if f.name in found.mean
    }
    holes, truths = columns_with(split.schema, masks), columns_with(split.schema, split.fields)
    left = columns_with(split.schema, hidden.fields)
    means, generator = columns_with(split.schema, found.mean), torch.Generator().manual_seed(seed)
    # a draw is a table, too: draws [draw, row, ...] as columns of so many more rows
    flat = {name: values.flatten(0, 1) for name, values in found.draws.items()}
    draws, count = columns_with(split.schema, flat), len(next(iter(found.draws.values()), ()))
    checks = []
    for name, (field, gone) in holes.items():
        gone = gone.cpu()
        if not bool(gone.any()):
            continue
        truth, mean = truths[name][1].cpu()[gone], means[name][1].cpu()[gone]
        rest = left[name][1].cpu()
        drawn = draws[name][1].cpu().reshape(count, -1)[:, gone]
        checks.append(_check(name, field, truth, mean, rest, drawn, gone.nonzero()[:, 0], generator))
    return tuple(checks)


def _check(
    name: str,
    field: Field,
    truth: Tensor,
    mean: Tensor,
    rest: Tensor,
    drawn: Tensor,
    row: Tensor,
    generator: torch.Generator,
) -> ColumnCheck:
    rest = rest[~missing_in(field.kind, rest)]
    none = torch.zeros(0)
    if field.kind in ("binary", "categorical"):
        usual = rest.double().round().mode().values if len(rest) else torch.tensor(torch.nan)
        wrong, baseline = (float((truth != guess).double().mean()) for guess in (mean.round(), usual))
        return ColumnCheck(name, field.kind, len(truth), wrong, baseline, none, none.long())
    below, ties = (drawn < truth).sum(0), (drawn == truth).sum(0)
    place = (below + torch.rand(len(truth), generator=generator) * (ties + 1)) / (len(drawn) + 1)
    error, baseline = (_root_mean_square(truth - guess) for guess in (mean, rest.double().mean()))
    return ColumnCheck(name, field.kind, len(truth), error, baseline, place, row)


def _root_mean_square(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())
