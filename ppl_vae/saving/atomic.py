"""Write files whole or not at all, so that neither a kill nor a lost power leaves half of one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["is_draft", "sweep", "write", "write_json", "write_new"]

_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def write(path: str | os.PathLike[str], content: str | bytes, previous: Path | None = None) -> Path:
    """Write a file so that readers see the old file or the whole new one; makes missing folders.

    With `previous` the old file gets this name; between the two renames a whole one has one of the two names.

    File and folder are flushed to the disk, so that after a loss of power too there is the one or the other.

    Raises OSError, with the name of the file, when it cannot be written; the old file is as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(Path(folder) / "runs" / "report.html", "a page").read_text()
        'a page'
    """
    target = Path(path)
    with _draft(target, content) as draft:
        if previous is not None and target.is_file():
            os.replace(target, previous)
        os.replace(draft, target)
    return target


def write_new(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file that was not there: under its own name, or with -2, -3, ... after the stem; returns which.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [write_new(Path(folder) / "rows.csv", "1").name for _ in range(3)]
        ['rows.csv', 'rows-2.csv', 'rows-3.csv']
    """
    first = Path(path)
    with _draft(first, content) as draft:
        target, number = first, 1
        while not _take_name(draft, target):
            number += 1
            target = first.with_stem(f"{first.stem}-{number}")
    return target


def _take_name(draft: Path, target: Path) -> bool:
    """Give a draft its name, unless there is such a file."""
    try:
        os.link(draft, target)  # unlike a rename it fails where there is a file
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if os.path.lexists(target):
            return False
        os.replace(draft, target)
    return True


@contextlib.contextmanager
def _draft(target: Path, content: str | bytes) -> Iterator[Path]:
    """A file with the content beside the target, on the disk; after the block the folder is on the disk too."""
    data = content.encode() if isinstance(content, str) else content
    # Not tempfile.mkstemp: its files are readable by the owner alone, and os.replace keeps that.
    draft = target.with_name(f".{target.name[-200:]}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield draft
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        _flush_folder(target.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error


def _flush_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_draft(path: Path) -> bool:
    """Whether a file is what a writer that was killed left behind.

    Example:
        >>> is_draft(Path("run/.run.json.0123abcd.tmp")), is_draft(Path("run/run.json"))
        (True, False)
    """
    return _DRAFT.fullmatch(path.name) is not None


def sweep(folder: Path, age: float | None = None) -> None:
    """Delete the drafts of writers that were killed; for whoever holds the folder.

    With `age` it is done by somebody who does not: drafts that are so many seconds old have no writer any more.
    """
    now = time.time()
    for draft in folder.rglob(".*.tmp"):
        with contextlib.suppress(OSError):
            if is_draft(draft) and draft.is_file() and (age is None or abs(now - draft.stat().st_mtime) >= age):
                draft.unlink()


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write a JSON file that people can read."""
    return write(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
