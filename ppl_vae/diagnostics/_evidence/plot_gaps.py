"""Pictures of the gap between log evidence and ELBO. Knows no model and no run."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.plots.drawing import BLUE, ORANGE, SOFT, Array, Plot, add_legend, as_numbers, expect, house_axes

__all__ = ["gaps"]


def gaps(approximation: Array, amortization: Array, approximation_error: Array, amortization_error: Array) -> Figure:
    """Both gaps of every row, one on the other, largest first; and one against the other with two standard errors.

    All [row]. Raises UserError when the numbers of rows differ.
    """
    family, encoder = as_numbers("approximation", approximation, 1), as_numbers("amortization", amortization, 1)
    errors = [as_numbers("error", e, 1) for e in (approximation_error, amortization_error)]
    for name, column in (("amortization", encoder), ("error", errors[0]), ("error", errors[1])):
        expect(name, len(column), len(family), "one for each row")
    figure = Plot(figsize=(9.5, 3.6), layout="constrained")
    first, second = figure.subplots(1, 2, width_ratios=(3, 2))
    order, at = np.argsort(-(family + encoder)), np.arange(len(family))
    under, over = family[order], encoder[order]
    first.bar(at, under, width=1.0, color=BLUE, label="approximation (the family's)")
    first.bar(
        at,
        over,
        width=1.0,
        bottom=np.where(under * over < 0, 0, under),
        color=ORANGE,
        label="amortization (the encoder's)",
    )
    house_axes(first, "rows, largest gap first", "log evidence minus ELBO (nats)")
    add_legend(first)
    wide = [2 * np.nan_to_num(e) for e in errors]
    second.errorbar(family, encoder, wide[1], wide[0], fmt="o", ms=3, color=BLUE, ecolor=SOFT, elinewidth=0.7)
    ends = np.concatenate([[0.0], family - wide[0], family + wide[0], encoder - wide[1], encoder + wide[1]])
    second.axline((0.0, 0.0), slope=1.0, color=ORANGE, lw=1.2, label="equal")
    edge = 0.05 * (ends.max() - ends.min()) or 0.1
    second.set(xlim=(ends.min() - edge, ends.max() + edge), ylim=(ends.min() - edge, ends.max() + edge), aspect="equal")
    house_axes(second, "approximation gap ± 2 se (nats)", "amortization gap ± 2 se (nats)")
    add_legend(second)
    return figure
