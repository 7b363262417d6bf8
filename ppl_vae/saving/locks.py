"""One process at a time in a folder: a lock that a process loses when it dies, however it dies."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ppl_vae.errors import UserError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "InUse", "held"]

LOCK = ".lock"
"""The file in a folder that its holder has locked; it says who that is."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class InUse(UserError):
    """Another process holds a folder."""


@contextlib.contextmanager
def held(folder: Path, doing: str, *, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder that is there, so that no other process writes in it; `doing` tells others why.

    The lock is one of the operating system (flock), which a process cannot leave behind: a LOCK file of a dead process
    is taken over. On file systems without locks the file itself is the lock, and its owner is dead if its process
    number, the time at which that was started or the boot of the machine is another.

    Args:
        folder: which one.
        doing: such as "ppl-vae fit".
        wait: seconds to wait for another holder.

    Raises:
        InUse: another process holds it.
        OSError: nothing can be written there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, held(Path(folder), "fit"):
        ...     with held(Path(folder), "report"):
        ...         pass
        Traceback (most recent call last):
        ppl_vae.saving.locks.InUse: ... is in use by fit (process ...
    """
    file, until = folder / LOCK, time.monotonic() + wait
    while True:
        descriptor = _take(file, doing)
        if descriptor is not None:
            break
        if time.monotonic() >= until:
            raise InUse(f"{folder} is in use by {_owner(file)}: wait for it, or choose another folder")
        time.sleep(0.05)
    try:
        yield
    finally:
        try:
            file.unlink()  # while it is locked, so that nobody loses a lock that he has
        except OSError:
            pass
        finally:
            os.close(descriptor)


def _take(file: Path, doing: str) -> int | None:
    """The open lock file, or nothing if another process has it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not _lock(descriptor):
                os.close(descriptor)
                return None
            # The last holder may have deleted the file between the two calls: then this is a lock on nothing.
            if _is_still(descriptor, file):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(_me(doing)).encode(), 0)
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    return not _lives(_record(os.pread(descriptor, 4096, 0)))


def _is_still(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _me(doing: str) -> dict[str, object]:
    return {
        "doing": doing,
        "process": os.getpid(),
        "started": _started(os.getpid()),
        "host": socket.gethostname(),
        "boot": _boot(),
    }


def _lives(record: dict[str, object]) -> bool:
    """Whether the process of a record may still run; it does if nothing says otherwise."""
    process = record.get("process")
    if not isinstance(process, int):
        return False  # nobody has signed
    if record.get("host") != socket.gethostname():
        return True
    return record.get("boot") == _boot() and record.get("started") == _started(process)


def _started(process: int) -> str | None:
    """When a process was started, in ticks since the boot; None if it is not there, or the system does not tell."""
    try:
        return (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
    except (OSError, IndexError):
        return None


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _owner(file: Path) -> str:
    try:
        record = _record(file.read_bytes()[:4096])
    except OSError:
        record = {}
    if not isinstance(record.get("process"), int):
        return "another process"
    return f"{record.get('doing')} (process {record['process']} on {record.get('host')})"


def _record(content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
