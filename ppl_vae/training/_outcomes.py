"""What the steps of an epoch saw, in little memory however many they are; and where within an epoch a run stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae.runs.result import Record
from ppl_vae.training._steps import StepOutcome

__all__ = ["Cursor", "Outcomes"]

TOGETHER = 512
"""So many steps are put into one tensor."""


class Outcomes:
    """Outcomes of steps, on the device: nothing is read back before the mean is asked for.

    Example:
        >>> seen = Outcomes()
        >>> for value in (1.0, 4.0):
        ...     seen.add(StepOutcome(torch.tensor(value), torch.tensor(value)))
        >>> seen.mean([2, 1], "train")["train"]
        2.0
    """

    def __init__(self, columns: Mapping[str, Tensor] | None = None) -> None:
        self.parts = [dict(columns)] if columns else list[dict[str, Tensor]]()
        self.pending: list[StepOutcome] = []

    def add(self, outcome: StepOutcome) -> None:
        """Take in a step."""
        self.pending.append(outcome)
        if len(self.pending) >= TOGETHER:
            self._settle()

    def _settle(self) -> None:
        if self.pending:
            there = [field for field in StepOutcome._fields if getattr(self.pending[0], field) is not None]
            self.parts.append({f: torch.stack([getattr(o, f) for o in self.pending]).detach() for f in there})
            self.pending = []

    def columns(self) -> dict[str, Tensor]:
        """What was seen, [step] by name."""
        self._settle()
        self.parts = [{name: torch.cat([part[name] for part in self.parts]) for name in self.parts[0]}]
        return self.parts[0]

    def mean(self, sizes: Sequence[int], name: str) -> Record:
        """Averages over the rows of an epoch, read back from the device once."""
        weight = torch.tensor(sizes, dtype=torch.float64)
        weight = weight / weight.sum()
        found = self.columns()
        columns = torch.stack([column.double() for column in found.values()]).cpu()
        seen = dict(zip(found, ((column * weight).sum().item() for column in columns), strict=True))
        parts = StepOutcome._fields[4:]  # of an objective that sees them
        told = [field for field in StepOutcome._fields if field in seen or field not in parts]
        return {name if field == "bound" else field: seen.get(field) for field in told}


class Cursor(NamedTuple):
    """Where within an epoch a run stands: `step` of its steps are done, whose order the generator gave at `begin`."""

    step: int
    begin: Tensor
    outcomes: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint holds it."""
        return {"within/begin": self.begin} | {f"within/outcome/{n}": v for n, v in self.outcomes.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], progress: Mapping[str, Any], device: torch.device) -> Cursor | None:
        """From a checkpoint; None where that is of a whole epoch."""
        if "within" not in progress:
            return None
        outcomes = {n.rpartition("/")[2]: v.to(device) for n, v in tensors.items() if n.startswith("within/outcome/")}
        return cls(int(progress["within"]["step"]), tensors["within/begin"], outcomes)
