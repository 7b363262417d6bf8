"""Odd values, put in the place of arguments of right calls; and an end to what takes too long or too much."""

from __future__ import annotations

import functools
import inspect
import random
import resource
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
import torch
from calls import Call, calls, things

import ppl_vae

# -- odd values ----------------------------------------------------------------------------------------------------


class Odd:
    """A thing of no kind."""

    def __repr__(self) -> str:
        return "<odd>"


class Own(Exception):
    """What a function of the user's raises: it comes through as it is."""


def fails(*args: Any, **kwargs: Any) -> None:
    """A function of the user's that does not work."""
    raise Own("mine")


def _odd() -> dict[str, Any]:
    made = things()
    x = made.data.test["x"]
    return {
        "None": None,
        "True": True,
        "empty text": "",
        "text": "nonsense",
        "escape codes": "\x1b]0;title\x07",
        "long text": "x" * 10_000,
        "bytes": b"x",
        "-1": -1,
        "0": 0,
        "1": 1,
        "2.5": 2.5,
        "-0.1": -0.1,
        "nan": float("nan"),
        "inf": float("inf"),
        "1e308": 1e308,
        "10**12": 10**12,
        "10**30": 10**30,
        "-10**30": -(10**30),
        "1j": 1j,
        "np.int64": np.int64(2),
        "np.float32": np.float32(0.5),
        "np.bool": np.bool_(True),
        "np.array(2)": np.array(2),
        "np.array of numbers": np.array([1, 2]),
        "np.array of words": np.array(["a", "b"]),
        "np.array of objects": np.array([Odd(), Odd()], dtype=object),
        "np.array of nothing": np.zeros((0, 3)),
        "np.array of NaN": np.full((4, 3), np.nan),
        "np.array of inf": np.full((4, 3), np.inf),
        "np.array complex": np.ones((4, 3), dtype=complex),
        "torch.tensor(2)": torch.tensor(2),
        "tensor of no rows": torch.zeros(0, 3),
        "tensor of another shape": torch.zeros(3, 7, 7),
        "tensor of one column more": torch.zeros(5, 4),
        "tensor of doubles": x.double(),
        "a row": x[0],
        "frame of nothing": pandas.DataFrame(),
        "frame of others": pandas.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"]}),
        "series": pandas.Series([1.0, 2.0]),
        "[]": [],
        "()": (),
        "[1, 'a']": [1, "a"],
        "(0,)": (0,),
        "(10**9, 10**9)": (10**9, 10**9),
        "{}": {},
        "{'x': 3}": {"x": 3},
        "dict of others": {"nobody": x},
        "dict of unequal rows": {"x": x, "y": torch.zeros(3)},
        "{1: 2}": {1: 2},
        "set": {1, 2},
        "object": Odd(),
        "class": Odd,
        "function": lambda *args, **kwargs: None,
        "function that fails": fails,
        "module": ppl_vae,
        "generator": (i for i in range(3)),
        "Path": Path("no/such/file"),
        "slice": slice(3),
        "another model": made.half,
        "another guide": made.half_guide,
        "data": made.data,
        "labelled rows": made.labelled.test,
        "layer": torch.nn.Linear(3, 3),
        "dtype": torch.float16,
    }


@functools.cache
def odd() -> dict[str, Any]:
    """Odd values by name."""
    return _odd()


class Case(NamedTuple):
    """One fuzzed call."""

    call: Call
    changes: tuple[tuple[str, str], ...]
    """Which argument has which odd value, by its name."""

    def __str__(self) -> str:
        return f"{self.call.name}({', '.join(f'{name}={value}' for name, value in self.changes)})"

    def run(self) -> Any:
        """Make the call."""
        arguments = self.call.arguments | {name: odd()[value] for name, value in self.changes}
        return self.call.function(**arguments)


def single(some: Iterable[Call]) -> list[Case]:
    """Every parameter of these callables with every odd value."""
    found = []
    for call in some:
        parameters = inspect.signature(call.function).parameters.values()
        named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        names = dict.fromkeys([*named, *call.arguments])
        found += [Case(call, ((name, value),)) for name in names for value in odd()]
    return found


@functools.cache
def sampled(count: int, seed: int) -> list[Case]:
    """Some of these, every fourth with a second one of the same callable."""
    chance = random.Random(seed)
    cases = single(calls())
    of: dict[str, list[Case]] = {}
    for case in cases:
        of.setdefault(case.call.name, []).append(case)
    found = []
    for i, case in enumerate(chance.sample(cases, count)):
        other = chance.choice(of[case.call.name])
        changes = dict(case.changes) | (dict(other.changes) if i % 4 == 0 else {})
        found.append(Case(case.call, tuple(changes.items())))
    return found


# -- what may become of a call ---------------------------------------------------------------------------------------


class Slow(BaseException):
    """A call that did not come back."""


@contextmanager
def limited(seconds: int, gigabytes: float = 4.0) -> Iterator[None]:
    """Inside, what computes for longer is ended, and more memory than this is refused as on a small machine.

    Processor time counts, whatever else the machine does; a call that waits for ever is ended by the clock.
    """

    def ring(*_: Any) -> None:
        raise Slow

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    usual, most = resource.getrlimit(resource.RLIMIT_AS)
    before = {each: signal.signal(each, ring) for each in (signal.SIGPROF, signal.SIGALRM)}
    resource.setrlimit(resource.RLIMIT_AS, (taken + int(gigabytes * 2**30), most))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(30 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for each, handler in before.items():
            signal.signal(each, handler)
        resource.setrlimit(resource.RLIMIT_AS, (usual, most))
