"""The place of a run: a folder that belongs to one process while it writes there."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ppl_vae.errors import UserError, spelled
from ppl_vae.saving.atomic import is_draft, sweep
from ppl_vae.saving.locks import LOCK, held
from ppl_vae.saving.specs import file_hash

__all__ = [
    "claimed",
    "elsewhere",
    "emptied",
    "found_path",
    "is_empty",
    "last_numbered",
    "made",
    "refuse_existing",
    "reopened",
    "told_path",
]


def is_empty(path: Path) -> bool:
    """Whether nothing is there that anybody could miss: no file but drafts and a lock, in folders or not.

    Example:
        >>> is_empty(Path("no/such/folder"))
        True
    """
    if not path.is_dir():
        return not path.exists() and not path.is_symlink()
    return all(p.is_dir() or p.name == LOCK or is_draft(p) for p in path.rglob("*"))


def elsewhere() -> str:
    """What to do about a folder that is taken."""
    return spelled("choose another folder", "choose another folder with --out")


def refuse_existing(path: Path) -> None:
    """Raise if a run folder is there already: results are never overwritten."""
    if is_empty(path):
        return
    if (path / "checkpoint").is_dir() and not is_empty(path / "checkpoint"):
        raise UserError(
            f"{path} exists already: {elsewhere()}, or continue it with {spelled('resume=True', '--resume')}"
        )
    raise UserError(f"{path} exists already: {elsewhere()}")


def last_numbered(base: Path) -> Path:
    """The last of base, base-2, base-3, ... that is there; base if none is.

    Example:
        >>> last_numbered(Path("no/such/folder"))
        PosixPath('no/such/folder')
    """
    number = 1
    while _numbered(base, number + 1).exists():
        number += 1
    return _numbered(base, number)


def _numbered(base: Path, number: int) -> Path:
    return base if number == 1 else base.with_name(f"{base.name}-{number}")


@contextlib.contextmanager
def made(path: Path, *, numbered: bool = False) -> Iterator[Path]:
    """Make a folder if it is not there; with `numbered` the first of path, path-2, ... that is not.

    Two processes never make the same one. In the end no folder is left, unless there is something in it.

    Raises:
        UserError: there is a file of that name.
    """
    number = 1
    while True:
        place = _numbered(path, number)
        ours = [] if numbered and place.exists() else _make(place)
        if place in ours or not numbered:
            break
        number += 1
    try:
        yield place
    finally:
        _unmake(ours)


@contextlib.contextmanager
def claimed(path: Path, doing: str, *, numbered: bool = False) -> Iterator[Path]:
    """Make a folder (see `made`), or take an empty one, and hold it.

    Raises:
        UserError: there is something in it, or another process holds it.
    """
    with made(path, numbered=numbered) as place, held(place, doing):
        refuse_existing(place)  # while nobody else can write there
        sweep(place)
        yield place


def _make(place: Path) -> list[Path]:
    """Make a folder and those above it; the ones that were not there, lowest first."""
    missing: list[Path] = []
    for folder in (place, *place.parents):
        if folder.exists():
            break
        missing.append(folder)
    ours: list[Path] = []
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # somebody was quicker
            folder.mkdir()
            ours.insert(0, folder)
    if not place.is_dir():
        raise UserError(f"{place} exists already: {elsewhere()}")
    return ours


def _unmake(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # something is in it
            return


@contextlib.contextmanager
def reopened(path: Path, doing: str, *, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder with a run in it, and delete what writers that were killed left there.

    Raises:
        UserError: another process holds it.
    """
    with held(path, doing, wait=wait):
        sweep(path)
        yield


def emptied(path: Path) -> None:
    """Delete all that is in a folder that nobody can use.

    Raises:
        UserError: another process holds it.
    """
    with held(path, "ppl-vae compare"):
        for thing in path.iterdir():
            if thing.is_dir() and not thing.is_symlink():
                shutil.rmtree(thing)
            elif thing.name != LOCK:
                thing.unlink()


def told_path(file: Path, folder: Path) -> str:
    """How a run folder names a file: as seen from the folder, so that both can move, and so that nobody's home is told.

    Example:
        >>> told_path(Path("/home/ann/work/rows.csv"), Path("/home/ann/work/runs/a"))
        '../../rows.csv'
        >>> told_path(Path("/data/rows.csv"), Path("/home/ann/work/runs/a"))
        '/data/rows.csv'
    """
    file, folder = file.expanduser().resolve(), folder.resolve()
    try:
        if os.path.commonpath([file, folder]) != file.anchor:
            return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # on another drive
        pass
    home = Path("~").expanduser()
    return f"~/{file.relative_to(home).as_posix()}" if file.is_relative_to(home) else file.as_posix()


def found_path(told: str, folder: Path, sha256: str | None, *, is_stream: bool = False) -> Path:
    """The file that a run folder names: where it says, or beside the run, or where one works.

    A run folder cannot make anybody read a file that its author does not know: the content has to be the one whose
    hash was written down. Of what is streamed the hash is taken, and compared, by the pass over it.

    Raises:
        UserError: it is not there, or has changed.
    """
    name = Path(told).name
    if is_stream:
        return _found_stream(told, folder)
    places = [folder / Path(told).expanduser(), folder / name, Path(name)]
    there = [p for p in places if p.is_file()]
    if sha256 is None:
        raise UserError(f"{folder} does not say which content {name} had: name it{spelled('', ' with --data')}")
    for place in there:
        if file_hash(place) == sha256:
            return place
    if not there:
        raise UserError(
            f"the data of {folder}, {name}, are not at {places[0]}: put them there, or name "
            f"them{spelled('', ' with --data')}"
        )
    rows = spelled("name the rows", "name the rows with --data")
    raise UserError(f"{there[0]} has changed since it was loaded: restore it, or {rows}")


def _found_stream(told: str, folder: Path) -> Path:
    """The folder, pattern or file of rows that are streamed."""
    name = Path(told).name
    places = [folder / Path(told).expanduser(), folder / name, Path(name)]
    for place in places:
        if place.exists() or (glob.has_magic(str(place)) and glob.glob(str(place), recursive=True)):
            return place
    raise UserError(
        f"the data of {folder}, {name}, are not at {places[0]}: put them there, or name "
        f"them{spelled('', ' with --data')}"
    )
