"""Objects of a user's own file, as the command line names them: `path/file.py:Name`. Naming one runs the file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ppl_vae.errors import UserError, unknown_name

__all__ = ["USER_MODULE", "UserObject", "is_file", "user_object", "where"]

USER_MODULE = "ppl_vae_user_"
"""How the modules that are made of users' files begin."""


@dataclass(frozen=True)
class UserObject:
    """An object of a user's file."""

    path: Path
    name: str
    value: Any

    def __str__(self) -> str:
        return f"{self.path.name}:{self.name}"


def is_file(text: str) -> bool:
    """Whether a name of the command line means a user's file, `path/file.py:Name`.

    Example:
        >>> is_file("models/my.py:Net"), is_file("my.py"), is_file("vae")
        (True, True, False)
    """
    return text.endswith(".py") or ".py:" in text


def user_object(text: str, loaded: dict[Path, ModuleType] | None = None) -> UserObject:
    """The object that `path/file.py:Name` means; this runs the file.

    Args:
        text: the file and, after a colon, the name in it.
        loaded: files that have been run already, so that a model and a guide of one file share it.

    Raises:
        UserError: there is no such file or name, or the file does not run.
    """
    place, colon, name = text.rpartition(":")
    path = Path(place if colon else text).expanduser()
    if not colon or not name:
        raise UserError(f"{text} does not say which object of the file: write {text.rstrip(':')}:NAME")
    if not path.is_file():
        raise UserError(f"there is no file {path}: check the path")
    loaded = {} if loaded is None else loaded
    key = path.resolve()
    if key not in loaded:
        loaded[key] = _run_file(key)
    module = loaded[key]
    if not hasattr(module, name):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise unknown_name(f"name in {path}", name, [n for n in own if not n.startswith("_")])
    value = getattr(module, name)
    if not callable(value):
        raise UserError(f"{text} is of type {type(value).__name__}: expected a class or a function")
    return UserObject(key, name, value)


def _run_file(path: Path) -> ModuleType:
    name = f"{USER_MODULE}{path.stem}_{zlib.crc32(str(path).encode()):08x}"  # two files may have one name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and type hints look their module up
    try:
        with _beside(path):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(spec.name, None)
        raise UserError(f"{path} cannot be imported: {where(error, path)}") from error
    return module


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """A script finds the files beside it, and so does a user's file; nothing here is shadowed by them."""
    sys.path.append(str(path.parent))
    try:
        yield
    finally:
        sys.path.remove(str(path.parent))


def where(error: BaseException, *paths: Path) -> str:
    """An error in one line, with the innermost line of these files that it went through."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) in paths]
    line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" + (f" (line {line})" if line else "")
