"""A disk that fails, or a process that dies, at the k-th operation on files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHANGES = ("fsync", "replace", "link", "mkdir", "unlink", "rmdir")


class Killed(BaseException):
    """What SIGKILL is to a test: nothing that follows reaches the disk."""


class Disk:
    """Counts what changes the disk. At operation `at` (from 1) it does what `fault` says.

    SIGKILL   the process is killed before the operation
    kill      the same for a test that goes on: nothing that follows reaches the disk
    middle    the same, with half of a file written
    once      the operation fails, there is no space
    full      this one fails, and all that write after it
    read-only the same, with the other reason
    """

    def __init__(self, at: int | None = None, fault: str = "kill") -> None:
        self.at, self.fault, self.count, self.dead = at, fault, 0, False
        self.operations: list[str] = []

    def wrap(self, name):
        real = getattr(os, name)

        def operation(*args, **more):
            if self.dead:
                return None  # the dead do nothing, whatever `finally` says
            self.count += 1
            self.operations.append(name)
            reached = self.at is not None and self.count >= self.at
            if reached and self.fault == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            if reached and self.fault in ("kill", "middle"):
                if self.fault == "middle" and name == "fsync":
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
                self.dead = True
                raise Killed
            writes = name not in ("unlink", "rmdir")  # a full disk still deletes
            file = () if name == "fsync" else (str(args[0]),)  # a descriptor has no name
            if writes and ((self.fault == "once" and self.count == self.at) or (self.fault == "full" and reached)):
                raise OSError(errno.ENOSPC, "No space left on device", *file)
            if reached and self.fault == "read-only":
                raise OSError(errno.EROFS, "Read-only file system", *file)
            return real(*args, **more)

        return operation

    @contextlib.contextmanager
    def active(self) -> Iterator[Disk]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CHANGES:
                patch.setattr(os, name, self.wrap(name))
            yield self


def outcome(disk: Disk, work):
    """What became of some work on a disk: its value, or the exception."""
    with disk.active():
        try:
            return work()
        except (Killed, OSError) as error:
            return error


def files_of(run: Path) -> tuple[dict[str, bytes], list[dict[str, Any]], dict[str, Any]]:
    """What a run is, in the end: its files, its history and its run.json; without seconds and checkpoints."""
    found = {
        str(p.relative_to(run)): p.read_bytes()
        for p in sorted(run.rglob("*"))
        if p.is_file() and p.parent.name != "checkpoint" and p.name not in ("history.jsonl", "run.json")
    }
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    info = json.loads((run / "run.json").read_text())
    info["sha256"].pop("history.jsonl")
    return found, [{k: v for k, v in line.items() if k != "seconds"} for line in lines], info
