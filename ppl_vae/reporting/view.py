"""Held-out rows as a report shows them, and what a trained pair makes of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppl_vae.checks.analysis import analyse
from ppl_vae.data import Data, Field, Schema, Split, as_split
from ppl_vae.data.convert import missing_in
from ppl_vae.errors import UserError
from ppl_vae.prediction.coding import decode, decode_columns, encode
from ppl_vae.prediction.latents import Latents, TraceSites, continuous_latents, draw_pair
from ppl_vae.prediction.places import Places, find_places
from ppl_vae.programs.missing import can_enumerate
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.structure import frames

__all__ = ["View", "held_out", "look", "response_of"]

MOST = 2000
"""Rows that a report looks at: more of them would make no figure clearer."""

DRAWS = 16


@dataclass(frozen=True)
class View:
    """Some rows of a split and the programs that were trained for them.

    Attributes:
        pair: model and guide.
        split: what the rows are, such as "test".
        numbers: which rows of the split they are.
        schema: what the fields of the rows are.
        batch: the rows, by field name, on the device of the pair.
        columns: the fields that are drawn side by side, if the rows are those of a table; else empty.
        site: the observed site that is drawn; the first of the columns.
        field: what its values are; of columns, the whole row.
        values: its values in the rows, [row, *S], missing entries NaN.
        label: the field that names the rows' classes, if there is one.
        latents: the continuous latents of the rows, in the order of the model.
        held: draws of the guide's other latents: discrete ones of the rows, and those that all rows share.
        places: where the guide puts all latents of the rows.
        pictures: the fields that can be drawn in the place of this one, by site, with their values in the rows.
        shared: names of the latents that all rows share.
        drawn: names of latents that the guide leaves to the model, which sums them out in training.
        conditions: the fields that the model is given and does not observe.
        classes: of discrete latents of single rows, the guide's probabilities [row, value].
        truth: labels of the rows by field, those that were hidden on purpose included; -1 where not known.
        points: names of latents that the guide draws from point masses, of which there is no evidence.
        flat: whether such a latent has an improper prior: a deterministic autoencoder.
        seed: of every draw.
    """

    pair: Pair
    split: str
    numbers: list[int]
    schema: Schema
    batch: Batch
    columns: tuple[Field, ...]
    site: str
    field: Field
    values: Tensor
    label: Field | None
    latents: list[Latents]
    held: Mapping[str, Tensor]
    places: Places
    pictures: Mapping[str, tuple[Field, Tensor]]
    shared: frozenset[str]
    drawn: tuple[str, ...]
    conditions: tuple[Field, ...]
    classes: Mapping[str, Tensor]
    truth: Mapping[str, Tensor]
    points: frozenset[str]
    flat: bool
    seed: int

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def labels(self) -> Tensor | None:
        """The class of each row, -1 where it is not known."""
        return None if self.label is None else self.truth[self.label.name]

    def class_of(self, row: int) -> str | None:
        """The name of the class of a row, if it is known."""
        code = -1 if self.labels is None else int(self.labels[row])
        names = () if self.label is None else self.label.names
        return None if code < 0 else names[code] if code < len(names) else str(code)

    def name(self, row: int) -> str:
        """What a reader calls a row, such as "test row 12 (class 3)"."""
        known = self.class_of(row)
        return f"{self.split} row {self.numbers[row]}" + ("" if known is None else f" (class {known})")

    @property
    def averages(self) -> bool:
        """Whether a reconstruction is a mean over draws, because some latent of a row has no mean."""
        return bool(self.held.keys() - self.shared or self.drawn)

    def decode(
        self,
        latents: Mapping[str, Tensor],
        rows: list[int],
        *,
        given: Mapping[str, Tensor] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """E[x | z] for latents of these rows, [row, *S]; the others stay or follow (`Places.settled`).

        `given` are other values [row] of labels, be they latents or conditions.
        """
        with torch.no_grad():
            settled = dict(self.places.settled(latents, rows))
        batch = dict(self._given(rows))
        for name, values in (given or {}).items():
            for known in (settled, batch):
                if name in known:
                    known[name] = values.to(known[name])
        return self._run(settled, batch, seed=seed)

    def levels(self, name: str) -> Tensor:
        """The value of a label in each row, as it is known or where the guide puts it, [row]."""
        values = self.places.values[name] if name in self.places.values else self.batch[name]
        return values.reshape(len(self)).long().cpu().clamp(min=0)

    def each(self) -> list[View]:
        """A view of every field that can be drawn, this one first."""
        others = [
            replace(self, site=site, field=field, values=values, columns=())
            for site, (field, values) in self.pictures.items()
            if site != self.site
        ]
        return [self, *others]

    @property
    def suffix(self) -> str:
        """What tells the figures of this field apart, where several are drawn."""
        return f"-{self.site}" if len(self.pictures) > 1 else ""

    @property
    def of_what(self) -> str:
        """The field, in words, where several are drawn."""
        return f" of {self.site}" if len(self.pictures) > 1 else ""

    def drawn_again(self, rows: list[int]) -> Tensor:
        """x from p(x | z) for one z of each row from the guide: what is to be compared with rows of data."""
        batch = {n: v[rows] for n, v in self.batch.items()}
        guide, _ = draw_pair(self.pair, batch, self.seed)
        drawn = {n: s["value"] for n, s in guide.items() if not s["is_observed"]}
        return self._run(drawn, self._given(rows), draw=True)

    def reconstruct(self, rows: list[int]) -> Tensor:
        """E[x | z] at the posterior means; with discrete latents, its mean over 16 draws from the guide."""
        if not self.averages:
            return self.decode({s.site: s.shaped(s.mean[rows]) for s in self.latents}, rows)
        batch, total = {n: v[rows] for n, v in self.batch.items()}, torch.zeros(())
        for seed in range(self.seed, self.seed + DRAWS):
            guide, _ = draw_pair(self.pair, batch, seed)
            drawn = {n: s["value"] for n, s in guide.items() if not s["is_observed"]}
            total = total + self.decode(drawn, rows, seed=seed) / DRAWS
        return total

    def prior(self, n: int, *, draw: bool = False, given: Mapping[str, int] | None = None) -> Tensor:
        """E[x | z] (or a draw of x) for n latents from the prior, [n, *S], some of them `given`."""
        rows = [i % len(self) for i in range(n)]
        held = {name: self.held[name] for name in self.shared}
        held |= {name: torch.full((n,), value, device=self.pair.device) for name, value in (given or {}).items()}
        return self._run(held, self._given(rows, labels=False), draw=draw)

    def under(self, condition: Field, n: int) -> Tensor:
        """E[x | z, c] for n draws of z, the same under every category of a condition, [category, n, *S]."""
        rows = [i % len(self) for i in range(n)]
        shared, given = {name: self.held[name] for name in self.shared}, self._given(rows, labels=False)
        now = given[condition.name]
        codes = range(condition.cardinality or 2)
        return torch.stack([self._run(shared, {**given, condition.name: torch.full_like(now, c)}) for c in codes])

    def _given(self, rows: list[int], *, labels: bool = True) -> Batch:
        """The fields that the model is given: of single values those that it needs, or that all rows have."""
        wanted, drawn = {}, {self.field.name, *(column.name for column in self.columns)}
        for name, values in self.batch.items():
            needed = name in drawn or self.pair.model.arguments.get(name, False)
            known = labels and name in self.schema and not bool(missing_in(self.schema[name].kind, values).any())
            if needed or known or values.dim() > 1:
                wanted[name] = values[rows]
        return wanted or {name: values[rows] for name, values in self.batch.items()}

    def _run(
        self, latents: Mapping[str, Tensor], batch: Batch, *, draw: bool = False, seed: int | None = None
    ) -> Tensor:
        with preserved_randomness():
            seed_draws(self.seed if seed is None else seed)
            try:
                found = self._decode(latents, batch, draw=draw)
            except (NotImplementedError, AttributeError):  # no closed-form mean: the mean of some draws
                many = [self._decode(latents, batch, draw=True) for _ in range(DRAWS)]
                found = torch.stack([one.float() for one in many]).mean(0)
        rows = len(next(iter(batch.values())))
        return found.detach().cpu().float().reshape(rows, *self.field.shape)

    def _decode(self, latents: Mapping[str, Tensor], batch: Batch, *, draw: bool) -> Tensor:
        if self.columns:
            return decode_columns(self.pair.model, latents, batch, self.columns, draw=draw)
        return decode(self.pair.model, latents, batch, self.site, draw=draw)


def response_of(view: View) -> tuple[str, Tensor] | None:
    """The response of a regression in the rows that are shown, [row], if it is a number of each row."""
    name = getattr(getattr(view.pair.model.public, "response", None), "name", None)
    if not isinstance(name, str) or name not in view.batch:
        return None
    if view.schema[name].shape or view.schema[name].kind in ("categorical", "binary"):
        return None
    return name, view.batch[name].detach().cpu().float()


def held_out(data: Data | Split) -> Split:
    """The rows that a report shows: the test split, else validation, else train."""
    if isinstance(data, Split):
        return data
    return next(s for s in (data.test, data.validation, data.train) if s is not None)


def look(pair: Pair, data: Data | Split, schema: Schema, *, seed: int = 0) -> View:
    """At most 2,000 rows, chosen with a seed, and what the pair makes of them.

    Raises:
        UserError: for rows that do not fit the schema, or a pair that breaks the contract.
    """
    split = as_split(held_out(data), schema=schema)
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randperm(len(split), generator=generator)[:MOST]
    split = split.rows(numbers).to(pair.device)
    batch = split.batch(generator=torch.Generator(pair.device).manual_seed(seed))
    structure = analyse(pair, {n: v[:4] for n, v in batch.items()})
    guide, model = draw_pair(pair, batch, seed)
    latents = continuous_latents(pair, batch, seed=seed)
    known = {s.site for s in latents}
    held = {n: s["value"] for n, s in guide.items() if not s["is_observed"] and n not in known | structure.auxiliary}
    held = {n: v for n, v in held.items() if n in structure.global_latents or len(v) == len(numbers)}
    shared = frozenset(structure.global_latents & held.keys())
    if shared:
        means = encode(pair.guide, batch, seed=seed)
        held |= {n: means[n] for n in shared}
    columns, site, field, values, pictures = _drawn(model, batch, split.schema)
    return View(
        pair=pair,
        split="training" if split.name == "train" else "data" if split.name == "rows" else split.name,
        numbers=numbers.tolist(),
        schema=split.schema,
        batch=batch,
        columns=columns,
        site=site,
        field=field,
        values=values,
        label=_label(split.schema, field),
        latents=latents,
        held=held,
        places=find_places(pair, batch, split.schema, seed=seed),
        pictures=pictures,
        shared=shared,
        drawn=tuple(n for n, s in model.items() if not s["is_observed"] and n not in guide),
        classes=_classes(pair, batch, guide, known, structure.global_latents, seed),
        truth={f.name: split.truth(f.name).nan_to_num(-1).long().cpu() for f in split.schema if _is_class(f)},
        conditions=tuple(f for f in split.schema if pair.model.arguments.get(f.name) and f.name not in model),
        points=structure.points - structure.global_latents,
        flat=bool(structure.improper),
        seed=seed,
    )


Shown = tuple[tuple[Field, ...], str, Field, Tensor, dict[str, tuple[Field, Tensor]]]


def _drawn(model: TraceSites, batch: Batch, schema: Schema) -> Shown:
    """The observed site to draw: a picture if there is one, else the largest; the field that it shows; all pictures.

    Of a table with a site for each column all columns, side by side.
    """
    found = []
    for name, site in model.items():
        if not site["is_observed"] or type(site["fn"]).__name__ in ("Unit", "Delta"):
            continue
        namesake_first = sorted(schema, key=lambda f: f.name != name)  # two columns may hold the same values
        field = next((f for f in namesake_first if _shows(site["value"], batch[f.name], f)), None)
        if field is not None:
            found.append((name, field, batch[field.name]))
        elif len(site["value"]):
            # The program observes something that it made of the data itself: then that is what is drawn.
            shape = tuple(site["value"].shape[1:])
            found.append((name, Field(name, "real", shape), site["value"]))
    if not found:
        raise UserError("the model observes nothing that could be drawn: give a sample statement obs=x")
    name, field, values = max(found, key=lambda f: (f[1].is_image, f[1].size, f[0] == "x"))
    columns = tuple(f for n, f, _ in found if n == f.name) if field.shape == () and name != "x" else ()
    if len(columns) < 2:
        pictures = {n: (f, _with_gaps(f, v)) for n, f, v in found if f.shape}
        return (), name, field, _with_gaps(field, values), pictures
    row = Field("row", "real", (len(columns),), names=tuple(c.name for c in columns))
    together = torch.stack([_with_gaps(c, batch[c.name]) for c in columns], dim=-1)
    return columns, columns[0].name, row, together, {}


def _shows(value: Tensor, stored: Tensor, field: Field) -> bool:
    """Whether a site's value is a field, but for its shape and its missing entries."""
    if value.numel() != stored.numel():
        return False
    there = ~missing_in(field.kind, stored).reshape(-1)
    return bool((value.reshape(-1)[there] == stored.reshape(-1)[there]).all())


def _with_gaps(field: Field, values: Tensor) -> Tensor:
    return values.detach().float().masked_fill(missing_in(field.kind, values), torch.nan).cpu()


def _label(schema: Schema, drawn: Field) -> Field | None:
    found = [f for f in schema if _is_class(f) and f.name != drawn.name]
    return next((f for f in found if f.name == "y"), found[0] if found else None)


def _is_class(field: Field) -> bool:
    return field.shape == () and field.kind in ("categorical", "binary")


def _classes(
    pair: Pair, batch: Batch, guide: TraceSites, known: Collection[str], shared: Collection[str], seed: int
) -> dict[str, Tensor]:
    """q(label | x) of the discrete latents of single rows that the guide draws, a label in the batch being hidden."""
    sites = [n for n, s in guide.items() if n not in {*known, *shared} and not s["infer"].get("is_auxiliary")]
    sites = [n for n in sites if can_enumerate(guide[n]["fn"]) and len(frames(guide[n])) == 1]
    if not sites:
        return {}
    means = encode(pair.guide, batch, seed=seed)
    return {n: means[n].detach().cpu().float() for n in sites if means[n].dim() == 2}
