"""What of a report moves: sliders for the latents, and the map of rows, as data for the page's script."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppl_vae.data import Field
from ppl_vae.plots.drawing import CLASSES, as_pixels
from ppl_vae.prediction.latents import Latents
from ppl_vae.priors import Diagonal, StandardNormal
from ppl_vae.reporting._album import flat, is_picture, limits_of, names_of
from ppl_vae.reporting._cards import number
from ppl_vae.reporting._html import Widget
from ppl_vae.reporting._network import Unsupported, network_of
from ppl_vae.reporting.view import View, response_of

__all__ = ["explorer", "row_map"]

Json = dict[str, Any]

BEGINNINGS, SLIDERS = 12, 32
"""Rows at which a reader may begin, and latents that have a slider."""

PIXELS, CELLS = 600_000, 40_000
"""So many pixels, or cells of a table, the map shows of its rows; of the others it shows names."""

CODES = 200_000
"""So many latents of rows the map holds, for the page to decode."""


def explorer(
    view: View, latents: Latents, shown: Sequence[int], row: int, steps: Tensor, moved: Tensor, titles: Sequence[str]
) -> Widget:
    """Sliders for these latents: the page decodes them where it can, else it shows steps that were decoded here.

    steps: in deviations of the prior; moved: E[x | z], [latent, step, *S], when each goes through them alone.
    """
    count = min(len(shown), SLIDERS)
    data: Json = {
        "site": latents.site,
        "names": list(titles[:count]),
        "order": list(shown[:count]),
        "centre": latents.centre.tolist(),
        "spread": latents.spread.tolist(),
        **_display(view),
    }
    rows = [row, *(i for i in range(min(len(view), BEGINNINGS)) if i != row)]
    try:
        network = network_of(view, latents, rows)
    except Unsupported as why:
        data |= {"span": float(steps[-1]), "steps": [round(s, 4) for s in steps.tolist()]}
        if is_picture(view):
            data["sprite"] = _sprite(view, moved[:count].flatten(0, 1), len(steps))
        else:
            data["values"] = [[_numbers(line) for line in flat(one)] for one in moved[:count]]
        words = (
            "**Move one latent.** The others stay where they are. These are steps that were decoded for this page, "
            f"which does not decode by itself: {why}."
        )
        return Widget("explorer", f"explorer-{latents.site}", data, words)
    prior = getattr(view.pair.model.public, "prior", None)
    begin = {"means": _floats(latents.mean[rows]), "names": [view.name(i) for i in rows]}
    alone = len(view.latents) == 1
    data |= {
        "span": 4,
        "network": network,
        "draws": alone and isinstance(prior, StandardNormal | Diagonal),
        "start": begin,
    }
    given = latents.site
    if (choice := network.get("choice")) is not None:
        begin["levels"] = view.levels(choice["name"])[rows].tolist()
        given += f", {choice['name']}"
    if not is_picture(view):
        data["columns"] = _with_shares(data["columns"], network, view)
    words = (
        f"**Move the latents.** The decoder is in this page, {_size(network)} numbers, and gives "
        f"E[x|{given}] for any of their values. Sliders are in standard deviations of the prior."
    )
    if choice is not None:
        words += f" Choose {choice['name']} beside them: the latents keep their place, and what a level makes is seen."
    return Widget("explorer", f"explorer-{latents.site}", data, words)


def row_map(view: View, latents: Latents, points: Tensor, told: Mapping[str, Tensor], words: str, move: bool) -> Widget:
    """The map of rows to point at; with `move`, the page's decoder shows what the model makes of a row."""
    response = response_of(view)
    data: Json = {
        "site": latents.site,
        "explorer": f"explorer-{latents.site}",
        "x": _numbers(points[:, 0]),
        "y": _numbers(points[:, 1]),
        "names": [f"{view.split} row {number}" for number in view.numbers],
        "told": {name: _numbers(values) for name, values in told.items()},
        "colours": list(CLASSES),
        "words": words,
    }
    if response is not None:
        data["values"] = _ranks(response[1])
    elif view.labels is not None and view.label is not None:
        names = view.label.names or [str(i) for i in range(view.label.cardinality or 2)]
        data |= {"labels": view.labels.tolist(), "classes": list(map(str, names))}
    if is_picture(view):
        if view.values.numel() <= PIXELS:
            across = int(np.ceil(np.sqrt(len(view))))
            data |= {"sprite": _sprite(view, view.values, across), "across": across, **_display(view)}
    elif view.values.numel() <= CELLS:
        data |= {"rows": [_numbers(line) for line in flat(view.values)], "columns": _display(view)["columns"]}
    if move and latents.mean.numel() <= CODES:
        data["means"] = _floats(latents.mean)
        if len(decoded := getattr(view.pair.model.public, "decoded", ())) > 1:
            data["levels"] = view.levels(next(n for n in decoded if n != latents.site)).tolist()
    said = "**Point at a row** to see it; a click keeps it"
    said += ", and a class in the legend can be left out." if "labels" in data else "."
    if response is not None:
        seen = response[1][response[1].isfinite()]
        low, high = (number(float(v)) for v in seen.quantile(torch.tensor([0.01, 0.99]))) if len(seen) else ("", "")
        said += f" Colour is {response[0]}, from violet ({low}) over green to orange ({high})."
    return Widget("map", f"map-{latents.site}", data, said)


