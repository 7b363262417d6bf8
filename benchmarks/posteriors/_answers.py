"""The answers, the limits, and how draws are held against them; without torch, so that every peer can use it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
ELSEWHERE = HERE.parents[2] / "shared" / "posteriordb" / "gold.json"
SHIFT, LEAST, MOST, APART = 0.3, 0.8, 1.25, 0.15


class Compared(NamedTuple):
    """How far draws are from an answer, in its deviations, ratios of deviations and correlations."""

    shift: float
    low: float
    high: float
    apart: float

    @property
    def inside(self) -> bool:
        return self.shift <= SHIFT and self.low >= LEAST and self.high <= MOST and self.apart <= APART

    @property
    def words(self) -> str:
        return f"{self.shift:.2f} | {self.low:.2f} to {self.high:.2f} | {self.apart:.2f}"


def compared(draws: np.ndarray, answer: Mapping[str, Any]) -> Compared:
    """Of draws [draw, number] in the answer's order."""
    mean, sd = np.array(answer["mean"]), np.array(answer["sd"])
    ratio = draws.std(0) / sd
    apart = np.abs(np.corrcoef(draws.T) - np.array(answer["correlation"])).max()
    shift = np.abs((draws.mean(0) - mean) / sd).max()
    return Compared(*(float(v) for v in (shift, ratio.min(), ratio.max(), apart)))


def scalars(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    found = {}
    for name, value in values.items():
        array = np.asarray(value, float)
        for index in np.ndindex(array.shape[1:]):
            found[name + (f"[{', '.join(map(str, index))}]" if index else "")] = array[(slice(None), *index)]
    return found


def table(values: Mapping[str, Any], answer: Mapping[str, Any]) -> np.ndarray:
    """Draws [draw, number] in the answer's order, by their names or as they come."""
    each, names = scalars(values), answer["parameters"]
    known = [each[n] for n in names] if set(names) <= set(each) else [v for v in each.values() if v.std() > 1e-9]
    if len(known) != len(names):
        raise ValueError(f"{len(known)} numbers, where the answer has {len(names)}")
    return np.stack(known, 1)


def program(file: Path) -> Any:
    spec: Any = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def posteriors(names: list[str], gold: Path | None = None, more: bool = False) -> Iterator[tuple[Path, str, Any, Any]]:
    """File, name, answer and raw data of every posterior (None where they are not here), or of those named.

    `more` are the further ones, which were written after the package, to see what it does with what it has not seen.
    """
    folder = HERE / "more" if more else HERE
    answers = json.loads((HERE / ("more.json" if more else "gold.json")).read_text())
    gold = gold or ELSEWHERE
    elsewhere = json.loads(gold.read_text()) if gold.exists() else {}
    for file in sorted(folder.glob("[a-z]*.py")):
        if file.stem.startswith("nuts") or (names and file.stem not in names):
            continue
        text = file.read_text()
        name = text.split('NAME = "')[1].split('"')[0]
        answer = answers.get(name)
        raw = answer and (answer["data"] or elsewhere.get(name, {}).get("data"))
        yield file, name, answer, raw
