"""How something that is run many times is best run: eager, captured, or compiled, by what each was seen to take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch

from ppl_vae.checks.linter import Finding
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.speed.capture import Graph, Uncapturable
from ppl_vae.speed.compiler import CannotCompile, seconds_to_compile

__all__ = ["WAYS", "Compile", "Lane", "Ways", "check_mode"]

Compile = Literal["auto", "on", "off"]

WAYS = ("eager", "captured", "compiled")

TRIAL = 8
"""Runs that are timed before one way is compared with another; the first one is not counted."""

CAPTURE_RUNS, CAPTURE_SECONDS = 80, 3.0
"""Capturing takes as long as about so many eager runs, and at most so many seconds, whatever the arithmetic."""

SAVED, MARGIN = 0.25, 2.0
"""The next way has to save this share of a run, and in all runs that are left this many times what it costs."""

NOISE = 1.1
"""How much slower a way has to seem before it is left: on a busy machine times are not exact."""

AGAIN = 64
"""A graph is compared with an eager run at its first use, and at those of this number and its doubles."""


def check_mode(compile: str) -> None:
    """Raise a UserError for a word that is not one of `Compile`."""
    if compile not in ("auto", "on", "off"):
        raise unknown_name("compile", compile, ("auto", "on", "off"))


@dataclass
class Lane:
    """Runs on inputs of one shape: how they are run now, and what is known of their time."""

    way: str = "eager"
    due: bool = True
    uses: int = 0
    slower: set[str] = field(default_factory=set)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def now(self, device: torch.device) -> float:
        """Seconds on a clock; a GPU is waited for as long as times are being compared, and no longer."""
        if device.type == "cuda" and len(self.seconds.get(self.way, ())) <= TRIAL:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def clock(self, seconds: float) -> None:
        """Note the time of a run; what to do next is asked when enough of them are known."""
        times = self.seconds.setdefault(self.way, [])
        if len(times) <= TRIAL:
            times.append(seconds)
            self.due = self.due or len(times) > TRIAL

    def typical(self, way: str) -> float | None:
        """Seconds of a run in this way, once it is known."""
        times = self.seconds.get(way, [])
        return statistics.median(times[1:]) if len(times) > TRIAL else None

    def best(self, left: float, captured: Graph | None) -> str:
        """The way to go on for so many more runs: the next one where it pays, the last one where this was no gain.

        Example:
            >>> lane = Lane()
            >>> for _ in range(9):
            ...     lane.clock(0.01)
            >>> lane.best(100, None), lane.best(100_000, None)
            ('eager', 'captured')
        """
        now, index = self.typical(self.way), WAYS.index(self.way)
        if now is None:
            return self.way
        if index and now > NOISE * (self.typical(WAYS[index - 1]) or now):
            return WAYS[index - 1]
        if index + 1 < len(WAYS) and WAYS[index + 1] not in self.slower:
            capturing = min(CAPTURE_RUNS * now, CAPTURE_SECONDS)
            cost = capturing if captured is None else seconds_to_compile(captured)
            if left * now * SAVED > MARGIN * cost:
                return WAYS[index + 1]
        return self.way

    def forward(self, way: str) -> None:
        """Run in this way from now on."""
        self.way, self.uses = way, 0

    def back(self) -> None:
        """Run as before, and never again in the way that was no good."""
        self.slower.add(self.way)
        self.forward(WAYS[WAYS.index(self.way) - 1])

    def is_due_for_proof(self) -> bool:
        """Count a use of a graph, and say whether it has to repeat an eager run now."""
        self.uses += 1
        return self.uses == 1 or (self.uses >= AGAIN and self.uses.bit_count() == 1)


class Ways:
    """Which ways are open to something that is run often, for all of its lanes, and what is said once of the others.

    Args:
        mode: as for `ppl_vae.fit(compile=)`.
        what: is run, for messages: "training".
    """

    def __init__(self, mode: Compile, what: str) -> None:
        self.mode, self.what = mode, what
        self.closed: set[str] = set() if mode != "off" else set(WAYS)
        self.findings: list[Finding] = []

    def close(self, way: str, site: str | None, problem: str) -> None:
        """Leave a way, and say why; where it was asked for that is an error."""
        if self.mode == "on":
            raise UserError(f"compile='on', but {problem}: use compile='auto' or 'off'")
        if way not in self.closed:
            self.closed |= set(WAYS[WAYS.index(way) :])
            goes_on = f"{self.what} goes on {'as it was' if way == 'captured' else 'captured, not compiled'}"
            self.findings.append(Finding(site, problem, goes_on, "warning"))

    @contextmanager
    def opening(self, way: str, lane: Lane) -> Iterator[None]:
        """Around what makes a way ready: if that cannot be done the way is closed, else the lane goes on in it."""
        try:
            yield
        except Uncapturable as error:
            self.close(way, error.site, str(error))
        except CannotCompile as error:
            self.close(way, None, str(error))
        else:
            lane.forward(way)
