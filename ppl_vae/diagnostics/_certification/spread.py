"""Very many rows: what is found is kept as it comes, shared among workers, and taken up where it was stopped."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.diagnostics._certification.certified import OUT_OF_TIME, Certified
from ppl_vae.diagnostics._certification.climb import Asked, Climb, planned
from ppl_vae.diagnostics._certification.methods import METHODS
from ppl_vae.diagnostics._certification.trials import Trials
from ppl_vae.diagnostics._certification.validation import Validation
from ppl_vae.evaluation.parts import Parts, in_parts
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.saving.reading import damaged

__all__ = ["kept", "spread"]

ROWS = 100
"""So many rows are a part: as many as go through a method together where a row has some ten latent numbers."""

DRAWS = "draws of "
"""What the names of columns with draws begin with; each entry is the draws of a row, a list of lists."""


class _LateError(Exception):
    """The time was up within a part, of which this is known."""

    def __init__(self, table: Any) -> None:
        super().__init__(table)
        self.table = table


@dataclass(frozen=True)
class _Part:
    """Certify some rows of many, wherever this is called: every part tries methods on the same simulated rows."""

    like: Split
    folder: Path
    seed: int
    ends: float | None

    def __call__(self, model: Any, guide: Any, rows: Split, *, seed: int, validate: int, **asked: Any) -> Any:
        pair = Pair(model, guide)
        ends = None if self.ends is None else time.monotonic() + self.ends - time.time()
        some, wishes = rows.to(pair.device), Asked(seed=seed, ends=ends, **asked)
        trials = Trials(self.like.to(pair.device), validate, self.seed, self.folder)
        with planned(pair, some, wishes) as plan:
            found = Climb(pair, plan, wishes).all_rows(trials, lambda words: None)
        table = _table(found)
        if OUT_OF_TIME in found.reasons.values():
            raise _LateError(table)
        return table


def spread(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    asked: Asked,
    validate: int,
    out: Path,
    executor: Executor | None,
    say: Callable[[str], None],
) -> Certified:
    """Certify the rows part by part; what is in the folder already is not made again.

    Raises:
        OtherCall: for a folder of other rows, programs or wishes.
        UserError: as `certify` does, and for a worker that dies.
    """
    began, before = time.monotonic(), -1
    ends = None if asked.ends is None else time.time() + asked.ends - time.monotonic()
    part = _Part(split.rows(slice(0, max(validate, 1))), out, asked.seed, ends)

    def progress(done: int, rows: int) -> None:
        nonlocal before
        before = max(done - ROWS, 0) if before < 0 else before  # what was there when this began cost no time
        pace = (time.monotonic() - began) / max(done - before, 1)
        left = f"{rows - done:,} left, about {pace * (rows - done):,.0f} s" if done < rows else "none left"
        say(f"{done:,} of {rows:,} rows are done, {left}")

    _refuse(Pair(model, guide), split, asked)
    wishes = asked._asdict() | {"validate": validate}
    del wishes["seed"], wishes["ends"]
    late: Any = None
    try:
        in_parts(
            part,
            *(model, guide, split),
            out=out,
            size=ROWS,
            seed=asked.seed,
            executor=executor,
            progress=progress,
            **wishes,
        )
    except _LateError as stop:
        late = stop.table
    return replace(kept(Parts(out, len(split), ROWS), asked.accuracy, late), fingerprint=split.fingerprint())


@exclusive
def _refuse(pair: Pair, split: Split, asked: Asked) -> None:
    """What is refused is refused before the work, with the number that a row has among all."""
    plain = asked._replace(compile="off")
    with planned(pair, split, plain) as plan:
        Climb(pair, plan, plain).refuse_rows_without_density()


def kept(parts: Parts, accuracy: float, late: Any = None) -> Certified:
    """What a folder has of all rows; of those of missing parts nothing is known, but of the first of them `late`."""
    tables: list[tuple[range, Any]] = []
    for rows in parts.ranges():
        if parts.path(rows).is_file():
            import pandas

            with damaged(parts.path(rows), "delete it and certify again"):
                tables.append((rows, pandas.read_parquet(io.BytesIO(parts.path(rows).read_bytes()))))
        elif late is not None and len(late) == len(rows):
            tables.append((rows, late))
            late = None
    return _assembled(parts, tables, accuracy)


def _table(found: Certified) -> Any:
    """All of it as a DataFrame, a line a row."""
    import pandas

    columns: dict[str, Any] = {n: _plain(v) for n, v in found.columns().items()}
    for name, values in found.draws.items():
        columns[f"{DRAWS}{name}"] = [_nested(v) for v in values.detach().cpu().movedim(1, 0).numpy()]
    table = pandas.DataFrame(columns)
    table.attrs = {
        "seconds": dict(found.seconds),
        "reasons": dict(found.reasons),
        "validations": {n: v.numbers() for n, v in found.validations.items()},
    }
    return table


def _assembled(parts: Parts, tables: list[tuple[range, Any]], accuracy: float) -> Certified:
    count = parts.rows
    columns: dict[str, Any] = {}
    for name in ("log_evidence", "khat"):
        columns[name] = torch.full((count,), torch.nan, dtype=torch.float64)
    columns["log_evidence_se"] = torch.full((count,), torch.inf, dtype=torch.float64)
    columns["cost"] = torch.zeros(count, dtype=torch.float64)
    method, sure = ["none"] * count, torch.zeros(count, dtype=torch.bool)
    seconds: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    validations: dict[str, Validation] = {}
    draws: dict[str, Tensor] = {}
    for rows, table in tables:
        at = slice(rows.start, rows.stop)
        with damaged(parts.path(rows), "delete it and certify again"):
            for name, values in columns.items():
                values[at] = torch.from_numpy(table[name].to_numpy("float64", copy=True))
            method[at] = [str(m) for m in table["method"]]
            sure[at] = torch.from_numpy(table["certified"].to_numpy(bool, copy=True))
            seconds.update(table.attrs["seconds"])
            reasons |= table.attrs["reasons"]
            validations |= {n: Validation(**v) for n, v in table.attrs["validations"].items()}
            for name in (n for n in table.columns if n.startswith(DRAWS)):
                some = torch.from_numpy(np.stack([_stacked(v) for v in table[name]], axis=1))
                empty = torch.nan if some.is_floating_point() else 0
                site = name.removeprefix(DRAWS)
                draws.setdefault(site, some.new_full((len(some), count, *some.shape[2:]), empty))[:, at] = some
    if any(not parts.path(rows).is_file() for rows in parts.ranges()):
        reasons["rows that were not reached"] = OUT_OF_TIME
    return Certified(
        **columns,
        method=tuple(method),
        certified=sure,
        accuracy=accuracy,
        seconds={m.name: seconds[m.name] for m in METHODS if m.name in seconds},
        reasons=reasons,
        validations={m.name: validations[m.name] for m in METHODS if m.name in validations},
        draws=draws,
    )


def _plain(values: Any) -> Any:
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def _nested(values: np.ndarray) -> Any:
    """An array as Parquet takes it: lists of arrays of one dim."""
    return values if values.ndim <= 1 else [_nested(v) for v in values]


def _stacked(values: Any) -> np.ndarray:
    """Such lists as an array again."""
    values = np.asarray(values) if not isinstance(values, np.ndarray) else values
    return np.stack([_stacked(v) for v in values]) if values.dtype == object else values
