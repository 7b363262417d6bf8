"""Words for rows: a named set or a file, and how its columns are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl_vae.data import Data

__all__ = ["DataWords", "folder_word"]


def folder_word(data: str) -> str:
    """What a folder is called after the rows of a run: the name of the set, or of the file without its ending.

    Example:
        >>> folder_word("fashion-mnist"), folder_word("my rows.csv"), folder_word("sprites:side=32")
        ('fashion-mnist', 'my_rows', 'sprites')
    """
    from ppl_vae.data import is_named

    return data.partition(":")[0] if is_named(data) else re.sub(r"[^\w.]+", "_", Path(data).stem)


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
        from ppl_vae.data import is_named

        return self.data is not None and not is_named(self.data)
