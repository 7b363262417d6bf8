"""How something that is run many times is best run: eager, captured, or compiled, by what each was seen to take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch

from ppl_vae.errors import Finding, UserError, check_choice
from ppl_vae.speed.capture import Graph, Uncapturable
from ppl_vae.speed.compiler import CannotCompile, seconds_to_compile

__all__ = ["MODES", "Compile", "Modes", "ShapeRuns", "check_mode"]

Compile = Literal["auto", "on", "off"]

MODES = ("eager", "captured", "compiled")

TRIAL = 8
"""Runs that are timed before one mode is compared with another; the first one is not counted."""

CAPTURE_RUNS, CAPTURE_SECONDS = 80, 3.0
"""Capturing takes as long as about so many eager runs, and at most so many seconds, whatever the arithmetic."""

SAVED, MARGIN = 0.25, 2.0
"""The next mode has to save this share of a run, and in all runs that are left this many times what it costs."""

NOISE = 1.1
"""How much slower a mode has to seem before it is left: on a busy machine times are not exact."""

AGAIN = 64
"""A graph is compared with an eager run at its first use, and at those of this number and its doubles."""


def check_mode(compile: str) -> None:
    """Raise a UserError for a word that is not one of `Compile`."""
    check_choice("compile", compile, ("auto", "on", "off"))


@dataclass
class ShapeRuns:
    """Runs on inputs of one shape: how they are run now, and what is known of their time."""

    mode: str = "eager"
    due: bool = True
    uses: int = 0
    slower: set[str] = field(default_factory=set)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def now(self, device: torch.device) -> float:
        """Seconds on a clock; a GPU is waited for as long as times are being compared, and no longer."""
        if device.type == "cuda" and len(self.seconds.get(self.mode, ())) <= TRIAL:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def clock(self, seconds: float) -> None:
        """Note the time of a run; what to do next is asked when enough of them are known."""
        times = self.seconds.setdefault(self.mode, [])
        if len(times) <= TRIAL:
            times.append(seconds)
            self.due = self.due or len(times) > TRIAL

    def typical(self, mode: str) -> float | None:
        """Seconds of a run in this mode, once it is known."""
        times = self.seconds.get(mode, [])
        return statistics.median(times[1:]) if len(times) > TRIAL else None

    def best(self, left: float, captured: Graph | None) -> str:
        """The mode to go on for so many more runs: the next one where it pays, the last one where this was no gain.

        Example:
            >>> runs = ShapeRuns()
            >>> for _ in range(9):
            ...     runs.clock(0.01)
            >>> runs.best(100, None), runs.best(100_000, None)
            ('eager', 'captured')
        """
        now, index = self.typical(self.mode), MODES.index(self.mode)
        if now is None:
            return self.mode
        if index and now > NOISE * (self.typical(MODES[index - 1]) or now):
            return MODES[index - 1]
        if index + 1 < len(MODES) and MODES[index + 1] not in self.slower:
            capturing = min(CAPTURE_RUNS * now, CAPTURE_SECONDS)
            cost = capturing if captured is None else seconds_to_compile(captured)
            if left * now * SAVED > MARGIN * cost:
                return MODES[index + 1]
        return self.mode

    def forward(self, mode: str) -> None:
        """Run in this mode from now on."""
        self.mode, self.uses = mode, 0

    def back(self) -> None:
        """Run as before, and never again in the mode that was no good."""
        self.slower.add(self.mode)
        self.forward(MODES[MODES.index(self.mode) - 1])

    def is_due_for_proof(self) -> bool:
        """Count a use of a graph, and say whether it has to repeat an eager run now."""
        self.uses += 1
        return self.uses == 1 or (self.uses >= AGAIN and self.uses.bit_count() == 1)


class Modes:
    """Which modes are open to something that is run often, for inputs of all shapes, and what is said once of
    the others.

    Args:
        compile: as for `ppl_vae.fit(compile=)`.
        what: is run, for messages: "training".
    """

    def __init__(self, compile: Compile, what: str) -> None:
        self.compile, self.what = compile, what
        self.closed: set[str] = set() if compile != "off" else set(MODES)
        self.findings: list[Finding] = []

    def close(self, mode: str, site: str | None, problem: str) -> None:
        """Leave a mode, and say why; where it was asked for that is an error."""
        if self.compile == "on":
            raise UserError(f"compile='on', but {problem}: use compile='auto' or 'off'")
        if mode not in self.closed:
            self.closed |= set(MODES[MODES.index(mode) :])
            goes_on = f"{self.what} goes on {'as it was' if mode == 'captured' else 'captured, not compiled'}"
            self.findings.append(Finding(site, problem, goes_on, "warning"))

    @contextmanager
    def opening(self, mode: str, runs: ShapeRuns) -> Iterator[None]:
        """Around what makes a mode ready: if that cannot be done the mode is closed, else these inputs go on in it."""
        try:
            yield
        except Uncapturable as error:
            self.close(mode, error.site, str(error))
        except CannotCompile as error:
            self.close(mode, None, str(error))
        else:
            runs.forward(mode)
