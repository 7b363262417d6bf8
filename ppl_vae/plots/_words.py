"""Rows of tokens, as sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.plots.drawing import INK, ORANGE, PANELS, SOFT, Array, Plot, as_numbers, expect

__all__ = ["sentences"]

SMALL = 9
"""Size of the letters."""


def sentences(
    codes: Array,
    words: Sequence[str],
    lines: Sequence[str],
    steps: Sequence[str],
    *,
    axis: str = "",
    end: str | None = None,
) -> Figure:
    """Sentences along lines: a block for each line, a sentence for each step; words that change are coloured.

    codes: [line, step, T], places in `words`, below 0 where there is none; lines and steps: what each is; axis: what
    the steps are; end: the word after which nothing is written. Of more than twelve lines the first are drawn, and a
    sentence that is that of the step before it is not written again. Raises UserError when the lengths do not fit.
    """
    values = as_numbers("codes", codes, 3)
    expect("lines", len(lines), values.shape[0], "one for each line")
    expect("steps", len(steps), values.shape[1], "one for each step")
    blocks = []
    for name, rows in zip(lines[:PANELS], values, strict=False):
        each = [_told(row, words, end) for row in rows]
        kept = [i for i, said in enumerate(each) if i == 0 or said != each[i - 1]]
        ends = [*(i - 1 for i in kept[1:]), len(each) - 1]
        blocks.append((name, [(_span(steps[i], steps[j]), each[i]) for i, j in zip(kept, ends, strict=True)]))
    height = sum(len(block) + 1.6 for _, block in blocks) + (1 if axis else 0)
    longest = max(len(" ".join(said)) for _, block in blocks for _, said in block)
    figure = Plot(figsize=(max(4.5, 1.6 + 0.085 * (longest + 3)), 0.21 * height + 0.2))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, figure.get_figwidth()), ylim=(height, 0))
    ax.axis("off")
    place = 0.8
    if axis:
        ax.text(0.15, place, axis, fontsize=SMALL, color=SOFT, va="center")
        place += 1
    for line, sentences_of in blocks:
        ax.text(0.15, place, line, fontsize=SMALL + 1, color=INK, va="center")
        place += 1
        before: list[str] = []
        for span, row in sentences_of:
            ax.text(1.25, place, span, fontsize=SMALL, color=SOFT, va="center", ha="right")
            at = 1.45
            for k, word in enumerate(row):
                new = bool(before) and (k >= len(before) or before[k] != word)
                ax.text(at, place, word, fontsize=SMALL, color=ORANGE if new else INK, va="center", family="monospace")
                at += 0.0775 * (len(word) + 1)
            before, place = row, place + 1
        place += 0.6
    return figure


def _told(row: np.ndarray, words: Sequence[str], end: str | None) -> list[str]:
    """The words of one row, up to its end."""
    said = []
    for code in row:
        if not 0 <= code < len(words) or words[int(code)] == end:
            break
        said.append(words[int(code)])
    return said


def _span(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"
