"""Evidence that was certified row by row (`ppl_vae.certify`) in the place of that of the guide's own weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.errors import UserError, shown
from ppl_vae.evaluation.means import standard_error

__all__ = ["CertifiedRows", "certain", "certified_summary", "checked"]


@runtime_checkable
class CertifiedRows(Protocol):
    """What `ppl_vae.certify` found of rows."""

    @property
    def log_evidence(self) -> Float[Tensor, " row"]:
        """Of every row, nats."""

    @property
    def log_evidence_se(self) -> Float[Tensor, " row"]:
        """Its Monte Carlo standard error."""

    @property
    def khat(self) -> Float[Tensor, " row"]:
        """The tail index of the weights that it rests on."""

    @property
    def certified(self) -> Bool[Tensor, " row"]:
        """Whether that is below `accuracy`, and to be believed."""

    @property
    def draws(self) -> Mapping[str, Tensor]:
        """Draws from the posterior of every row, by site."""

    @property
    def accuracy(self) -> float:
        """Nats."""

    @property
    def fingerprint(self) -> str:
        """Of the values of the rows."""


def checked(certified: Any, split: Split) -> CertifiedRows | None:
    """What was certified, if it is of these rows.

    Raises:
        UserError: it is of others, or nothing that `ppl_vae.certify` returns.
    """
    if certified is None:
        return None
    if not isinstance(certified, CertifiedRows):
        raise UserError(f"certified expects what ppl_vae.certify returns for these rows, got {shown(certified)}")
    if len(certified.log_evidence) != len(split) or certified.fingerprint != split.fingerprint():
        raise UserError(
            f"certified is of {len(certified.log_evidence):,} rows, and these {len(split):,} are others or have other "
            "values: certify them as well"
        )
    return certified


def certain(
    certified: CertifiedRows, log_evidence: Float[Tensor, " row"], error: Float[Tensor, " row"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Log evidence and its Monte Carlo error [row]: what certification found, and of rows that it did not reach these.

    Example:
        >>> from types import SimpleNamespace
        >>> values, error = torch.tensor([-1.0, torch.nan]), torch.tensor([0.1, 0.1])
        >>> found = SimpleNamespace(log_evidence=values, log_evidence_se=error)
        >>> certain(found, torch.tensor([-2.0, -3.0]), error)[0]
        tensor([-1., -3.], dtype=torch.float64)
    """
    unknown = certified.log_evidence.isnan()
    pairs = ((certified.log_evidence, log_evidence), (certified.log_evidence_se, error))
    first, second = (torch.where(unknown, own.double().cpu(), sure.double()) for sure, own in pairs)
    return first, second


def certified_summary(certified: CertifiedRows, log_evidence: Tensor, error: Tensor) -> dict[str, float | int]:
    """Means over rows of `certain`, in nats per row, with errors over rows and of the Monte Carlo draws alone."""
    evidence, se = certain(certified, log_evidence, error)
    return {
        "certified_nll": -float(evidence.mean()),
        "certified_nll_se": float(standard_error(evidence)),
        "certified_nll_mc_se": float(se.square().sum().sqrt() / len(se)),
        "certified_rows": int(certified.certified.sum()),
        "certified_accuracy": certified.accuracy,
    }
