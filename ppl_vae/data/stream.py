"""Rows that are read block by block while they are gone through, and never all in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._ahead import ahead
from ppl_vae.data._order import BufferedBatches
from ppl_vae.data._reader import PARTS, Reader
from ppl_vae.data.dataset import Split, Streamed
from ppl_vae.data.rows import Moments
from ppl_vae.data.schema import Schema
from ppl_vae.errors import UserError, absent_field

__all__ = ["Stream"]


class Stream(Split):
    """Rows of one part of a store, read block by block; whoever needs all of them in memory is refused.

    The rows are numbered in the order of the store. `head` are the first ones, from which models are made.
    """

    def __init__(
        self,
        reader: Reader,
        name: str,
        counts: Sequence[int],
        streamed: Streamed | None,
        sha256: str,
        schema: Schema | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        for key, value in {
            "reader": reader,
            "name": name,
            "counts": tuple(int(c) for c in counts),
            "streamed": streamed,
            "sha256": sha256,
            "schema": schema or reader.schema,
            "draws": frozenset(),
            "hidden": {},
            "outliers": None,
            "groups": (),
            "_device": torch.device(device),
            "_cache": {},
        }.items():
            object.__setattr__(self, key, value)
        ends = np.cumsum([0, *self.counts])
        object.__setattr__(self, "starts", ends)

    is_streamed: ClassVar[bool] = True

    reader: Reader
    counts: tuple[int, ...]
    starts: np.ndarray
    sha256: str

    @property
    def fields(self) -> dict[str, Tensor]:
        """Not there: the rows are not in memory."""
        raise self._refused()

    def _refused(self) -> UserError:
        return UserError(
            f"these {len(self):,} {self.name} rows are streamed, and this looks at all of them at once: pass some, "
            f"such as data.{self.name}.head, or load them in memory"
        )

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, name: Any) -> Any:
        if isinstance(name, str):
            self.schema[name]
            raise self._refused()
        return super().__getitem__(name)

    def __repr__(self) -> str:
        blocks = sum(c > 0 for c in self.counts)
        return f"Stream({self.name}, {len(self)} rows in {blocks} blocks; {'; '.join(map(str, self.schema))})"

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        found: torch.device = self._device  # type: ignore[attr-defined]
        return found

    def _like(self, schema: Schema | None = None, device: torch.device | str | None = None) -> Stream:
        return Stream(
            self.reader,
            self.name,
            self.counts,
            self.streamed,
            self.sha256,
            schema or self.schema,
            device or self.device,
        )

    def to(self, device: torch.device | str) -> Stream:
        """The same rows on another device."""
        return self if torch.device(device) == self.device else self._like(device=device)

    def select(self, names: Iterable[str]) -> Stream:
        """Only these fields."""
        wanted = {names} if isinstance(names, str) else set(names)
        for name in wanted:
            self.schema[name]
        if not wanted:
            raise UserError("select expects at least one field name, got none")
        return self._like(schema=self.schema.of(f for f in self.schema if f.name in wanted))

    def conformed(self, schema: Schema) -> Stream:
        """The same rows as the fields of other rows have them; values that do not fit are refused as they are read.

        Raises:
            UserError: for a field that is absent or of another kind.
        """
        for wanted in schema:
            optional = wanted.missing or (wanted.kind == "categorical" and not wanted.shape)
            if wanted.name not in self.schema and not optional:
                raise absent_field(wanted.name, self.schema.names)
            if wanted.name in self.schema and self.schema[wanted.name].kind != wanted.kind:
                raise UserError(
                    f"field {wanted.name!r} expects kind {wanted.kind}, got {self.schema[wanted.name].kind}: load it "
                    "as the training data were loaded (kinds=)"
                )
        known = schema.of(f for f in schema if f.name in self.schema or f.missing)
        reader = replace(self.reader, schema=known, looked_at=False)
        return Stream(reader, self.name, self.counts, self.streamed, self.sha256, device=self.device)

    # -- rows --------------------------------------------------------------------------------------------------

    def _block(self, number: int) -> dict[str, Tensor]:
        part = PARTS.index(self.name)
        return self.reader.block(number, part, self.schema)

    def _blocks(self, first: int = 0) -> Iterator[tuple[int, dict[str, Tensor]]]:
        for number in range(first, len(self.counts)):
            if self.counts[number]:
                yield number, self._block(number)

    def batch(self, index: Tensor | slice | None = None, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """These rows by field name, in the order that is asked for.

        Raises:
            UserError: for all rows at once.
        """
        if index is None:
            raise self._refused()
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        rows = index.cpu().numpy()
        rows = np.where(rows < 0, rows + len(self), rows)
        of = np.searchsorted(self.starts, rows, side="right") - 1
        made: dict[str, Tensor] = {}
        for number in np.unique(of) if len(rows) else [int(np.argmax(self.counts))]:
            block = self._kept_block(int(number))
            here = torch.from_numpy(np.flatnonzero(of == number))
            inside = torch.from_numpy(rows[here.numpy()] - self.starts[number])
            for name, values in block.items():
                like = made.get(name)
                made[name] = values.new_empty((len(rows), *values.shape[1:])) if like is None else like
                made[name][here] = values[inside]
        return self._placed(made)

    def _kept_block(self, number: int) -> dict[str, Tensor]:
        """A block, of which the last two that were asked for are kept."""
        cache: dict[int, dict[str, Tensor]] = self._cache  # type: ignore[attr-defined]
        if number not in cache:
            while len(cache) > 1:
                cache.pop(next(iter(cache)))
            cache[number] = self._block(number)
        return cache[number]

    def _placed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.device.type == "cpu":
            return batch
        return {name: values.to(self.device, non_blocking=True) for name, values in batch.items()}

    def rows(self, index: Tensor | slice) -> Split:
        """These rows, in memory."""
        names = self.schema.names
        fields = self.batch(index)
        return Split(self.schema, self.name, {name: fields[name] for name in names})

    def scan(self, rows: int) -> Iterator[dict[str, Tensor]]:
        """All rows in their order, so many at a time, the next block read while one is used."""
        held: dict[str, Tensor] | None = None
        for _, block in ahead(self._blocks()):
            held = block if held is None else {n: torch.cat([held[n], v]) for n, v in block.items()}
            count = len(next(iter(held.values())))
            for start in range(0, count - rows + 1, rows):
                yield self._placed({n: v[start : start + rows] for n, v in held.items()})
            left = count % rows
            held = {n: v[count - left :] for n, v in held.items()} if left else None
        if held is not None:
            yield self._placed(held)

    def stored(self, name: str, rows: int) -> Iterator[Tensor]:
        """The values of a field in the order of the rows, those of so many rows at a time."""
        for batch in self.select([name]).scan(rows):
            yield batch[name]

    def batches(self, size: int, generator: torch.Generator) -> BufferedBatches:
        """The numbers of the rows of every batch of an epoch."""
        return self._order.batches(size, generator)

    @property
    def _order(self) -> Any:
        if self.streamed is None:
            raise self._refused()
        return self.streamed.order

    def served(
        self, batches: Sequence[Tensor], generator: torch.Generator | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The batches of an epoch from number `start` on; buffers are read and shuffled ahead, on a thread."""
        if not isinstance(batches, BufferedBatches):
            yield from super().served(batches, generator, start)
            return
        if start >= len(batches):
            return
        place = start
        first = batches.window_at(batches.span(start)[0])
        at, held = batches.edges[first], dict[str, Tensor]()
        for number, buffer in ahead((n, self._buffer(batches, n)) for n in range(first, len(batches.windows))):
            held = {n: torch.cat([held[n], v]) for n, v in buffer.items()} if held else buffer
            while place < len(batches):
                low, high = batches.span(place)
                if high > batches.edges[number + 1]:
                    break
                yield batches[place], self._placed({n: v[low - at : high - at] for n, v in held.items()})
                place += 1
            if place == len(batches):
                return
            low = batches.span(place)[0]
            held = {n: v[low - at :].clone() for n, v in held.items()}
            at = low

    def _buffer(self, batches: BufferedBatches, number: int) -> dict[str, Tensor]:
        """The rows of a buffer in the order of the epoch."""
        blocks = [self._block(block) for block in batches.windows[number]]
        order = batches.shuffle(number)
        return {name: torch.cat([block[name] for block in blocks])[order] for name in blocks[0]}

    # -- what is known of all of them --------------------------------------------------------------------------

    @property
    def head(self) -> Split:
        """The first rows, in memory."""
        cache: dict[Any, Any] = self._cache  # type: ignore[attr-defined]
        key = ("head", self.device)
        if key not in cache:
            count = min(len(self), self.streamed.head if self.streamed is not None else 1000)
            cache[key] = self.rows(slice(0, count))
        found: Split = cache[key]
        return found

    def moments(self, name: str) -> Moments:
        """Mean and variance of a field: of all rows, or of the first where it did not come as numbers."""
        known = {} if self.streamed is None else self.streamed.moments
        return super().moments(name) if name in known else self.head.moments(name)

    @property
    def sample(self) -> Split:
        """Rows in memory that programs are read on."""
        if not self.reader.looked_at:
            return self.head
        return super().sample

    def in_memory(self) -> Split:
        """The same rows in memory, in their order, which are gone through in the order of the stream."""
        blocks = [block for _, block in self._blocks()]
        fields = {name: torch.cat([block[name] for block in blocks]).to(self.device) for name in self.schema.names}
        return Split(self.schema, self.name, fields, streamed=self.streamed)

    def inliers(self) -> Stream:
        """These rows: no outliers are known of a stream."""
        return self

    def truth(self, name: str) -> Tensor:
        """Not there: the rows are not in memory."""
        raise self._refused()

    def fingerprint(self) -> str:
        """A hash of all values, and of which of them these are."""
        return f"{self.sha256} {self.name} {self.reader.parts}"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_cache"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for key, value in (state | {"_cache": {}}).items():
            object.__setattr__(self, key, value)
