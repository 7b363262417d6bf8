"""Paths that somebody named."""

from __future__ import annotations

import os
from pathlib import Path

from ppl_vae.errors import UserError, shown

__all__ = ["path_of"]


def path_of(name: str, value: object) -> Path:
    """A path that somebody named, with ~ as the home folder.

    Raises:
        UserError: it is neither text nor a path.

    Example:
        >>> path_of("out", 3)
        Traceback (most recent call last):
        ppl_vae.errors.UserError: out expects a path, got 3
    """
    if not isinstance(value, str | os.PathLike) or (isinstance(value, str) and (not value or "\0" in value)):
        raise UserError(f"{name} expects a path, got {shown(value)}")
    try:
        path = Path(value).expanduser()
        if any(len(os.fsencode(part)) > 255 for part in path.parts):
            raise UserError(f"{name} expects a path whose parts have at most 255 letters, got {shown(value)}")
        return path
    except (RuntimeError, TypeError) as error:  # a user that is not there; a path of bytes
        raise UserError(f"{name} expects a path, got {shown(value)}") from error
