"""A problem with a known answer: a model, a guide, rows, and log p(x) of each row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ppl_vae.checks.analysis import analyse
from ppl_vae.programs.program import Pair
from ppl_vae.programs.structure import Structure

F64 = torch.float64
Program = Callable[..., Any]


def t(*values: Any) -> Tensor:
    return torch.tensor(*values, dtype=F64)


@dataclass(frozen=True)
class Problem:
    """A model, a guide that is not exact, its rows, and log p(x) of each row in nats.

    `exact` is a guide equal to the posterior, where there is one; `elbo` the guide's ELBO in closed form.
    """

    name: str
    model: Program
    guide: Program
    batch: dict[str, Tensor]
    log_evidence: Tensor
    exact: Program | None = None
    elbo: Tensor | None = None
    tags: frozenset[str] = field(default_factory=frozenset)

    @cached_property
    def structure(self) -> Structure:
        """The problem's pair as it was read, once for all tests."""
        return analyse(Pair(self.model, self.guide), self.batch)

    def tiled(self, times: int) -> dict[str, Tensor]:
        return {n: v.repeat((times,) + (1,) * (v.dim() - 1)) for n, v in self.batch.items()}

    def __str__(self) -> str:
        return self.name