def _display(view: View) -> Json:
    """How a mean is shown: as a picture, or as a line for each column."""
    if is_picture(view):
        shape = view.field.shape
        low, high = limits_of(view) or (0.0, 1.0)
        sides = {"height": shape[-2], "width": shape[-1], "channels": shape[0] if len(shape) == 3 else 1}
        return {"picture": {**sides, "limits": [low, high]}}
    values = flat(view.values).numpy()
    fields = _fields(view)
    columns = []
    for at, name in enumerate(names_of(view)):
        seen = values[:, at][np.isfinite(values[:, at])]
        low, high = np.quantile(seen, [0.01, 0.99]).tolist() if len(seen) else (0.0, 1.0)
        columns.append({"name": str(name), "at": at, "low": low, "high": high, "names": _categories(fields[at])})
    return {"columns": columns}


def _fields(view: View) -> list[Field | None]:
    """The field of every column that is shown; of entries of one field, none."""
    return list(view.columns) if view.columns else [None] * len(names_of(view))


def _categories(field: Field | None) -> list[str] | None:
    if field is None or field.kind != "categorical":
        return None
    return list(map(str, field.names or range(field.cardinality or 2)))


def _with_shares(columns: list[Json], network: Json, view: View) -> list[Json]:
    """The columns, each at its place among what the network says, where a category has the probability of each."""
    place, at = {}, 0
    for part in network["parts"]:
        for head in part["heads"]:
            place[head["field"]] = (at, head["op"] == "probabilities")
            at += head["width"] if head["op"] == "probabilities" else head["count"]
    if not view.columns:
        start = place[view.site][0]
        return [{**column, "at": start + column["at"]} for column in columns]
    found = []
    for field, column in zip(view.columns, columns, strict=True):
        begin, shares = place[field.name]
        ends = {"low": 0.0, "high": 1.0} if shares else {}
        found.append({**column, "at": begin, "shares": shares, **ends, "names": column["names"] if shares else None})
    return found


def _ranks(values: Tensor) -> list[float]:
    """Values between 0 and 1, by their place between the ends of the central 98 %."""
    seen = values[values.isfinite()]
    low, high = seen.quantile(torch.tensor([0.01, 0.99])).tolist() if len(seen) else (0.0, 1.0)
    return [round(v, 3) for v in ((values - low) / ((high - low) or 1.0)).nan_to_num(0.5).clamp(0, 1).tolist()]


def _sprite(view: View, pictures: Tensor, across: int) -> str:
    """Pictures [n, *S] side by side, `across` in a line, as a PNG in a data URI."""
    pixels = as_pixels("pictures", pictures, 1, limits_of(view) or (0.0, 1.0))
    count, height, width, _ = pixels.shape
    down = -(-count // across)
    sheet = np.ones((down * across, height, width, 3))
    sheet[:count] = pixels
    sheet = sheet.reshape(down, across, height, width, 3).swapaxes(1, 2).reshape(down * height, across * width, 3)
    image = Image.fromarray(np.round(255 * sheet).astype(np.uint8))
    grey = bool((sheet[..., 0] == sheet[..., 1]).all() and (sheet[..., 1] == sheet[..., 2]).all())
    buffer = io.BytesIO()
    (image.convert("L") if grey else image).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _numbers(values: Tensor) -> list[float | None]:
    """Four digits of each, None where it is no finite number."""
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in values.reshape(-1).tolist()]


def _floats(values: Tensor) -> str:
    return base64.b64encode(values.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes()).decode()


def _size(network: Json) -> str:
    texts = [v for p in network["parts"] for layer in [p["beside"] or {}, *p["layers"]] for v in layer.values()]
    return f"{sum(len(t) * 3 // 16 for t in texts if isinstance(t, str) and len(t) > 16):,}"
