"""Pictures of annealed evidence: one direction, and both. Knows no model and no run."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl_vae.plots.drawing import BLUE, GREEN, ORANGE, Array, Plot, add_legend, as_numbers, expect, house_axes

__all__ = ["annealing", "bounds"]


def annealing(evidence: Array, error: Array, ess: Array, acceptance: Array, chains: int) -> Figure:
    """Log evidence of rows with two standard errors, in ascending order; effective chains; accepted moves.

    evidence, error, ess, acceptance: [row]. Raises UserError when the numbers of rows differ.
    """
    values = as_numbers("evidence", evidence, 1)
    errors, effective, accepted = (
        as_numbers(name, v, 1) for name, v in (("error", error), ("ess", ess), ("acceptance", acceptance))
    )
    for name, column in (("error", errors), ("ess", effective), ("acceptance", accepted)):
        expect(name, len(column), len(values), "one for each row")
    figure = Plot(figsize=(10.5, 3.4), layout="constrained")
    first, second, third = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    order = np.argsort(values)
    _rows(first, values[order], errors[order], BLUE, "log evidence ± 2 se")
    house_axes(first, "rows, in ascending order", "log p(x) (nats)")
    add_legend(first)
    second.hist(effective, bins=np.linspace(0, chains, 17), color=BLUE)
    house_axes(second, f"effective chains, of {chains}", "rows")
    second.yaxis.set_major_locator(MaxNLocator(integer=True))
    third.hist(accepted, bins=np.linspace(0, 1, 21), color=BLUE)
    house_axes(third, "share of moves accepted", "rows")
    third.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def bounds(lower: Array, upper: Array, lower_error: Array, upper_error: Array) -> Figure:
    """Lower and upper bound of the log evidence of simulated rows, and how far they are apart.

    All [row]. Raises UserError when the numbers of rows differ.
    """
    low, high = as_numbers("lower", lower, 1), as_numbers("upper", upper, 1)
    errors = [as_numbers("lower_error", lower_error, 1), as_numbers("upper_error", upper_error, 1)]
    for name, column in (("upper", high), ("lower_error", errors[0]), ("upper_error", errors[1])):
        expect(name, len(column), len(low), "one for each row")
    figure = Plot(figsize=(9.5, 3.4), layout="constrained")
    first, second = figure.subplots(1, 2, width_ratios=(2, 1))
    order = np.argsort(low + high)
    _rows(first, low[order], errors[0][order], BLUE, "lower bound ± 2 se")
    _rows(first, high[order], errors[1][order], ORANGE, "upper bound ± 2 se", shift=0.35)
    house_axes(first, "simulated rows, in ascending order", "log p(x) (nats)")
    add_legend(first)
    gap = high - low
    second.hist(gap, bins=20, color=BLUE)
    second.axvline(gap.mean(), color=ORANGE, lw=1.6, label=f"mean {gap.mean():.2g}")
    second.axvline(0.0, color=GREEN, lw=1.2, ls="--", label="no gap")
    house_axes(second, "upper minus lower bound (nats)", "rows")
    second.yaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(second)
    return figure


def _rows(ax: object, values: np.ndarray, errors: np.ndarray, color: str, label: str, shift: float = 0.0) -> None:
    at = np.arange(len(values)) + shift
    wide = 2 * np.nan_to_num(errors)
    ax.vlines(at, values - wide, values + wide, color=color, alpha=0.4, lw=1.5)  # type: ignore[attr-defined]
    ax.scatter(at, values, s=10, color=color, linewidths=0, label=label)  # type: ignore[attr-defined]
