"""The held-out numbers of a pair as lines: what each is called, its value, and whether it is a bad sign."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Line", "evidence_lines", "number", "with_error"]

_DENSITIES = {
    "independent": "independent columns, no latents",
    "normal": "one full normal",
    "copula": "these columns with a Gaussian copula",
}


class Line(NamedTuple):
    """One number in words."""

    words: str
    value: str
    bad: bool = False


def evidence_lines(summary: Mapping[str, Any]) -> list[Line]:
    """The lines of `Evaluation.summary()`, in nats per row, or of one unit; also of densities without latents.

    Example:
        >>> import torch
        >>> from ppl_vae.programs.toy import model, posterior
        >>> import ppl_vae
        >>> found = ppl_vae.evaluate(model, posterior, torch.zeros(3), particles=10)
        >>> evidence_lines(found.summary())[1]
        Line(words='NLL, importance sampled with 10 particles', value='1.27 ± 0.00', bad=False)
    """
    particles = f"{summary['particles']:,}"
    found = [
        Line("negative ELBO", with_error(summary, "negative_elbo")),
        Line(f"NLL, importance sampled with {particles} particles", with_error(summary, "nll")),
        Line("  Monte Carlo standard error of the NLL", number(summary["nll_mc_se"], 3)),
        *_certified(summary),
        Line("rate (KL)", number(summary["rate"])),
        Line("distortion", number(summary["distortion"])),
        Line(f"effective sample size (of {particles} particles)", number(summary["ess"], 1)),
    ]
    if "khat_limit" in summary and "of" in summary:
        words = f"k-hat (above {number(summary['khat_limit'])} the Monte Carlo error is not known)"
        found.append(Line(words, number(summary["khat_max"])))
    elif "khat_limit" in summary:
        limit = number(summary["khat_limit"])
        words = f"rows with k-hat above {limit} (their Monte Carlo error is not known)"
        found.append(Line(words, f"{summary['unreliable_rows']:,}"))
    for name, words in _DENSITIES.items():
        if f"minus_{name}" in summary:
            worse = bool(summary[f"minus_{name}"] <= 2 * summary[f"minus_{name}_se"])
            found.append(Line(f"NLL of {words}", number(summary[f"{name}_nll"])))
            found.append(Line("  log evidence minus that", with_error(summary, f"minus_{name}"), worse))
    return found


def _certified(summary: Mapping[str, Any]) -> list[Line]:
    if "certified_nll" not in summary:
        return []
    sure, rows = summary["certified_rows"], summary["rows"]
    words = f"NLL, {sure:,} of {rows:,} rows certified to {summary['certified_accuracy']:g} nats"
    return [
        Line(words, with_error(summary, "certified_nll"), sure < rows),
        Line("  Monte Carlo standard error of that", number(summary["certified_nll_mc_se"], 4)),
    ]


def with_error(summary: Mapping[str, Any], key: str, digits: int = 2) -> str:
    """A number and its standard error.

    Example:
        >>> with_error({"nll": 1.234, "nll_se": 0.5}, "nll")
        '1.23 ± 0.50'
    """
    error = number(summary[f"{key}_se"], digits)
    return number(summary[key], digits) + (f" ± {error}" if "of" not in summary else "")


def number(value: float | None, digits: int = 2) -> str:
    """A number in words; a dash where there is none.

    Example:
        >>> number(1234.5), number(None)
        ('1,234.50', '-')
    """
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"
