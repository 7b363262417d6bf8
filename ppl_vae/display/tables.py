"""Tables as Markdown and LaTeX, with the error of a number in its last digits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

__all__ = ["in_digits", "latex", "markdown"]

_TEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "\N{MINUS SIGN}": "$-$",
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
}


def in_digits(value: float, error: float | None = None) -> str:
    """A number with its standard error in the last digits: two of the error, as many of the number.

    Example:
        >>> in_digits(-92.637, 0.489), in_digits(0.01234, 0.00056), in_digits(1234.5, 67.8), in_digits(3.5)
        ('-92.64(49)', '0.01234(56)', '1234(68)', '3.50')
    """
    if not math.isfinite(value):
        return "not finite"
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.2f}"
    places = 1 - math.floor(math.log10(error))
    if round(error * 10**places) == 100:  # 0.0996 has the two digits 10, a place earlier
        places -= 1
    if places <= 0:
        return f"{value:.0f}({error:.0f})"
    return f"{value:.{places}f}({round(error * 10**places)})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its first column on the left and all others on the right.

    Example:
        >>> print(markdown(["pair", "n"], [["a|b", "1"]]), end="")
        | pair | n |
        | --- | ---: |
        | a\\|b | 1 |
    """

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |\n"

    rule = ["---", *("---:" for _ in head[1:])]
    return "".join(map(line, [head, rule, *rows]))


def latex(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A table in LaTeX with the rules of booktabs; what is special there is escaped.

    Example:
        >>> print(latex(["pair", "n"], [["mean_field", "92.64(49)"]]), end="")
        \begin{tabular}{lr}
        \toprule
        pair & n \\
        \midrule
        mean\_field & 92.64(49) \\
        \bottomrule
        \end{tabular}
    """

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_escaped, cells)) + r" \\"

    columns = "l" + "r" * (len(head) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", line(head), r"\midrule", *map(line, rows)]
    return "\n".join([*body, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(words: str) -> str:
    signed = re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", str(words))
    return "".join(_TEX.get(letter, letter) for letter in signed)
