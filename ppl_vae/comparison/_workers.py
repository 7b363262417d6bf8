"""Commands of this package in parallel processes, each with one thread; what they say goes to one display.

`concurrent.futures` says which job is next; a job is a process of its own, not a task of a `ProcessPoolExecutor`:

- a process that is killed (the usual end of a cell that needs too much memory) breaks its pool and every task in it,
  and does not say which one it was; here it is the end of its own job;
- its workers import the caller's `__main__` again, so that a script without `if __name__ == "__main__"` fails;
- it has no way to end tasks that run so that they save what they have, and its workers outlive a parent that is killed;
- it does not tell what a task writes to stderr, which is the progress of the display and the reason of a failure.

`loky`, the pool of joblib, was tried: it needs no `__main__`, but one worker that is killed is an error of all tasks
that wait, too, it ends workers by SIGKILL alone, and it keeps stderr to itself as well.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from ppl_vae.distributed.launcher import without_launcher

__all__ = ["Job", "Watcher", "cores", "end_with_parent", "work"]

# Modules are looked up where this process looks them up, and nothing in the working directory shadows them.
_CHILD = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from ppl_vae.comparison._workers import end_with_parent; end_with_parent(); from ppl_vae.cli import main; "
    "sys.exit(next((s for s in map(main, json.loads(sys.argv[2])) if s), 0))"
)
GRACE = 20.0
"""Seconds for a process to save what it has."""

_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}


class Job(NamedTuple):
    """Commands of `ppl-vae`, run one after the other in one process until one fails."""

    name: str
    commands: Sequence[Sequence[str]]


class Watcher(Protocol):
    """Who is told what happens; called from several threads."""

    def begin(self, name: str) -> None:
        """A job was started."""

    def line(self, name: str, text: str) -> None:
        """A job says something on stderr."""

    def end(self, name: str, reason: str | None) -> None:
        """A job is over; with the reason if it failed."""


def cores() -> int:
    """How many processors this process may use.

    Example:
        >>> cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work(jobs: Sequence[Job], at_once: int, watcher: Watcher) -> dict[str, str]:
    """Run jobs, so many at once, and return the reasons of those that failed, by name.

    When interrupted, what runs is ended, what waits is not begun, and KeyboardInterrupt is raised.
    """
    processes = _Processes(watcher)
    with ThreadPoolExecutor(max(1, at_once)) as threads:
        try:
            reasons = list(threads.map(processes.run, jobs))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise
    return {job.name: reason for job, reason in zip(jobs, reasons, strict=True) if reason is not None}


def end_with_parent() -> None:
    """End this process, whose standard input is a pipe from its parent, when the parent is gone, however it went.

    It is told by SIGTERM, so that it saves what it has; after GRACE seconds it is ended all the same.
    """

    def wait() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


class _Processes:
    """The processes that run now."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.lock = threading.Lock()
        self.running: set[subprocess.Popen[str]] = set()
        self.stopped = False

    def run(self, job: Job) -> str | None:
        """Run a job to its end; the reason if it failed."""
        command = [sys.executable, "-P", "-c", _CHILD, json.dumps(sys.path), json.dumps(job.commands)]
        with self.lock:
            if self.stopped:
                return "interrupted"
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # nothing is written: its end tells the child that this process is gone
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=without_launcher(os.environ) | _ONE_THREAD,
            )
            self.running.add(process)
        self.watcher.begin(job.name)
        last = ""
        with process:
            for line in process.stderr or ():
                if line.strip():
                    last = line.strip()
                    self.watcher.line(job.name, last)
        status = process.returncode
        with self.lock:
            self.running.discard(process)
        if self.stopped:
            return "interrupted"
        reason = None if status == 0 else _reason(last, status)
        self.watcher.end(job.name, reason)
        return reason

    def stop(self) -> None:
        """End what runs; files are written whole or not at all, so that this may be done at any time."""
        with self.lock:
            self.stopped = True
            for process in self.running:
                process.terminate()


def _reason(last: str, status: int) -> str:
    if status < 0:
        return f"the process was ended by signal {-status}"
    return last.removeprefix("ppl-vae: ") or f"exit status {status}"
