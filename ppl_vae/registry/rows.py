"""Words for rows: a named set or a file, and how its columns are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppl_vae.registry import catalog

if TYPE_CHECKING:
    from ppl_vae.data import Data

__all__ = ["DataWords"]


@dataclass(frozen=True)
class DataWords:
    """The words for rows: a named set or a file, and how its columns are read."""

    data: str | None
    label: str | None = None
    columns: list[str] | None = None
    missing: str = "refuse"

    def load(self, **options: Any) -> Data:
        """The whole data set."""
        from ppl_vae.data import load

        return load(self.data, label=self.label, columns=self.columns, missing=self.missing, **options)

    @property
    def is_file(self) -> bool:
        """Whether this is a file rather than a named set."""
        return self.data is not None and self.data not in catalog.table("data")
