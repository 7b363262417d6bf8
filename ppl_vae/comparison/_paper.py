"""The lines of a comparison for a paper: bounds with their errors in the last digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppl_vae.comparison._pairs import BoundKey, difference
from ppl_vae.display.tables import in_digits

if TYPE_CHECKING:
    from ppl_vae.comparison.compare import Comparison

__all__ = ["paper"]


def paper(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """A header and a line for each pair, in nats per row, best first; k-hat is how many rows have it too large."""
    bounds: dict[str, BoundKey] = {"ELBO": "elbo"}
    bounds |= {f"IWAE-{k}": k for k in found.ladder if k > 1} | {"log p(x)": "log_evidence"}
    rows = []
    for pair in found.pairs:
        cells = [in_digits(*pair.estimate(bound)[:2]) for bound in bounds.values()]
        gap = difference(pair, found.best)
        beside = "" if pair is found.best else in_digits(gap.value, gap.total_se)
        rows.append([pair.name, *cells, beside, f"{pair.unreliable_rows:.0f}"])
    return ["pair", *bounds, "to the best", "k-hat"], rows
