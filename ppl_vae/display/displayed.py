"""A result that shows its summary: as lines of text, and as a table in a notebook."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from ppl_vae.display.tables import latex, markdown

__all__ = ["LINES", "Displayed", "described", "told"]

LINES, WIDTH = 40, 110
"""A screen: no result shows more lines than this, each of so many letters."""


class Displayed:
    """Shows `summary()` where a class has one, else the shapes of its fields; a verdict comes last.

    A dataclass takes it with `@dataclass(repr=False)`: otherwise the generated repr, with every number of every tensor,
    stands before this one.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(repr=False)
        ... class Found(Displayed):
        ...     mean: float
        ...     def summary(self):
        ...         return {"mean": self.mean, "mean_se": 0.012, "rows": 1200, "verdict": "All is well."}
        >>> Found(0.25)
        Found
          mean  0.250 ± 0.012
          rows  1,200
        All is well.
    """

    def display_lines(self) -> list[tuple[str, str]]:
        """What is shown: names and values."""
        summary = getattr(self, "summary", None)
        if summary is not None:
            return told(summary())
        names: list[str] = [f.name for f in fields(self) if f.repr] if is_dataclass(self) else []
        return [(name, described(getattr(self, name))) for name in names]

    def display_verdict(self) -> str:
        """A sentence below the numbers; nothing where there is none."""
        verdict = getattr(self, "verdict", None)
        summary = getattr(self, "summary", None)
        return str(verdict or (summary().get("verdict", "") if summary is not None else ""))

    def display_title(self) -> str:
        """The line above the numbers."""
        return type(self).__name__

    def to_markdown(self) -> str:
        """What is shown, as a table in Markdown."""
        return markdown(("", "value"), self.display_lines())

    def to_latex(self) -> str:
        """What is shown, as a table in LaTeX, with the rules of booktabs."""
        return latex(("", "value"), self.display_lines())

    def __repr__(self) -> str:
        lines = self._some()
        wide = max((len(name) for name, _ in lines), default=0)
        body = [f"  {name.ljust(wide)}  {value}".rstrip() for name, value in lines]
        body = [textwrap.shorten(line, WIDTH, placeholder=" ...") if len(line) > WIDTH else line for line in body]
        return "\n".join([self.display_title(), *body, *textwrap.wrap(self.display_verdict(), WIDTH)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:right'>{html.escape(value)}</td></tr>"
            for name, value in self._some()
        )
        verdict = self.display_verdict()
        below = f"<p>{html.escape(verdict)}</p>" if verdict else ""
        return f"<table><caption>{html.escape(self.display_title())}</caption>{rows}</table>{below}"

    def _some(self) -> list[tuple[str, str]]:
        lines = self.display_lines()
        if len(lines) <= LINES:
            return lines
        return [*lines[: LINES - 1], ("...", f"{len(lines) - LINES + 1:,} more in summary()")]


def told(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers and words of a summary, an error beside its number; what is nested is left to `summary()`.

    Example:
        >>> told({"nll": 92.637, "nll_se": 0.49, "rows": 447, "tests": [1, 2], "verdict": "..."})
        [('nll', '92.64 ± 0.49'), ('rows', '447')]
    """
    found = []
    for name, value in summary.items():
        of = name.removesuffix("_se")
        if name == "verdict" or (of != name and isinstance(summary.get(of), int | float)):
            continue
        if isinstance(value, bool | int | float | str):
            error = summary.get(f"{name}_se")
            found.append((name.replace("_", " "), _number(value, error if isinstance(error, float) else None)))
    return found


def described(value: Any) -> str:
    """A field of a result in some words: the shape of a tensor, the size of a collection.

    Example:
        >>> import torch
        >>> described({"z": torch.zeros(3, 2)}), described([1, 2]), described(0.5)
        ('z [3, 2]', '2 of int', '0.5')
    """
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "dtype"):
        return f"[{', '.join(map(str, shape))}]" if len(shape) else f"{float(value):.4g}"
    if isinstance(value, Mapping):
        inner = [f"{k} {described(v)}" for k, v in list(value.items())[:6]]
        return "; ".join([*inner, *(["..."] if len(value) > 6 else [])]) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        if all(isinstance(v, str) for v in value):
            return ", ".join(value[:6]) + (", ..." if len(value) > 6 else "") or "none"
        return f"{len(value):,} of {type(value[0]).__name__}"
    if isinstance(value, float | int):
        return _number(value, None)
    return textwrap.shorten(str(value), 80, placeholder=" ...") if isinstance(value, str) else type(value).__name__


def _number(value: Any, error: float | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if error is None or math.isnan(error) or math.isnan(value):
        return f"{value:,.4g}" if abs(value) < 1e4 or math.isinf(value) else f"{value:,.0f}"
    # two digits of the error, and as many of the number
    digits = max(0, 1 - math.floor(math.log10(error))) if 0 < error < math.inf else 4
    return f"{value:,.{min(digits, 6)}f} ± {error:,.{min(digits, 6)}f}"
