"""What certification found: the evidence of every row, how it was had, and which rows it could not be had for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ppl_vae.diagnostics._certification.methods import METHODS
from ppl_vae.diagnostics._certification.validation import Validation
from ppl_vae.display import Displayed
from ppl_vae.evaluation.means import standard_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["OUT_OF_TIME", "Certified"]

OUT_OF_TIME = "there was no time left"

WORDS = {m.name: m.words for m in METHODS}


@dataclass(frozen=True, repr=False)
class Certified(Displayed):
    """What `certify` found, one value a row, in nats; of all data as one unit a single value.

    `log_evidence` with its Monte Carlo standard error `log_evidence_se` and the tail index `khat` of the weights are
    those of the `method` that was sure of the row, or, where `certified` is False, of the one with the smallest error.
    `cost` are the seconds that were spent on each row, by all methods that it climbed.
    `draws[site]` are draws from the posterior of each row, [draw, row, ...]; of a row that is not certified they are
    no better than its weights. By method, `seconds` it took, `reasons` why it was not used, and `validations` of its
    errors on simulated rows. `fingerprint` is that of the rows.

    Example:
        >>> one, o = torch.ones(2), torch.zeros(2)
        >>> Certified(-3 * one, 0.01 * one, o, ("guide", "local"), one.bool(), 0.05).verdict
        'Log evidence of 2 of 2 rows is certain to 0.05 nats: -3.00 nats per row on average.'
    """

    log_evidence: Float[Tensor, " row"]
    log_evidence_se: Float[Tensor, " row"]
    khat: Float[Tensor, " row"]
    method: tuple[str, ...]
    certified: Bool[Tensor, " row"]
    accuracy: float
    cost: Float[Tensor, " row"] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    validations: Mapping[str, Validation] = field(default_factory=dict)
    draws: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    of: str = "row"
    fingerprint: str = field(default="", repr=False)

    @property
    def uncertified(self) -> list[int]:
        """The rows that are not, largest error first."""
        error = self.log_evidence_se.nan_to_num(torch.inf)
        order = error.argsort(descending=True, stable=True).tolist()
        return [i for i in order if not self.certified[i]]

    def counts(self) -> dict[str, int]:
        """How many rows each method certified, in the order in which they were tried."""
        found = Counter(m for m, sure in zip(self.method, self.certified.tolist(), strict=True) if sure)
        return {name: found[name] for name in WORDS if name in found}

    def columns(self) -> dict[str, Any]:
        """Everything that is told of single rows, by name."""
        return {
            "log_evidence": self.log_evidence,
            "log_evidence_se": self.log_evidence_se,
            "khat": self.khat,
            "method": list(self.method),
            "certified": self.certified,
        } | ({} if self.cost is None else {"cost": self.cost})

    def summary(self) -> dict[str, Any]:
        """Means over rows in nats per row; `_se` over rows, `_mc_se` of the Monte Carlo draws alone."""
        rows = len(self.log_evidence)
        return {
            "rows": rows,
            "certified_rows": int(self.certified.sum()),
            "accuracy": self.accuracy,
            **self._means(),
            "methods": {
                name: {
                    "rows": self.counts().get(name, 0),
                    "seconds": self.seconds.get(name),
                    "validation": self.validations[name].summary() if name in self.validations else None,
                }
                for name in WORDS
                if name in self.seconds or name in self.validations
            },
            "left_out": dict(self.reasons),
            "verdict": self.verdict,
        }

    def _means(self) -> dict[str, float]:
        """Over the rows of which anything is known."""
        known = ~self.log_evidence.isnan()
        evidence, error = self.log_evidence[known], self.log_evidence_se[known]
        return {
            "log_evidence": float(evidence.mean()),
            "log_evidence_se": float(standard_error(evidence)),
            "log_evidence_mc_se": float(error.square().sum().sqrt() / max(len(error), 1)),
        }

    @property
    def verdict(self) -> str:
        """How many rows are certain, and what to do about the others."""
        rows, sure = len(self.certified), int(self.certified.sum())
        if self.of == "all data":
            value = f"{float(self.log_evidence[0]):.2f} ± {float(self.log_evidence_se[0]):.2g} nats"
            if sure:
                return f"Log evidence of all data is {value}, by {WORDS[self.method[0]]}.{self._untried()}"
            return f"Log evidence of all data, {value}, is not certain to {self.accuracy:g} nats: {self._instead()}"
        words = f"Log evidence of {sure:,} of {rows:,} rows is certain to {self.accuracy:g} nats"
        if sure == rows:
            return f"{words}: {float(self.log_evidence.mean()):.2f} nats per row on average.{self._untried()}"
        return f"{words}; of {rows - sure:,} it is not: {self._instead()}{self._untried()}"

    def _instead(self) -> str:
        if OUT_OF_TIME in self.reasons.values():
            return "there was no time left; give it more seconds."
        if (self.khat[~self.certified] > 0.7).any():
            return "their posterior has parts that no method found; take a larger accuracy, or a simpler model."
        return "their errors are larger; take a larger accuracy."

    def _untried(self) -> str:
        untried = sorted({v.untried for v in self.validations.values() if v.untried})
        return f" The errors were {Validation(untried=untried[0]).words}." if untried else ""

    def figure(self) -> Figure:
        """Log evidence row by row with its error, by method, and how many rows each certified."""
        from ppl_vae.diagnostics._certification.plot import certified

        names = [name for name in WORDS if name in self.method]
        labels = [n if s else "not certified" for n, s in zip(self.method, self.certified.tolist(), strict=True)]
        return certified(self.log_evidence, self.log_evidence_se, labels, [*names, "not certified"], self.accuracy)
