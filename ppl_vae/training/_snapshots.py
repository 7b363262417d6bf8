"""Keep what a pair makes of the same rows at chosen epochs; see `ppl_vae.runs.snapshots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import Data, Rows, Split, as_split
from ppl_vae.data.convert import missing_in
from ppl_vae.distributions import unwrapped
from ppl_vae.errors import Finding, UserError
from ppl_vae.evaluation.passes import judging
from ppl_vae.prediction.latents import continuous_latents, draw_pair
from ppl_vae.prediction.places import find_places
from ppl_vae.programs.program import Pair
from ppl_vae.programs.structure import Structure
from ppl_vae.runs.snapshots import Snapshot, Snapshots, in_order, read_snapshots

__all__ = ["Recorder", "recorder"]

ROWS = 1000

NUMBERS = 2**20
"""Of reconstructions a snapshot holds so many numbers at most, of fewer rows where these are large; of codes too."""


class Recorder:
    """Takes snapshots of a run, and writes each where the run has a folder, so that a continued run has them all."""

    def __init__(self, pair: Pair, split: Split, asked: Sequence[int], seed: int) -> None:
        self.pair, self.asked, self.seed = pair, tuple(asked), seed
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
        self.numbers = order[:ROWS]
        some = split.rows(self.numbers).to(pair.device)
        generator = torch.Generator(pair.device).manual_seed(seed)
        self.batch = some.batch(generator=generator)  # grey levels are drawn once, for all epochs
        self.split, self.folder = some, Path()
        self.taken: dict[int, Snapshot] = {}

    def look(self, epoch: int, folder: Path | None) -> None:
        """Take the snapshot of an epoch, if it is asked for."""
        if epoch not in self.asked or epoch in self.taken:
            return
        self.taken[epoch] = self._taken(epoch)
        if folder is not None:
            from ppl_vae.saving.atomic import write

            write(folder / _file(epoch), self._of([self.taken[epoch]]).packed("checkpoint"))

    def resume(self, folder: Path, epoch: int) -> None:
        """Take over those of the epochs that are done."""
        for file in sorted(folder.glob("snapshot-*.safetensors")):
            found = read_snapshots(file)
            if found is not None and found.rows == tuple(self.numbers.tolist()):
                self.taken |= {one.epoch: one for one in found.each if one.epoch <= epoch}

    def found(self, epochs: int) -> Snapshots | None:
        """All of them, of epochs that were whole."""
        return self._of(list(self.taken.values())).until(epochs) if self.taken else None

    def findings(self, epochs: int) -> tuple[Finding, ...]:
        """What was asked for and is not there."""
        absent = [epoch for epoch in self.asked if epoch not in self.taken or epoch > epochs]
        if not absent:
            return ()
        told = ", ".join(map(str, absent[:6])) + (", ..." if len(absent) > 6 else "")
        passed = "training ended before, or was past them when they were asked for"
        return (
            Finding(
                None, f"no snapshot of epoch {told} was kept: {passed}", "ask for epochs that there are", "warning"
            ),
        )

    def _taken(self, epoch: int) -> Snapshot:
        batch = self.batch
        with judging(self.pair, self.seed):
            sites = continuous_latents(self.pair, batch, seed=self.seed)
            guide, _ = draw_pair(self.pair, batch, self.seed)
            rows = list(range(self._drawn_rows()))
            places = find_places(self.pair, batch, self.split.schema, seed=self.seed)
            decoded = places.decode(places.of(rows), rows) if rows else {}
        means = {s.site: _plain(s.mean) for s in sites}
        deviations = {s.site: _deviation(guide[s.site]["fn"], s.mean) for s in sites}
        fields = {n: _plain(v) for n, v in decoded.items() if n in self.split.schema}
        return Snapshot(epoch, means, deviations, fields)

    def _drawn_rows(self) -> int:
        """Rows whose reconstructions are kept."""
        size = sum(field.size for field in self.split.schema)
        return min(len(self.numbers), max(8, NUMBERS // max(size, 1)))

    def _of(self, several: list[Snapshot]) -> Snapshots:
        each = in_order(several)
        count = next((len(v) for v in each[0].reconstructions.values()), 0)
        values = {n: _with_gaps(self.split, n, self.batch[n][:count]) for n in each[0].reconstructions}
        labels, label, names = _labels(self.split)
        rows = tuple(self.numbers.tolist())
        return Snapshots(each, rows, self.split.name, values, labels, label, names, _limits(self.split, values))


def recorder(
    pair: Pair, structure: Structure, data: Any, train: Rows, validation: Rows | None, asked: Any, seed: int
) -> Recorder | None:
    """What takes the snapshots that are asked for; None where there are none.

    Raises:
        UserError: the pair has no continuous latents of single rows, or too many of them.
    """
    if asked is None:
        return None
    held = data.test if isinstance(data, Data) and data.test is not None else None
    rows = next(r for r in (held, validation, train) if r is not None)
    if structure.is_one_unit or structure.rows_total or train.is_one_unit:
        raise UserError("snapshots keep codes of rows, and all data here are one unit: leave snapshots out")
    found = Recorder(pair, as_split(rows if isinstance(rows, Split) else rows.head, schema=train.schema), asked, seed)
    with judging(pair, seed):
        few = {n: v[:4] for n, v in found.batch.items()}
        sites = continuous_latents(pair, few, seed=seed)
    if not sites:
        raise UserError(
            "snapshots keep codes of rows, and this pair has no continuous latents of rows: leave snapshots out"
        )
    size = sum(s.mean.shape[1] for s in sites)
    if 2 * size * len(found.numbers) > 4 * NUMBERS:
        raise UserError(
            f"snapshots of {size:,} latents of {len(found.numbers):,} rows take too much room: leave snapshots out"
        )
    return found


def _file(epoch: int) -> str:
    return f"snapshot-{epoch:06d}.safetensors"


def _plain(values: Tensor) -> Tensor:
    return values.detach().cpu().float()


def _deviation(fn: Any, mean: Tensor) -> Tensor:
    """The posterior deviation of every latent; NaN where the family tells none."""
    try:
        variance = unwrapped(fn).variance
        return _plain(variance.sqrt().expand_as(mean.reshape(variance.shape[:1] + (-1,))).reshape(mean.shape))
    except (NotImplementedError, AttributeError, RuntimeError):
        return torch.full(mean.shape, torch.nan)


def _with_gaps(split: Split, name: str, values: Tensor) -> Tensor:
    return _plain(values.float().masked_fill(missing_in(split.schema[name].kind, values), torch.nan))


def _limits(split: Split, values: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Black and white of the fields that are pictures."""
    found = {}
    for name, value in values.items():
        field = split.schema[name]
        if not field.is_image:
            continue
        seen = value[value.isfinite()]
        top = (field.cardinality or 2) - 1 if field.kind in ("categorical", "count") else None
        low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
        found[name] = (0.0, float(top)) if top else (0.0, 1.0) if field.kind in ("binary", "unit") else (low, high)
    return found


def _labels(split: Split) -> tuple[Tensor | None, str, tuple[str, ...]]:
    """The classes of the rows, what they are called, and their names."""
    classes = [f for f in split.schema if f.shape == () and f.kind in ("categorical", "binary")]
    field = next((f for f in classes if f.name == "y"), classes[0] if classes else None)
    if field is not None:
        return split.truth(field.name).nan_to_num(-1).long().cpu(), field.name, tuple(map(str, field.names))
    for name, values in split.factors.items():
        if len(values.unique()) <= 20:
            return values.unique(return_inverse=True)[1].cpu(), name, ()
    return None, "", ()
