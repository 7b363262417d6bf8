"""What the files of a run folder hold, and the one way in which each is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from ppl_vae.errors import UserError
from ppl_vae.saving.reading import as_shape, damaged, read_json, read_lines

__all__ = [
    "DIAGNOSTICS",
    "EVALUATION",
    "HISTORY",
    "RUN",
    "WEIGHTS",
    "read_diagnostics",
    "read_evaluation",
    "read_history",
    "read_run",
]

RUN, WEIGHTS, HISTORY = "run.json", "weights.safetensors", "history.jsonl"
EVALUATION, DIAGNOSTICS = "evaluation.json", "diagnostics.json"

Count = Annotated[int, Meta(ge=0)]
Number = float | None
"""JSON has no NaN: null."""


class _Field(TypedDict):
    name: str
    kind: str
    shape: NotRequired[list[Annotated[int, Meta(ge=1)]]]
    cardinality: NotRequired[Count | None]
    missing: NotRequired[bool]
    names: NotRequired[list[str]]
    ordered: NotRequired[bool]


class _Schema(TypedDict):
    fields: list[_Field]


class _Source(TypedDict):
    name: NotRequired[str]
    path: NotRequired[str]
    sha256: NotRequired[str]
    options: NotRequired[dict[str, Any]]


class _Data(TypedDict):
    name: str
    source: _Source


class _Best(TypedDict):
    epoch: Count
    bound: float
    averaged: NotRequired[bool]


class _RunJson(TypedDict):
    model: dict[str, Any]
    guide: dict[str, Any]
    bound: NotRequired[dict[str, Any]]
    data: _Data
    schema: _Schema
    settings: NotRequired[dict[str, Any]]
    findings: NotRequired[list[str]]
    overridden: NotRequired[list[str]]
    best: NotRequired[_Best]
    start: NotRequired[dict[str, Any]]
    versions: NotRequired[dict[str, str]]
    sha256: NotRequired[dict[str, str]]


class _Epoch(TypedDict):
    epoch: Annotated[int, Meta(ge=1)]
    train: float
    beta: NotRequired[float]
    validation: NotRequired[Number]
    validation_objective: NotRequired[Number]
    objective: NotRequired[Number]
    rate: NotRequired[Number]
    distortion: NotRequired[Number]
    seconds: NotRequired[Number]


class _Diagnosis(TypedDict):
    verdict: str
    summary: dict[str, Any]
    rows: NotRequired[str]


def read_run(run: Path) -> dict[str, Any]:
    """What run.json holds.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = run / RUN
    with damaged(run, "name another folder"):
        there = file.is_file()
    if not there:
        raise UserError(f"{run} is no run folder (it has no {RUN}): make one with `ppl-vae fit`")
    return dict(read_json(file, _RunJson, "run the fit again"))


def read_history(run: Path) -> list[dict[str, Any]]:
    """The record of every epoch.

    Raises:
        UserError: there are none, or they are damaged.
    """
    file = run / HISTORY
    found = read_lines(file, _Epoch, "run the fit again")
    if [record["epoch"] for record in found] != list(range(1, len(found) + 1)) or not found:
        raise UserError(f"{file} is damaged (it does not hold all epochs in their order): run the fit again")
    return found


def read_evaluation(run: Path) -> dict[str, Any]:
    """The held-out numbers by the name of the rows; nothing if there are none.

    Raises:
        UserError: the file is damaged.
    """
    file, remedy = run / EVALUATION, "delete it and evaluate again"
    if not file.is_file():
        return {}
    found = read_json(file, dict[str, dict[str, Any]], remedy)
    with damaged(file, remedy):
        for summary in found.values():
            as_shape({k: v for k, v in summary.items() if k != "gap"}, dict[str, float | str | None])
            as_shape(summary, _Evaluated)
    return dict(found)


class _Evaluated(TypedDict):
    rows: Count
    particles: NotRequired[Count]
    gap: NotRequired[dict[str, float | str | None]]


def read_diagnostics(run: Path) -> dict[str, dict[str, Any]]:
    """The verdicts by the name of the diagnosis; nothing if there are none.

    Raises:
        UserError: the file is damaged.

    Example:
        >>> read_diagnostics(Path("nowhere"))
        {}
    """
    file, remedy = run / DIAGNOSTICS, "delete it and run `ppl-vae diagnose` again"
    if not file.is_file():
        return {}
    found = read_json(file, dict[str, _Diagnosis], remedy)
    for kind in found:
        if not re.fullmatch(r"[a-z][a-z-]*", kind):  # it becomes part of the name of a file
            raise UserError(f"{file} is damaged ({kind[:40]!r} is no diagnosis): {remedy}")
    return dict(found)
