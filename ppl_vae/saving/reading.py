"""JSON files, read against a shape: a damaged one is one line that names the file and the place in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ppl_vae.errors import UserError

__all__ = ["as_shape", "damaged", "read_json", "read_lines"]

_LARGEST = 2**28
"""Bytes of a file at most; ours have a few thousand."""


def read_json(path: Path, shape: Any, remedy: str) -> Any:
    """The content of a JSON file, as plain values, after a check against a type such as a TypedDict.

    Raises:
        UserError: it cannot be read, is no JSON, or does not have this shape; with the file, the place and the remedy.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "best.json"
        ...     _ = file.write_text('{"epoch": "three"}')
        ...     read_json(file, dict[str, int], "delete it")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: .../best.json is damaged (expected `int`, got `str`, at [...]): delete it
    """
    with damaged(path, remedy):
        return as_shape(msgspec.json.decode(_content(path)), shape)


def read_lines(path: Path, shape: Any, remedy: str) -> list[Any]:
    """The lines of a file of one JSON value a line; see `read_json`."""
    with damaged(path, remedy):
        lines = [line for line in _content(path).split(b"\n") if line.strip()]
        return [as_shape(msgspec.json.decode(line), shape) for line in lines]


def _content(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST // 2**20} MiB")
    return path.read_bytes()


def as_shape(value: Any, shape: Any) -> Any:
    """The value itself, if it has this shape; keys that the shape does not know are let be.

    Raises msgspec.ValidationError.
    """
    msgspec.convert(value, type=shape)
    return value


@contextlib.contextmanager
def damaged(path: Path, remedy: str) -> Iterator[None]:
    """Whatever goes wrong within the block is the fault of a file that does not say what it should."""
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): {remedy}") from error
    except MemoryError as error:
        raise UserError(f"{path} asks for more memory than there is: {remedy}") from error
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, msgspec.MsgspecError):
            text = (text[:1].lower() + text[1:]).replace(" - at ", ", at ").replace("`$.", "`").replace("`$", "`")
            text = text.replace("at `", "at ").rstrip("`") if ", at `" in text else text
        elif not isinstance(error, UserError):
            text = f"{type(error).__name__}: {text}"
        raise UserError(f"{path} is damaged ({text[:300]}): {remedy}") from error
