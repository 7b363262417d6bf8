"""The answers of several diagnoses, corrected for having been asked all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ppl_vae.diagnostics._common.multiple_tests import holm

__all__ = ["Together", "together"]

SIGNIFICANT = 0.05


class Together(NamedTuple):
    """By diagnosis: its smallest p-value, corrected for its own tests, and that corrected for all diagnoses."""

    alone: dict[str, float]
    corrected: dict[str, float]

    @property
    def verdict(self) -> str:
        """What remains of the verdicts when they are corrected together, in a sentence."""
        told = [f"{kind} rejects (p = {p:.2g})" for kind, p in self.corrected.items() if p < SIGNIFICANT]
        lone = [kind for kind, p in self.corrected.items() if self.alone[kind] < SIGNIFICANT <= p]
        maybe = "".join(f" {kind} alone (p = {self.alone[kind]:.2g}) may be chance." for kind in lone)
        rejecting = ", ".join(told) or "none rejects"
        return f"All {len(self.alone)} tested diagnoses together, at 5 %: {rejecting}.{maybe}"


def together(summaries: Mapping[str, Mapping[str, Any]]) -> Together:
    """The p-values of several diagnoses, corrected for having asked all of them (Holm).

    Those that make no test are not among them. Of a pair in which nothing is wrong, any is below 0.05 in at most 5 of
    100 calls, however the tests depend on each other.

    Example:
        >>> together({"collapse": {}, "loo-pit": {"p_value": 0.03}, "two-sample": {"p_value": 0.2}}).verdict
        'All 2 tested diagnoses together, at 5 %: none rejects. loo-pit alone (p = 0.03) may be chance.'
        >>> together({"loo-pit": {"p_value": 0.002}, "two-sample": {"p_value": 0.2}}).verdict
        'All 2 tested diagnoses together, at 5 %: loo-pit rejects (p = 0.004).'
    """
    alone = {kind: least for kind, said in summaries.items() if (least := _least(said)) is not None}
    return Together(alone, dict(zip(alone, holm([*alone.values()]), strict=True)))


def _least(said: Mapping[str, Any]) -> float | None:
    """The p-value of a summary; of `local_calibration` the smaller one of that of the guide and of single rows."""
    names = ("corrected_p", "smallest_row_p") if "corrected_p" in said else ("p_value",)
    return min((float(said[name]) for name in names if name in said), default=None)
