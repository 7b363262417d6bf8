"""What latents that are moved make of rows: the values, and how they are drawn and kept."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.data import Field
from ppl_vae.display import Displayed
from ppl_vae.errors import UserError, check_known
from ppl_vae.saving.atomic import write
from ppl_vae.saving.paths import path_of

__all__ = ["Moved", "column_names", "limits_of"]


@dataclass(frozen=True, repr=False)
class Moved(Displayed):
    """E[field | latents] along lines of latents, as `traverse`, `interpolate` and `transfer` find it.

    Attributes:
        values: by field, [line, step, *S]; of a category without an order its likeliest level.
        lines: what each line is, such as "z3".
        steps: what each step is, such as "-2.5".
        axis: what the steps are.
        fields: what the fields are, by name, where that is known.
        notes: what follows the latents that are moved, and what is held or mixed.
    """

    values: Mapping[str, Tensor]
    lines: tuple[str, ...]
    steps: tuple[str, ...]
    axis: str
    fields: Mapping[str, Field]
    notes: tuple[str, ...] = ()

    def figure(self, field: str | None = None) -> Any:
        """A line of pictures for each line, a block of sentences; of other fields a panel, with a curve for each entry.

        Raises:
            UserError: for a field that there is not.
        """
        name = self._chosen(field)
        values, known = self.values[name].cpu().float(), self.fields.get(name)
        if values.dim() - 2 in (2, 3):
            limits = limits_of(known, values)
            return plots.grid(values, self.lines, limits=limits, axis=self.axis, columns=self.steps)
        if known is not None and known.is_text:
            return plots.sentences(values, known.names, self.lines, self.steps, axis=self.axis)
        entries = values.reshape(*values.shape[:2], -1)
        try:
            steps = [float(step) for step in self.steps]
        except ValueError:
            steps = [float(i) for i in range(len(self.steps))]
        names = column_names(name, entries.shape[-1], known)
        return plots.table_traversal(entries, steps, names=names, titles=list(self.lines), axis=self.axis)

    def _chosen(self, field: str | None) -> str:
        if field is not None:
            return check_known("field", field, self.values)
        size = {name: (value.dim() - 2 in (2, 3), value[0, 0].numel()) for name, value in self.values.items()}
        return max(size, key=lambda name: size[name])

    def save(self, path: str | Path, field: str | None = None) -> Path:
        """Write a .png, an animated .gif (a frame for each step), an .npz of all fields or a .csv of one.

        Raises:
            UserError: for another ending, or a gif of what is no picture.
        """
        path = path_of("path", path)
        return write(path, self.content(path.suffix.lower(), field))

    def content(self, ending: str, field: str | None = None) -> bytes:
        """What `save` writes into a file with this ending."""
        if ending in plots.DRAWN:
            return plots.to_bytes(self.figure(field), ending[1:])
        if ending == ".gif":
            return self._animated(self._chosen(field))
        if ending == ".npz":
            content = io.BytesIO()
            arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in self.values.items()}
            np.savez_compressed(content, **arrays, lines=np.array(self.lines), steps=np.array(self.steps))
            return content.getvalue()
        if ending == ".csv":
            return bytes(self.frame(field).to_csv(index=False, lineterminator="\n").encode())
        raise UserError(f"expected a file with the ending .png, .pdf, .svg, .gif, .npz or .csv, got {ending or 'none'}")

    def frame(self, field: str | None = None) -> Any:
        """One field as a DataFrame, a row for each line and step."""
        import pandas

        name = self._chosen(field)
        values = self.values[name].cpu()
        flat = values.reshape(len(self.lines) * len(self.steps), -1)
        columns = column_names(name, flat.shape[1], self.fields.get(name))
        places = {
            "line": [line for line in self.lines for _ in self.steps],
            "step": [step for _ in self.lines for step in self.steps],
        }
        return pandas.DataFrame(places | dict(zip(columns, flat.T.tolist(), strict=True)))

    def _animated(self, name: str) -> bytes:
        from PIL import Image

        values = self.values[name].cpu().float()
        if values.dim() - 2 not in (2, 3):
            raise UserError(f"a gif shows pictures, and field {name!r} has rows of shape {tuple(values.shape[2:])}")
        limits = limits_of(self.fields.get(name), values)
        frames: list[Any] = []
        for step in (*range(len(self.steps)), *range(len(self.steps) - 2, 0, -1)):
            figure = plots.samples(values[:, step], limits=limits, title=f"{self.axis} {self.steps[step]}")
            picture = Image.open(io.BytesIO(plots.to_png_bytes(figure))).convert("RGB")
            frames.append(picture.resize(frames[0].size) if frames else picture)
        content = io.BytesIO()
        frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=120, loop=0)
        return content.getvalue()


def limits_of(field: Field | None, values: Tensor) -> tuple[float, float] | None:
    """Black and white: the range of the field's kind, else that of the values."""
    if field is not None and field.kind in ("categorical", "count") and field.cardinality is not None:
        return 0.0, float(max(field.cardinality - 1, 1))
    if field is not None and field.kind in ("binary", "unit"):
        return 0.0, 1.0
    seen = values[torch.isfinite(values)]
    return (float(seen.min()), float(seen.max())) if len(seen) and seen.min() < seen.max() else None


def column_names(name: str, size: int, field: Field | None) -> list[str]:
    """What the entries of a field are called."""
    if field is not None and len(field.names) == size and field.kind != "categorical":
        return list(field.names)
    return [name] if size == 1 else [f"{name}[{i}]" for i in range(size)]
