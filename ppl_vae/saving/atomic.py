"""Write files whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

__all__ = ["write", "write_json"]


def write(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file so that readers see the old file or the whole new one; makes missing folders.

    Raises OSError when the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(Path(folder) / "runs" / "report.html", "a page").read_text()
        'a page'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkstemp: its files are readable by the owner alone, and os.replace keeps that.
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write a JSON file that people can read."""
    return write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
